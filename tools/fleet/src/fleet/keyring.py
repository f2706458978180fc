"""The secrets of a secured stack: made once, renewed before they end, and laid out as one folder a container.

`source/` holds what there is to keep secret, one file each: whoever replaces a file there, or removes it to have a new
one made, changes it for everybody. What a container is given is derived from it, and is never read back:

    source/      ca.key ca.pem  NAME.key NAME.pem  tokens.key ROLE.token  USER.password  api-keys
    operator/    what the fleet's own commands on the host use
    SERVICE/     mounted into that service's container at /run/secrets, readable by its user alone
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import subprocess
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from banking.streaming.access import DLQ_ROLE, LEG_ROLES, PRODUCER_ROLE
from banking.streaming.sink import Leg
from fleet.certificates import Identity, make_authority, make_server, public_der
from fleet.tokens import expiry_of, make_signing_key, make_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

RENEW_BEFORE = timedelta(days=30)
"""Certificates and tokens that end sooner are made anew."""

OPERATOR = "operator"
GRAPH_USER = "fleet"
"""Gremlin Server knows one user."""
SEARCH_USERS = ("vector_consumer", OPERATOR)

SERVERS = ("pulsar", "janusgraph", "opensearch-gate")
"""Who has a certificate; the name is the service's, and so its host name."""

_PASSWORD = re.compile(r"[A-Za-z0-9._~+/=-]{16,}")
_LOCAL_NAMES = ("localhost", "127.0.0.1")

ROLES = {
    "pulsar": "broker",
    "pulsar-cli": OPERATOR,
    "provisioner": "provisioner",
    "prometheus": "prometheus",
    "producer": PRODUCER_ROLE,
    "graph_consumer": LEG_ROLES[Leg.GRAPH],
    "vector_consumer": LEG_ROLES[Leg.VECTOR],
    "dlq_worker": DLQ_ROLE,
    # It reads everything, the policies of the namespace too.
    "verify": OPERATOR,
}
"""The role on the broker by service. `broker`, `operator` and `provisioner` are superusers (`config/pulsar`)."""

USERS = {
    "pulsar": 10000,
    "pulsar-cli": 10000,
    "janusgraph": 999,
    "opensearch-gate": 10001,
    "prometheus": 65534,
    "provisioner": 10001,
    "producer": 10001,
    "graph_consumer": 10001,
    "vector_consumer": 10001,
    "dlq_worker": 10001,
    "verify": 10001,
}
"""The user that each container runs as."""

_SOURCE_MODE = 0o600
_OWNERS_ONLY = 0o700
_CONTAINER_MODE = 0o400


