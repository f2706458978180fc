#!/bin/bash
# Starts Pulsar standalone with two listeners: other containers connect to pulsar:6650,
# programs on the host to localhost:$PULSAR_PORT, which is port 6651 in here.
# With SECURED=true both speak TLS and want a token; see secure.conf.
set -euo pipefail

readonly CONFIG=/etc/banking/pulsar
ours=("$CONFIG/standalone.conf") scheme=pulsar
if [[ ${SECURED:-false} == true ]]; then
  ours+=("$CONFIG/secure.conf")
  scheme=pulsar+ssl
fi

# A key must not appear twice: some of Pulsar's readers take the last, others make a list of both.
keys=$(cat "${ours[@]}" | grep -oE '^[A-Za-z_]+=' | paste -sd "|" -)
{
  grep -vE "^(${keys}|internalListenerName=|bindAddresses=|advertisedListeners=)" conf/standalone.conf
  echo
  cat "${ours[@]}"
  echo "internalListenerName=internal"
  echo "bindAddresses=external:$scheme://0.0.0.0:6651"
  echo "advertisedListeners=internal:$scheme://pulsar:6650,external:$scheme://localhost:$PULSAR_PORT"
} >/tmp/standalone.conf
export PULSAR_STANDALONE_CONF=/tmp/standalone.conf

# BookKeeper writes on after a write that found no room, but at the wrong places: what it had acknowledged cannot be read
# then. Killed before that, it has everything in its journal; so it is, and room for what it holds in memory is waited for.
readonly ROOM_MEGABYTES=512
has_room() { (($(df -Pk data | awk 'NR == 2 { print int($4 / 1024) }') >= ROOM_MEGABYTES)); }
trap 'exit 143' TERM
until has_room; do
  echo "less than $ROOM_MEGABYTES MB are free in $PWD/data: waiting for room"
  sleep 5
done

# A write that found no room may have written a part. What is missing of that record, which nobody was told is stored, reads
# as the zeros that the journal was made of, and BookKeeper takes it for whole: it then cannot open that record's ledger, nor
# Pulsar the topic. Where the file ends with what was written, BookKeeper sees that the record is cut off, and leaves it away.
readonly PAGE_BYTES=4096  # a disk has room for a page or it has not
cut_off_zeros() {
  local file=$1 low=0 middle high size
  size=$(stat -c %s "$file")
  high=$(((size + PAGE_BYTES - 1) / PAGE_BYTES))
  while ((low < high)); do
    middle=$(((low + high) / 2))
    if (($(tail -c +$((middle * PAGE_BYTES + 1)) "$file" | tr -d '\0' | head -c 1 | wc -c))); then
      low=$((middle + 1))
    else
      high=$middle
    fi
  done
  if ((low * PAGE_BYTES < size)); then truncate -s $((low * PAGE_BYTES)) "$file"; fi
}
# Every record that was acknowledged is followed by a padding that does not begin with a zero.
for journal in data/standalone/bookkeeper/current/*.txn; do
  if [[ -f $journal ]]; then cut_off_zeros "$journal"; fi
done

# A flush that finds no room fails, but keeps what it was to write from the next flush, which BookKeeper makes as it ends: that
# one finds nothing to do, and marks the journal as flushed. To replay what is in the ledgers already changes nothing, so that
# every start begins with the journal before the marked one: a flush is due each minute, and a journal lasts for longer.
readonly MARK=data/standalone/bookkeeper/current/lastMark
mark_earlier() {
  local mark=$1 marked before=0 journal id
  marked=$((16#$(od -An -v -tx1 -N8 "$mark" | tr -d ' \n')))
  for journal in "${mark%/*}"/*.txn; do
    id=${journal##*/} id=$((16#${id%.txn}))
    if ((before < id && id < marked)); then before=$id; fi
  done
  # shellcheck disable=SC2059 # the bytes in printf's words: the journal's number, and its first byte
  printf "$(printf '%016x%016x' "$((before ? before : marked))" 0 | sed 's/../\\x&/g')" >"$mark.new"
  mv "$mark.new" "$mark"
}
if [[ -s $MARK ]]; then mark_earlier "$MARK"; fi

# After a crash Pulsar can take its own new registration of the bookie for a lost one, drop and renew it for ever
# (apache/pulsar issue 17759), and finds no bookie in between. An orderly stop ends that: the restart finds nothing left over.
watch() {
  local ends=0
  awk '/No space left on device/ { exit 9 }
       /ResourceLockImpl - Lock on resource .* was invalidated/ && ++lost == 500 { exit 15 }' || ends=$?
  if ((ends)); then kill "-$ends" "$1"; fi
  exec cat >/dev/null
}

run() {
  local server=$BASHPID
  exec bin/pulsar standalone --no-functions-worker --no-stream-storage > >(tee >(watch "$server"))
}

# Pulsar is not the container's first process, which nobody in it could kill.
run &
server=$!
trap 'kill -TERM "$server"' TERM
until wait "$server"; do
  status=$?
  if ! kill -0 "$server" 2>/dev/null; then exit "$status"; fi
done
