#!/bin/bash
# Starts OpenSearch with the settings that the environment gives by their own names (cluster.name=…),
# as the official image does. Settings of plugins that this build lacks are dropped: unknown, they would be fatal.
set -euo pipefail

umask 0002

settings=()
while IFS='=' read -r -d '' name value; do
  [[ $name =~ ^[a-z0-9_]+\.[a-z0-9_.]+$ && -n $value ]] || continue
  [[ $name == plugins.security.* && ! -d $OPENSEARCH_HOME/plugins/opensearch-security ]] && continue
  settings+=("-E$name=$value")
done < <(env --null)

[[ ${1:-opensearch} == opensearch ]] || exec "$@"
shift || true
exec "$OPENSEARCH_HOME/bin/opensearch" "$@" "${settings[@]}"
