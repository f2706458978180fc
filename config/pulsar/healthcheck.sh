#!/bin/bash
# Asks Pulsar for its health: a message goes through the broker.
set -euo pipefail

readonly SECRETS=/run/secrets
options=(-sSf -m 8)
if [[ ${SECURED:-false} == true ]]; then
  # The broker's own token, which no argument shows.
  exec curl "${options[@]}" --cacert "$SECRETS/ca.pem" --config - https://localhost:8080/admin/v2/brokers/health \
    <<<"header = \"Authorization: Bearer $(<"$SECRETS/pulsar-token")\""
fi
exec curl "${options[@]}" http://localhost:8080/admin/v2/brokers/health
