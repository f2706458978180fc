#!/bin/bash
# Runs a query on this server, or on the one that is named: the port opens also when the script engine behind it has failed.
set -euo pipefail

readonly QUERY='/?gremlin=writer.check()' SECRETS=/run/secrets HOST=${1:-localhost}
if [[ ${SECURED:-false} == true ]]; then
  # No argument shows the password.
  exec curl -sSfg -o /dev/null --cacert "$SECRETS/ca.pem" --config - "https://$HOST:8182$QUERY" \
    <<<"user = \"fleet:$(<"$SECRETS/janusgraph-password")\""
fi
exec 3<>"/dev/tcp/$HOST/8182"
printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$QUERY" >&3
head -n 1 <&3 | grep -q ' 200 '