class KeyringError(Exception):
    """A secret that is wrong or cannot be made; the message names the file."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """When a certificate or token ends, in UTC, and whether it is time to replace one that is not made here."""

    file: str
    ends: datetime
    is_soon: bool = False


class Keyring:
    """The folder of a stack's secrets.

    Args:
        folder: It is made where it is missing, for its owner alone.
        give: Gives files to a container's user; by default as podman needs it, with root or without.
        now: The time, in UTC.
    """

    def __init__(
        self,
        folder: Path,
        *,
        give: Callable[[int, Sequence[Path]], None] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.folder = folder
        self._source = folder / "source"
        self._give = give or give_to_container_user
        self._now = now

    @property
    def operator(self) -> Path:
        """What the fleet's own commands use."""
        return self.folder / OPERATOR

    def ensure(self) -> list[Expiry]:
        """Make what is missing or ends soon, lay it out, and say when things end. Nothing else changes.

        Raises:
            KeyringError: A file that was put there by hand does not fit.
        """
        for folder in (self.folder, self._source, self.operator):
            folder.mkdir(mode=_OWNERS_ONLY, parents=True, exist_ok=True)
        expiries = [*self._ensure_certificates(), *self._ensure_tokens()]
        for name in ("keystore", *(f"{user}.{place}" for user, place in self._users())):
            self._ensure_random(f"{name}.password")
        self._ensure_random("api-keys")
        self._lay_out()
        told = [replace(expiry, is_soon=self._ends_soon(expiry.ends)) for expiry in expiries]
        return sorted(told, key=lambda expiry: expiry.ends)

    def _users(self) -> list[tuple[str, str]]:
        return [(GRAPH_USER, "janusgraph"), *((user, "opensearch") for user in SEARCH_USERS)]

    def _ensure_certificates(self) -> Iterable[Expiry]:
        if not self._has("ca.pem"):
            self._keep_identity("ca", make_authority(self._now()))
        authority = self._read("ca.pem")
        # Without its key the authority is somebody else's, and so are the certificates.
        signer = Identity(authority, self._read("ca.key")) if self._has("ca.key") else None
        yield Expiry("ca.pem", Identity(authority, b"").expires)
        for server in SERVERS:
            names = (server, *_LOCAL_NAMES)
            identity = self._identity(server)
            good = identity is not None and identity.is_issued_by(authority) and identity.covers(names)
            if signer is not None and (identity is None or not good or self._ends_soon(identity.expires)):
                identity = make_server(signer, names, self._now())
                self._keep_identity(server, identity)
            elif identity is None or not good:
                raise KeyringError(
                    f"{self._source / server}.pem: expected a certificate for {', '.join(names)}, signed by ca.pem "
                    "(whose key is not here), and its key beside it"
                )
            yield Expiry(f"{server}.pem", identity.expires)

    def _ensure_tokens(self) -> Iterable[Expiry]:
        if not self._has("tokens.key"):
            self._keep("tokens.key", make_signing_key())
        key = self._read("tokens.key")
        for role in dict.fromkeys(ROLES.values()):
            name = f"{role}.token"
            ends = expiry_of(key, role, self._text(name)) if self._has(name) else None
            if ends is None or self._ends_soon(ends):
                self._keep(name, make_token(key, role, self._now()).encode())
                ends = expiry_of(key, role, self._text(name))
            if ends is not None:
                yield Expiry(name, ends)

    def _ensure_random(self, name: str) -> None:
        if not self._has(name):
            self._keep(name, f"{secrets.token_urlsafe(32)}\n".encode())
        elif name.endswith(".password") and _PASSWORD.fullmatch(self._text(name)) is None:
            # It is written into configuration files, whose quoting is of several kinds.
            raise KeyringError(f"{self._source / name}: expected 16 characters or more of A-Z a-z 0-9 . _ ~ + / = -")

    def _lay_out(self) -> None:
        """Derive every container's folder, and the operator's."""
        layout = _Layout(self.folder, self._give)
        ca = self._read("ca.pem")
        for service, role in ROLES.items():
            layout.add(service, "ca.pem", ca)
            layout.add(service, "pulsar-token", self._read(f"{role}.token"))
        for server in SERVERS:
            layout.add(server, "ca.pem", ca)
        for server in ("pulsar", "opensearch-gate"):
            layout.add(server, "server.pem", self._read(f"{server}.pem"))
            layout.add(server, "server.key", self._read(f"{server}.key"))
        layout.add("pulsar", "tokens-public.der", public_der(self._read("tokens.key")))

        graph_password = self._read(f"{GRAPH_USER}.janusgraph.password")
        store_password = self._read("keystore.password")
        identity = Identity(self._read("janusgraph.pem"), self._read("janusgraph.key"))
        sources = (identity.certificate, identity.key, store_password)
        password = store_password.decode().strip()
        layout.add("janusgraph", "keystore.p12", *sources, make=lambda: identity.as_pkcs12(password))
        layout.add("janusgraph", "keystore-password", store_password)
        for place in ("janusgraph", "graph_consumer", "verify"):
            layout.add(place, "janusgraph-password", graph_password)

        passwords = {user: self._read(f"{user}.opensearch.password") for user in SEARCH_USERS}
        layout.add("opensearch-gate", "users", *passwords.values(), make=lambda: password_file(passwords))
        layout.add("vector_consumer", "opensearch-password", passwords["vector_consumer"])
        layout.add("verify", "opensearch-password", passwords[OPERATOR])
        layout.add("producer", "api-keys", self._read("api-keys"))
        layout.finish()

        # Not a container's: its files belong to whoever runs the commands.
        for name, data in {
            "ca.pem": ca,
            "pulsar-token": self._read(f"{OPERATOR}.token"),
            "janusgraph-password": graph_password,
            "opensearch-password": passwords[OPERATOR],
            "api-key": self._first_api_key(),
        }.items():
            _write_if_changed(self.operator / name, data, _SOURCE_MODE)

    def _first_api_key(self) -> bytes:
        keys = [line.strip() for line in self._text("api-keys").splitlines()]
        key = next((key for key in keys if key and not key.startswith("#")), None)
        if key is None:
            raise KeyringError(f"{self._source / 'api-keys'}: holds no key")
        return key.encode()

    def _ends_soon(self, ends: datetime) -> bool:
        return ends - self._now() < RENEW_BEFORE

    def _identity(self, name: str) -> Identity | None:
        if not (self._has(f"{name}.pem") and self._has(f"{name}.key")):
            return None
        return Identity(self._read(f"{name}.pem"), self._read(f"{name}.key"))

    def _keep_identity(self, name: str, identity: Identity) -> None:
        self._keep(f"{name}.key", identity.key)
        self._keep(f"{name}.pem", identity.certificate)

    def _has(self, name: str) -> bool:
        return (self._source / name).is_file()

    def _read(self, name: str) -> bytes:
        return (self._source / name).read_bytes()

    def _text(self, name: str) -> str:
        return self._read(name).decode().strip()

    def _keep(self, name: str, data: bytes) -> None:
        _write_if_changed(self._source / name, data, _SOURCE_MODE)


