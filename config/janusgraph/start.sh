#!/bin/bash
# Starts JanusGraph server as the container's first process, so that SIGTERM reaches it and the storage is closed.
#
# JANUSGRAPH_AFTER names another server of the graph that is to be ready first, where both start at once: of two that make
# tables and schema in an empty keyspace, one may end up neither ended nor ready.
# JANUSGRAPH_STORAGE is berkeleyje (in the server itself, the default) or cassandra. A variable such as
# janusgraph.storage.hostname=a,b,c sets that property of the graph, as in the official image.
# With SECURED=true it speaks TLS and wants the user fleet with its password; both come from /run/secrets.
set -euo pipefail

readonly CONFIG=/etc/opt/janusgraph SECRETS=/run/secrets STORAGE=${JANUSGRAPH_STORAGE:-berkeleyje}
readonly AFTER_SECONDS=180
readonly SERVER=/tmp/gremlin-server.yaml GRAPH=/tmp/janusgraph.properties

property() { sed -n "s/^${1//./\\.}=//p" "$GRAPH"; }

# Who may do what, and the server's certificate, in the words of gremlin-server.yaml.
secured() {
  cat <<YAML
authentication: {
  authenticator: org.janusgraph.graphdb.tinkerpop.gremlin.server.auth.JanusGraphSimpleAuthenticator,
  authenticationHandler: org.apache.tinkerpop.gremlin.server.handler.SaslAndHttpBasicAuthenticationHandler,
  config: {
    defaultUsername: fleet,
    defaultPassword: "$(<$SECRETS/janusgraph-password)",
    credentialsDb: /tmp/credentials.properties
  }
}
ssl: {
  enabled: true,
  keyStore: $SECRETS/keystore.p12,
  keyStorePassword: "$(<$SECRETS/keystore-password)",
  keyStoreType: PKCS12,
  sslEnabledProtocols: [TLSv1.2, TLSv1.3]
}
YAML
}

# Whether one of the hosts in storage.hostname listens.
cassandra_answers() {
  local host port
  port=$(property storage.port)
  for host in $(property storage.hostname | tr ',' ' '); do
    if [[ $host != *:* ]]; then host+=:${port:-9042}; fi
    if timeout 5 bash -c "exec 3<>/dev/tcp/${host%:*}/${host##*:}" 2>/dev/null; then return 0; fi
  done
  return 1
}

umask 077
options=()
case $STORAGE in
  berkeleyje) ;;
  cassandra)
    # JanusGraph writes edge ids as text with this between their parts, and so takes no vertex id that holds it. Ids of
    # entities may hold any visible character: all that is left is the space.
    options+=('-DJANUSGRAPH_RELATION_DELIMITER= ')
    ;;
  *) echo "JANUSGRAPH_STORAGE: expected berkeleyje or cassandra, got $STORAGE" >&2; exit 64 ;;
esac
sed "s|$CONFIG/janusgraph-berkeleyje.properties|$GRAPH|" "$CONFIG/gremlin-server.yaml" >"$SERVER"
cp "$CONFIG/janusgraph-$STORAGE.properties" "$GRAPH"
if [[ ${SECURED:-false} == true ]]; then
  secured >>"$SERVER"
  # The user is made of the secrets at each start and kept in memory, so that a changed password is the password.
  rm -rf /tmp/credentials
  cat >/tmp/credentials.properties <<PROPERTIES
gremlin.graph=org.janusgraph.core.JanusGraphFactory
graph.graphname=credentials
storage.backend=berkeleyje
storage.directory=/tmp/credentials
storage.berkeleyje.cache-percentage=1
storage.berkeleyje.ext.je.freeDisk=0
PROPERTIES
fi
while IFS='=' read -r -d '' name value; do
  [[ $name == janusgraph.* ]] || continue
  property=${name#janusgraph.}
  sed -i "/^${property//./\\.}=/d" "$GRAPH"
  printf '%s=%s\n' "$property" "$value" >>"$GRAPH"
done < <(env --null)

# JanusGraph would give up after a while, and start anew from the beginning.
if [[ $STORAGE == cassandra ]]; then
  trap 'exit 143' TERM
  until cassandra_answers; do sleep 1; done
  if [[ -n ${JANUSGRAPH_AFTER:-} ]]; then
    # One that has been away for so long has made the schema before, or never will.
    deadline=$((SECONDS + AFTER_SECONDS))
    until timeout 10 bash "$CONFIG/healthcheck.sh" "$JANUSGRAPH_AFTER" 2>/dev/null || ((SECONDS > deadline)); do sleep 1; done
  fi
  trap - TERM
fi

packages=(java.lang java.util java.io java.net java.nio java.time)
options+=(--add-opens=java.base/sun.nio.ch=ALL-UNNAMED)
for package in "${packages[@]}"; do options+=("--add-opens=java.base/$package=ALL-UNNAMED"); done

# shellcheck disable=SC2086 # JAVA_OPTIONS holds several words
exec java ${JAVA_OPTIONS:-} "${options[@]}" \
  -Dlogback.configurationFile="$CONFIG/logback.xml" \
  -cp '/opt/janusgraph/lib/*' \
  org.janusgraph.graphdb.server.JanusGraphServer "$SERVER"
