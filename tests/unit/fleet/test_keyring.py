"""The secrets of a secured stack: made once, renewed in time, laid out for each container, and never made over."""

from __future__ import annotations

import base64
import hashlib
import shutil
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key, pkcs12
from joserfc import jwt
from joserfc.jwk import RSAKey

from banking.streaming.access import RIGHTS
from fleet import keyring as keyring_module
from fleet.certificates import make_authority, make_server
from fleet.keyring import ROLES, SERVERS, USERS, Keyring, KeyringError, give_to_container_user
from fleet.tokens import expiry_of, make_signing_key, make_token


class Clock:
    """A time that a test moves."""

    def __init__(self):
        self.now = datetime.now(UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def given():
    """To whom which files were given."""
    return []


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A keyring as it is made first; tests work on copies."""
    folder = tmp_path_factory.mktemp("keyring") / "secrets"
    Keyring(folder, give=lambda _user, _files: None).ensure()
    return folder


@pytest.fixture
def keyring(tmp_path, made, clock, given):
    folder = tmp_path / "secrets"
    shutil.copytree(made, folder)
    return Keyring(folder, give=lambda user, files: given.append((user, [file.name for file in files])), now=clock)


def contents(keyring):
    files = (file for file in keyring.folder.rglob("*") if file.is_file())
    return {str(file.relative_to(keyring.folder)): file.read_bytes() for file in files}


def changed(keyring, before):
    after = contents(keyring)
    assert after.keys() == before.keys()
    return {name for name in after if after[name] != before[name]}


def test_what_is_there_is_left_alone(keyring, given):
    before = contents(keyring)
    expiries = keyring.ensure()
    assert changed(keyring, before) == set()
    assert given == []
    assert [expiry.ends for expiry in expiries] == sorted(expiry.ends for expiry in expiries)
    assert {expiry.file for expiry in expiries} == {
        "ca.pem",
        *(f"{server}.pem" for server in SERVERS),
        *(f"{role}.token" for role in ROLES.values()),
    }
    assert not any(expiry.is_soon for expiry in expiries)


def test_every_file_is_its_owners_alone_and_given_to_the_containers_user(tmp_path, given):
    folder = tmp_path / "secrets"
    Keyring(folder, give=lambda user, files: given.extend((user, file) for file in files)).ensure()
    assert {oct(path.stat().st_mode & 0o777) for path in (folder, folder / "source", folder / "operator")} == {"0o700"}
    assert {oct(file.stat().st_mode & 0o777) for file in (folder / "source").iterdir()} == {"0o600"}
    assert {oct(file.stat().st_mode & 0o777) for file in (folder / "operator").iterdir()} == {"0o600"}
    for service, user in USERS.items():
        files = list((folder / service).iterdir())
        assert files
        assert {oct(file.stat().st_mode & 0o777) for file in files} == {"0o400"}
        assert {file.name for file in files} == {
            file.name.removeprefix(".").removesuffix(".new")
            for owner, file in given
            if owner == user and file.parent == folder / service
        }


def test_a_container_gets_what_it_needs_and_nothing_else(keyring):
    held = {service: {file.name for file in (keyring.folder / service).iterdir()} for service in USERS}
    assert held["producer"] == {"ca.pem", "pulsar-token", "api-keys"}
    assert held["graph_consumer"] == {"ca.pem", "pulsar-token", "janusgraph-password"}
    assert held["vector_consumer"] == {"ca.pem", "pulsar-token", "opensearch-password"}
    assert held["dlq_worker"] == held["provisioner"] == held["prometheus"] == {"ca.pem", "pulsar-token"}
    assert held["pulsar"] == {"ca.pem", "pulsar-token", "server.pem", "server.key", "tokens-public.der"}
    assert held["janusgraph"] == {"ca.pem", "keystore.p12", "keystore-password", "janusgraph-password"}
    # Hashes of passwords, not passwords.
    assert held["opensearch-gate"] == {"ca.pem", "server.pem", "server.key", "users"}
    source = keyring.folder / "source"
    private = {(source / name).read_bytes() for name in ("ca.key", "tokens.key")}
    assert not private & {file.read_bytes() for service in USERS for file in (keyring.folder / service).iterdir()}


def test_what_ends_soon_is_renewed_and_the_authority_is_not(keyring, clock):
    before = contents(keyring)
    clock.now += timedelta(days=366)
    keyring.ensure()
    assert changed(keyring, before) == set()
    clock.now += timedelta(days=2)
    expiries = keyring.ensure()
    renewed = changed(keyring, before)
    assert {f"source/{server}.pem" for server in SERVERS} <= renewed
    assert {f"source/{role}.token" for role in ROLES.values()} <= renewed
    assert {"pulsar/server.pem", "janusgraph/keystore.p12", "producer/pulsar-token"} <= renewed
    assert not {name for name in renewed if "password" in name or "ca." in name or "api-key" in name}
    assert min(expiry.ends for expiry in expiries) > clock.now + timedelta(days=390)


@pytest.mark.parametrize(
    ("removed", "follows"),
    [
        (
            "fleet.janusgraph.password",
            {f"{place}/janusgraph-password" for place in ("janusgraph", "graph_consumer", "verify", "operator")},
        ),
        ("vector_consumer.opensearch.password", {"vector_consumer/opensearch-password", "opensearch-gate/users"}),
        (
            "operator.opensearch.password",
            {"operator/opensearch-password", "verify/opensearch-password", "opensearch-gate/users"},
        ),
        ("graph-consumer.token", {"graph_consumer/pulsar-token"}),
        ("api-keys", {"producer/api-keys", "operator/api-key"}),
        ("janusgraph.pem", {"source/janusgraph.key", "janusgraph/keystore.p12"}),
    ],
)
def test_what_is_removed_is_made_anew_for_whom_it_concerns(keyring, removed, follows, clock):
    before = contents(keyring)
    clock.now += timedelta(seconds=1)  # a token is what its times make it
    (keyring.folder / "source" / removed).unlink()
    keyring.ensure()
    assert changed(keyring, before) == {f"source/{removed}", "layout.json", *follows}


def test_a_new_signing_key_makes_every_token_void(keyring):
    before = {role: (keyring.folder / "source" / f"{role}.token").read_text() for role in ROLES.values()}
    (keyring.folder / "source" / "tokens.key").unlink()
    keyring.ensure()
    key = (keyring.folder / "source" / "tokens.key").read_bytes()
    for role, token in before.items():
        assert expiry_of(key, role, token) is None
        assert expiry_of(key, role, (keyring.folder / "source" / f"{role}.token").read_text()) is not None


def test_an_authority_of_ones_own_is_used_as_it_is(keyring, clock):
    authority = make_authority(clock.now)
    source = keyring.folder / "source"
    (source / "ca.key").unlink()
    (source / "ca.pem").write_bytes(authority.certificate)
    with pytest.raises(KeyringError, match=r"pulsar\.pem: expected a certificate for pulsar, localhost, 127\.0\.0\.1"):
        keyring.ensure()
    for server in SERVERS:
        identity = make_server(authority, [server, "localhost", "127.0.0.1"], clock.now)
        (source / f"{server}.pem").write_bytes(identity.certificate)
        (source / f"{server}.key").write_bytes(identity.key)
    keyring.ensure()
    assert (keyring.folder / "producer" / "ca.pem").read_bytes() == authority.certificate
    before = contents(keyring)
    clock.now += timedelta(days=380)
    soon = {expiry.file for expiry in keyring.ensure() if expiry.is_soon}
    assert soon == {f"{server}.pem" for server in SERVERS}
    assert not {name for name in changed(keyring, before) if name.endswith((".pem", ".key", ".p12"))}


def test_a_password_that_configuration_files_cannot_hold_is_refused(keyring):
    file = keyring.folder / "source" / "fleet.janusgraph.password"
    file.write_text('quote"quote"quote"')
    with pytest.raises(KeyringError, match=r"fleet\.janusgraph\.password: expected 16 characters") as caught:
        keyring.ensure()
    assert "quote" not in str(caught.value)


def test_a_token_says_its_role_and_the_broker_s_half_of_the_key_verifies_it(keyring, clock):
    public = load_der_public_key((keyring.folder / "pulsar" / "tokens-public.der").read_bytes())
    key = RSAKey.import_key(public)
    for service, role in ROLES.items():
        token = (keyring.folder / service / "pulsar-token").read_text()
        claims = jwt.decode(token, key, algorithms=["RS256"]).claims
        assert claims["sub"] == role
        assert timedelta(days=390) < timedelta(seconds=claims["exp"] - clock.now.timestamp()) < timedelta(days=400)
    assert set(RIGHTS) < set(ROLES.values())


def test_a_token_of_another_role_or_key_counts_as_none(clock):
    key = make_signing_key()
    token = make_token(key, "producer", clock.now)
    assert expiry_of(key, "producer", token) is not None
    assert expiry_of(key, "operator", token) is None
    assert expiry_of(make_signing_key(), "producer", token) is None
    assert expiry_of(key, "producer", token[:-4]) is None
    assert expiry_of(key, "producer", "") is None


def test_the_gate_s_password_file_holds_salted_hashes(keyring):
    lines = (keyring.folder / "opensearch-gate" / "users").read_text().splitlines()
    hashes = dict(line.split(":{SSHA}") for line in lines)
    for user in ("vector_consumer", "operator"):
        password = (keyring.folder / "source" / f"{user}.opensearch.password").read_text().strip()
        raw = base64.b64decode(hashes[user])
        assert raw[:20] == hashlib.sha1(password.encode() + raw[20:]).digest()
        assert len(raw) == 36


def test_the_key_store_opens_with_its_password(keyring):
    folder = keyring.folder / "janusgraph"
    password = (folder / "keystore-password").read_bytes().strip()
    key, certificate, _ = pkcs12.load_key_and_certificates((folder / "keystore.p12").read_bytes(), password)
    assert key.public_key() == certificate.public_key()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "pulsar"])
def test_a_client_that_trusts_the_authority_trusts_the_server_by_each_of_its_names(keyring, name):
    assert handshake(keyring.folder / "pulsar", keyring.folder / "producer" / "ca.pem", name) == ""


def test_a_client_does_not_trust_the_server_by_another_name_or_authority(keyring, clock, tmp_path):
    assert "mismatch" in handshake(keyring.folder / "pulsar", keyring.folder / "producer" / "ca.pem", "janusgraph")
    (tmp_path / "other.pem").write_bytes(make_authority(clock.now).certificate)
    assert "verify failed" in handshake(keyring.folder / "pulsar", tmp_path / "other.pem", "pulsar")


def handshake(server, authority, name):
    """What a client with Python's strictest checks makes of a server's certificate; empty when nothing is wrong."""
    listening = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    listening.load_cert_chain(server / "server.pem", server / "server.key")
    asking = ssl.create_default_context(cafile=authority)
    asking.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()

    def serve():
        try:
            listening.wrap_socket(theirs, server_side=True).close()
        except (ssl.SSLError, OSError):
            theirs.close()

    for side in (ours, theirs):
        side.settimeout(10)
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        asking.wrap_socket(ours, server_hostname=name).close()
    except ssl.SSLError as error:
        ours.close()
        return str(error)
    finally:
        thread.join(15)
    return ""


def test_without_root_podman_maps_the_user(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(keyring_module.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(keyring_module.subprocess, "run", lambda command, **_options: ran.append(command))
    give_to_container_user(10001, [tmp_path / "token"])
    assert ran == [["podman", "unshare", "chown", "10001:10001", str(tmp_path / "token")]]