class _Layout:
    """Writes the containers' folders. A list says what each file was made of: it may be unreadable from here."""

    def __init__(self, folder: Path, give: Callable[[int, Sequence[Path]], None]) -> None:
        self._folder = folder
        self._give = give
        self._list = folder / "layout.json"
        self._made: dict[str, str] = json.loads(self._list.read_text()) if self._list.is_file() else {}

    def add(self, service: str, name: str, *sources: bytes, make: Callable[[], bytes] | None = None) -> None:
        """A file of a container: its only source, or what is made of several; written when a source has changed."""
        place = f"{service}/{name}"
        path = self._folder / service / name
        digest = hashlib.sha256(b"\0".join(hashlib.sha256(source).digest() for source in sources)).hexdigest()
        if self._made.get(place) == digest and path.is_file():
            return
        # Listing a container's folder is no harm: the folder above it is its owner's alone.
        path.parent.mkdir(mode=0o755, exist_ok=True)
        new = path.with_name(f".{name}.new")
        _write(new, sources[0] if make is None else make(), _CONTAINER_MODE)
        self._give(USERS[service], [new])
        new.replace(path)
        self._made[place] = digest

    def finish(self) -> None:
        """Write the list."""
        _write_if_changed(self._list, json.dumps(self._made, indent=1, sort_keys=True).encode(), _SOURCE_MODE)


def give_to_container_user(user: int, files: Sequence[Path]) -> None:
    """Make files a container user's own: podman has the host's numbers when root runs it, and maps them otherwise."""
    if os.geteuid() == 0:
        for file in files:
            os.chown(file, user, user)
        return
    command = ["podman", "unshare", "chown", f"{user}:{user}", *map(str, files)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)  # noqa: S603 - no shell
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as error:
        raise KeyringError(f"{' '.join(command)}: {error}") from error


def password_file(passwords: dict[str, bytes]) -> bytes:
    """Users and passwords as nginx reads them: salted hashes.

    The hash is a quick one, since it is computed at every request: good enough for what was made at random, and 256
    bits long. A password that a person chose would need a slow one, as `openssl passwd -6` makes it.
    """
    lines = []
    for user, password in passwords.items():
        salt = secrets.token_bytes(16)
        digest = hashlib.sha1(password.strip() + salt).digest()  # noqa: S324 - see above
        lines.append(f"{user}:{{SSHA}}{base64.b64encode(digest + salt).decode()}\n")
    return "".join(lines).encode()


def _write_if_changed(path: Path, data: bytes, mode: int) -> None:
    if path.is_file() and path.read_bytes() == data:
        path.chmod(mode)
        return
    new = path.with_name(f".{path.name}.new")
    _write(new, data, mode)
    new.replace(path)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Write a file that nobody else can read at any moment."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    path.chmod(mode)
