"""A JanusGraph with a password and TLS, set up as docs/operating.md says."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, pkcs12

from banking.streaming.sink import APPLIED, SinkUnavailableError
from fleet.compose import ROOT, Stack
from graph_consumer.servers import make_client
from graph_consumer.settings import GraphSettings
from graph_consumer.sink import GraphSink
from tests.integration.conftest import PROJECT
from tests.integration.graph.conftest import (
    CONFIGURATION,
    FIRST_FREE_PORT,
    HOST,
    PERSON,
    event,
    janusgraph_image,
    remove_containers,
    run_janusgraph,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

PORT = FIRST_FREE_PORT + 3
USER, PASSWORD, STORE_PASSWORD = "fleet", "change-me", "change-me-too"
_CHAPTER = (ROOT / "docs" / "operating.md").read_text().partition("## A password and TLS for JanusGraph")[2]


def block(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", _CHAPTER, re.DOTALL)[0]


def certificate(
    subject: str, issuer: str, key: Any, signing_key: Any, *extensions: x509.ExtensionType
) -> x509.Certificate:
    """A certificate that is valid from yesterday to tomorrow."""
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in (subject, issuer)]
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
    return builder.sign(signing_key, hashes.SHA256())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("security")


@pytest.fixture(scope="module")
def settings(folder: Path) -> GraphSettings:
    """What the service is given: it trusts the authority and has the password in a file."""
    (folder / "password").write_text(PASSWORD + "\n")
    return GraphSettings(
        janusgraph_host=HOST,
        janusgraph_port=PORT,
        janusgraph_use_ssl=True,
        janusgraph_ca_file=folder / "ca.pem",
        janusgraph_username=USER,
        janusgraph_password_file=folder / "password",
    )


@pytest.fixture(scope="module", autouse=True)
def server(folder: Path) -> Iterator[Stack]:
    """The server, with a certificate for 127.0.0.1 signed by an authority of the test's own."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = certificate("test CA", "test CA", authority_key, authority_key, x509.BasicConstraints(True, None))
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))])
    own = certificate("janusgraph", "test CA", key, authority_key, names)
    (folder / "ca.pem").write_bytes(authority.public_bytes(Encoding.PEM))
    configuration = folder / "janusgraph"
    shutil.copytree(CONFIGURATION, configuration)
    configuration.chmod(0o755)
    encryption = BestAvailableEncryption(STORE_PASSWORD.encode())
    store = pkcs12.serialize_key_and_certificates(b"janusgraph", key, own, [authority], encryption)
    (configuration / "keystore.p12").write_bytes(store)
    (configuration / "credentials.properties").write_text(block("properties"))
    with (configuration / "gremlin-server.yaml").open("a") as file:
        file.write(block("yaml"))

    stack = Stack(f"{PROJECT}-secured")
    remove_containers(stack)
    volume = f"{configuration}:/etc/opt/janusgraph:ro"
    run_janusgraph(stack, "janusgraph", janusgraph_image(), PORT, "--volume", volume)
    yield stack
    remove_containers(stack)


async def until_open(settings: GraphSettings) -> GraphSink:
    sink = GraphSink(settings)
    problem: SinkUnavailableError | None = None
    for _ in range(180):
        try:
            await sink.open()
        except SinkUnavailableError as error:
            problem = error
            await asyncio.sleep(1)
        else:
            return sink
    raise AssertionError(str(problem))


async def test_the_service_writes_with_its_password_over_tls(settings: GraphSettings) -> None:
    sink = await until_open(settings)
    assert await sink.write([event(PERSON, "p", {"name": "Ann"})]) == [APPLIED]
    await sink.close()
    client = make_client(settings)
    assert await client.submit("live.V().has('entity_key', 'person:p').values('name')") == ["Ann"]
    await client.close()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"janusgraph_password_file": "wrong"}, "401.*[Uu]sername and/or password"),
        ({"janusgraph_username": "nobody"}, "401.*[Uu]sername and/or password"),
        ({"janusgraph_username": None, "janusgraph_password_file": None}, "wants a user name and a password"),
        ({"janusgraph_ca_file": None}, "certificate verify failed"),
        ({"janusgraph_use_ssl": False}, "127.0.0.1"),
    ],
)
async def test_what_is_wrong_with_the_connection_is_said(
    settings: GraphSettings, folder: Path, change: dict[str, Any], problem: str
) -> None:
    await (await until_open(settings)).close()
    (folder / "wrong").write_text("guess")
    if change.get("janusgraph_password_file"):
        change = {"janusgraph_password_file": folder / "wrong"}
    sink = GraphSink(settings.model_copy(update=change))
    with pytest.raises(SinkUnavailableError, match=problem) as caught:
        await sink.open()
    assert "guess" not in str(caught.value)
    with pytest.raises(SinkUnavailableError, match=problem):
        await sink.write([event(PERSON, "q", {"name": "Bob"})])
    await sink.close()


async def test_a_password_that_was_changed_needs_no_restart(settings: GraphSettings, folder: Path) -> None:
    await (await until_open(settings)).close()
    file = folder / "rotated"
    file.write_text("not yet")
    sink = GraphSink(settings.model_copy(update={"janusgraph_password_file": file}))
    with pytest.raises(SinkUnavailableError, match="401"):
        await sink.open()
    file.write_text(PASSWORD)
    await sink.open()
    assert await sink.write([event(PERSON, "r", {"name": "Cem"})]) == [APPLIED]
    await sink.close()
