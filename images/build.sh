#!/usr/bin/env bash
# Provides the images that the fleet stands on and names them in config/compose/.env, which podman-compose reads.
#
# Usage: build.sh [cassandra] [nginx]
#
# Cassandra and nginx are provided when they are asked for: a fleet with that back end needs the one, a secured one the
# other.
#
# One quick try to reach the registry of the official images; where it fails, they are built from Debian's packages
# and Maven Central, laid out alike. What is there already and unchanged is neither pulled nor built again.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"

# One at a time: a second call waits for the first, and then finds what it wants there.
if command -v flock >/dev/null; then
  exec {lock}<.
  flock "$lock"
fi

readonly ENV_FILE=../config/compose/.env
readonly REGISTRY_TIMEOUT_SECONDS=15
readonly PULL_TIMEOUT_SECONDS=900

readonly NAMES=(pulsar janusgraph opensearch prometheus python cassandra nginx)
readonly WANTED=(pulsar janusgraph opensearch prometheus python "$@")
declare -rA OFFICIAL=(
  [pulsar]=docker.io/apachepulsar/pulsar:4.0.8
  [janusgraph]=docker.io/janusgraph/janusgraph:1.1.0
  [opensearch]=docker.io/opensearchproject/opensearch:3.6.0
  [prometheus]=docker.io/prom/prometheus:v2.53.3
  [python]=docker.io/library/python:3.13-slim-trixie
  [cassandra]=docker.io/library/cassandra:5.0.4
  [nginx]=docker.io/library/nginx:1.28.0
)
# The folders here that a stand-in is built from.
declare -rA SOURCES=(
  [bookworm]="base.sh"
  [trixie]="base.sh"
  [java17]="base.sh java17"
  [maven]="base.sh java17 maven"
  [pulsar]="base.sh java17 maven pulsar"
  [janusgraph]="base.sh java17 maven janusgraph"
  [opensearch]="base.sh java17 maven opensearch"
  [prometheus]="base.sh prometheus"
  [python]="base.sh python"
  [cassandra]="base.sh java17 maven cassandra"
  [nginx]="base.sh nginx"
)

say() { printf 'images: %s\n' "$*"; }
fail() { printf 'images: %s\n' "$*" >&2; exit 1; }

have() { podman image exists "$1"; }

# have_wanted ARRAY: whether that array's image of each wanted name is there.
have_wanted() {
  local -n images=$1
  local name
  for name in "${WANTED[@]}"; do have "${images[$name]}" || return 1; done
}

is_wanted() { [[ " ${WANTED[*]} " == *" $1 "* ]]; }

# A stand-in's tag is a hash of its sources, so that an unchanged one is found and a changed one is built.
declare -A STAND_IN
for name in "${!SOURCES[@]}"; do
  # shellcheck disable=SC2086 # several folders
  STAND_IN[$name]=localhost/banking/$name:$(find ${SOURCES[$name]} -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c 1-12)
done

# build NAME COMMAND…: runs the command unless the stand-in is there, and shows its output only when it fails.
build() {
  local name=$1 log started=$SECONDS
  ! have "${STAND_IN[$name]}" || return 0
  log=$(mktemp)
  if "${@:2}" >"$log" 2>&1; then
    rm -f "$log"
    say "$name is built ($((SECONDS - started)) s)"
  else
    tail -n 40 "$log" >&2
    rm -f "$log"
    fail "$name could not be built"
  fi
}

debian() { build "$1" ./base.sh "$1" "${STAND_IN[$1]}"; }

# The folder's Dockerfile is given every stand-in below it by name (MAVEN, JAVA17, TRIXIE, …).
folder() {
  local name=$1 arguments=() parent
  for parent in bookworm trixie java17 maven; do arguments+=(--build-arg "${parent^^}=${STAND_IN[$parent]}"); done
  build "$name" podman build --layers=false --tag "${STAND_IN[$name]}" "${arguments[@]}" "$name"
}

wait_for_both() {
  local job failed=0
  for job in $(jobs -p); do wait "$job" || failed=1; done
  ((failed == 0)) || exit 1
}

build_stand_ins() {
  [[ $EUID -eq 0 ]] && command -v debootstrap >/dev/null ||
    fail "no registry can be reached, and building the images from packages needs root and debootstrap"
  say "no registry can be reached: building from packages (about four minutes the first time)"
  # Two at a time: there may be no more cores.
  debian bookworm & debian trixie &
  wait_for_both
  (folder java17 && folder maven) & (folder python && folder prometheus) &
  wait_for_both
  (folder pulsar && folder janusgraph) & folder opensearch &
  wait_for_both
  ! is_wanted cassandra || folder cassandra
  ! is_wanted nginx || folder nginx
}

registry_answers() {
  timeout "$REGISTRY_TIMEOUT_SECONDS" podman manifest inspect "docker://${OFFICIAL[python]}" >/dev/null 2>&1
}

pull_official() {
  local name
  for name in "${WANTED[@]}"; do
    have "${OFFICIAL[$name]}" || { say "pulling ${OFFICIAL[$name]}" && timeout "$PULL_TIMEOUT_SECONDS" podman pull -q "${OFFICIAL[$name]}" >/dev/null; } || return 1
  done
}

# write_env ARRAY: NAME_IMAGE=… for each; left alone when nothing changes.
write_env() {
  local -n images=$1
  local name
  for name in "${NAMES[@]}"; do printf '%s_IMAGE=%s\n' "${name^^}" "${images[$name]}"; done >"$ENV_FILE.new"
  if cmp -s "$ENV_FILE.new" "$ENV_FILE"; then rm "$ENV_FILE.new"; else mv "$ENV_FILE.new" "$ENV_FILE"; fi
}

if have_wanted OFFICIAL; then
  write_env OFFICIAL
elif have_wanted STAND_IN; then
  write_env STAND_IN
elif registry_answers && pull_official; then
  write_env OFFICIAL
else
  build_stand_ins
  write_env STAND_IN
fi
