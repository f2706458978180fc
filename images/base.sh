#!/usr/bin/env bash
# Makes a Debian image from Debian's packages, for machines that cannot pull one.
#
# Usage: base.sh bookworm|trixie IMAGE
#
# The host's own CA certificates go into it, so that apt, pip, uv and mvn work unmodified in every build on it.
set -euo pipefail

suite=$1
image=$2

root=$(mktemp -d "/var/tmp/banking-$suite.XXXXXX")
trap 'rm -rf "$root"' EXIT

debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" >"$root.log" 2>&1 ||
  { tail -n 20 "$root.log" >&2; exit 1; }
rm -f "$root.log"

cat >"$root/etc/apt/sources.list" <<LIST
deb http://deb.debian.org/debian $suite main
deb http://deb.debian.org/debian $suite-updates main
deb http://deb.debian.org/debian-security $suite-security main
LIST
# What the official images do too: no recommended packages, no documentation, no package cache kept.
cat >"$root/etc/apt/apt.conf.d/90slim" <<CONF
APT::Install-Recommends "false";
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };
Acquire::Languages "none";
CONF
cat >"$root/etc/dpkg/dpkg.cfg.d/90slim" <<CONF
path-exclude /usr/share/doc/*
path-exclude /usr/share/man/*
path-exclude /usr/share/locale/*
CONF

find /usr/local/share/ca-certificates -name '*.crt' -exec cp -t "$root/usr/local/share/ca-certificates/" {} + 2>/dev/null || true
chroot "$root" update-ca-certificates >/dev/null 2>&1
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$root/etc/pip.conf"

rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
mkdir -p "$root"/usr/share/man/man{1..8} # packages' install scripts link into these folders
tar -C "$root" --numeric-owner -c . | podman import -q \
  --change 'ENV LANG=C.UTF-8' \
  --change 'ENV DEBIAN_FRONTEND=noninteractive' \
  --change 'ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt' \
  --change 'CMD ["/bin/bash"]' \
  - "$image" >/dev/null
