#!/bin/bash
# Starts JanusGraph server as the container's first process, so that SIGTERM reaches it and the storage is closed.
set -euo pipefail

packages=(java.lang java.util java.io java.net java.nio java.time)
opens=(--add-opens=java.base/sun.nio.ch=ALL-UNNAMED)
for package in "${packages[@]}"; do opens+=("--add-opens=java.base/$package=ALL-UNNAMED"); done

# shellcheck disable=SC2086 # JAVA_OPTIONS holds several words
exec java ${JAVA_OPTIONS:-} "${opens[@]}" \
  -Dlogback.configurationFile=/etc/opt/janusgraph/logback.xml \
  -cp '/opt/janusgraph/lib/*' \
  org.janusgraph.graphdb.server.JanusGraphServer /etc/opt/janusgraph/gremlin-server.yaml
