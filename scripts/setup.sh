#!/usr/bin/env bash
# Installs what the project needs and this machine lacks: containers, uv, the Python environment.
# Safe to run again; quick when nothing is to do. Asks nothing.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly UV_VERSION=0.13.9
readonly PACKAGES=(podman buildah runc netavark aardvark-dns iptables debootstrap ca-certificates)

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

is_root() { [[ $EUID -eq 0 ]]; }
is_debian() { [[ -r /etc/debian_version ]] && command -v apt-get >/dev/null; }

apt_install() {
  is_debian || fail "missing here: $*. Install them with this system's package manager, then run this again."
  is_root || fail "missing here: $*. As root: apt-get install -y --no-install-recommends $*"
  say "installing $* (about half a minute)"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -q && apt-get install -y -q --no-install-recommends "$@"; } >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    fail "apt-get could not install $*"
  }
}

install_containers() {
  if is_debian; then
    local missing=() package
    for package in "${PACKAGES[@]}"; do
      [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    # Whoever is not root may have podman from elsewhere, and pulls images instead of building them.
    if ((${#missing[@]})) && { is_root || ! command -v podman >/dev/null; }; then apt_install "${missing[@]}"; fi
  else
    command -v podman >/dev/null || fail "podman is missing: install podman 4.3 or newer (https://podman.io), then run this again."
  fi
}

# A container of the host's own files: a probe that needs no image.
container_starts() { podman run --rm --network none --rootfs /:O true >"$log" 2>&1; }

fit_containers_to_host() {
  is_root && is_debian || return 0
  local drop_in=/etc/containers/containers.conf.d/50-banking-event-fleet.conf
  if [[ ! -e $drop_in ]] && ! container_starts; then
    say "containers do not start with podman's defaults here: installing $drop_in"
    install -D -m 644 config/podman/containers.conf "$drop_in"
    container_starts || { cat "$log" >&2; rm "$drop_in"; fail "podman cannot start a container on this host"; }
  fi
  # Bridges change their MAC address when containers stop; without this, DNS then stalls in the others.
  local arp_notify=/proc/sys/net/ipv4/conf/default/arp_notify
  if [[ $(<"$arp_notify") != 1 ]]; then echo 1 2>/dev/null >"$arp_notify" || true; fi
}

install_python_environment() {
  command -v python3 >/dev/null || apt_install python3 python3-venv
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer is needed; python3 is $(python3 -V 2>&1)"
  if [[ ! -x .tools/bin/uv || $(.tools/bin/uv --version) != "uv $UV_VERSION"* ]]; then
    python3 -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
    say "installing uv $UV_VERSION"
    python3 -m venv --clear .tools
    .tools/bin/python -m pip install -q --disable-pip-version-check "uv==$UV_VERSION"
  fi
  [[ -d .venv ]] || say "installing the Python environment (about a minute)"
  UV_PYTHON_DOWNLOADS=never .tools/bin/uv sync --quiet --frozen
}

link_podman_compose() {
  is_root && ! command -v podman-compose >/dev/null || return 0
  say "linking /usr/local/bin/podman-compose to this checkout's"
  ln -sf "$PWD/.venv/bin/podman-compose" /usr/local/bin/podman-compose
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
install_containers
fit_containers_to_host
install_python_environment
link_podman_compose
