#!/bin/bash
# Starts Pulsar standalone with two listeners: other containers connect to pulsar:6650,
# programs on the host to localhost:$PULSAR_PORT, which is port 6651 in here.
set -euo pipefail

# A key must not appear twice: some of Pulsar's readers take the last, others make a list of both.
ours=$(grep -oE '^[A-Za-z_]+=' /etc/banking/pulsar/standalone.conf | paste -sd "|" -)
{
  grep -vE "^(${ours}|internalListenerName=|bindAddresses=|advertisedListeners=)" conf/standalone.conf
  echo
  cat /etc/banking/pulsar/standalone.conf
  echo "internalListenerName=internal"
  echo "bindAddresses=external:pulsar://0.0.0.0:6651"
  echo "advertisedListeners=internal:pulsar://pulsar:6650,external:pulsar://localhost:$PULSAR_PORT"
} >/tmp/standalone.conf
export PULSAR_STANDALONE_CONF=/tmp/standalone.conf

exec bin/pulsar standalone --no-functions-worker --no-stream-storage
