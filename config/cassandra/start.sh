#!/bin/bash
# Starts Cassandra as the container's first process, so that SIGTERM reaches it.
set -euo pipefail

exports=(
  java.base/java.lang.ref java.base/jdk.internal.misc java.base/jdk.internal.ref java.base/sun.nio.ch
  java.management.rmi/com.sun.jmx.remote.internal.rmi java.management/com.sun.jmx.remote.security
  java.rmi/sun.rmi.registry java.rmi/sun.rmi.server java.rmi/sun.rmi.transport.tcp java.sql/java.sql
  jdk.attach/sun.tools.attach jdk.compiler/com.sun.tools.javac.file
)
opens=(
  java.base/java.io java.base/java.lang java.base/java.lang.module java.base/java.lang.reflect java.base/java.math
  java.base/java.net java.base/java.nio java.base/java.util java.base/java.util.concurrent
  java.base/java.util.concurrent.atomic java.base/jdk.internal.loader java.base/jdk.internal.math
  java.base/jdk.internal.module java.base/jdk.internal.ref java.base/jdk.internal.reflect
  java.base/jdk.internal.util.jar java.base/jdk.internal.vm java.base/sun.nio.ch
  jdk.management/com.sun.management.internal
)
modules=()
for name in "${exports[@]}"; do modules+=("--add-exports=$name=ALL-UNNAMED"); done
for name in "${opens[@]}"; do modules+=("--add-opens=$name=ALL-UNNAMED"); done

# A single node has nobody to wait for: the last two make it start some 40 s sooner.
# shellcheck disable=SC2086 # JAVA_OPTIONS holds several words
exec java ${JAVA_OPTIONS:-} -XX:+UseG1GC -XX:+ExitOnOutOfMemoryError -Djdk.attach.allowAttachSelf=true "${modules[@]}" \
  -Dcassandra-foreground=yes \
  -Dcassandra.config=file:///etc/banking/cassandra/cassandra.yaml \
  -Dcassandra.storagedir=/var/lib/cassandra \
  -Dcassandra.logdir=/tmp \
  -Dlogback.configurationFile=file:///etc/banking/cassandra/logback.xml \
  -Dcassandra.skip_wait_for_gossip_to_settle=0 \
  -Dcassandra.ring_delay_ms=1 \
  -cp '/opt/cassandra/lib/*' \
  org.apache.cassandra.service.CassandraDaemon
