"""A secured stack: it does its work, each of its doors is shut without the right key, and nothing secret leaks."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pulsar
import pytest

from banking.streaming.access import DLQ_ROLE, PRODUCER_ROLE, RIGHTS
from banking.streaming.broker import Outgoing, Publisher, connect
from banking.streaming.entities import EntityType
from banking.streaming.events import create_person_event
from banking.streaming.sink import SinkUnavailableError
from banking.streaming.topics import (
    DLQ_SUBSCRIPTION,
    DLQ_TOPIC,
    ENTITY_TOPICS,
    REQUESTS_TOPIC,
    RETRY_TOPICS,
    TOPIC_SUBSCRIPTIONS,
    Right,
    full_name,
)
from fleet.comparison import Expectation
from fleet.compose import AUDIT, ROOT, SERVICES, Security, Stack
from fleet.keyring import ROLES
from fleet.publishing import PublishingError, publish
from fleet.stores import GraphReader, VectorReader
from fleet.tokens import make_signing_key, make_token
from graph_consumer.gremlin import AuthenticationError, ConnectionFailedError
from graph_consumer.servers import make_client
from tests.integration.conftest import (
    ENVIRONMENT,
    PROJECT,
    archived_letters,
    assert_confined,
    assert_in_both,
    metrics_of,
)
from vector_consumer.sink import VectorSink

SECONDS = 120.0
_PORTS_AFTER = 20
_REFUSED = "Failed to authenticate: operation=connect"
_PERSONS = ENTITY_TOPICS[EntityType.PERSON]


@pytest.fixture(scope="module")
def secured(request):
    """A stack of its own with all doors shut, brought up once and removed with the last of these tests."""
    ports = {name: str(int(value) + _PORTS_AFTER) for name, value in ENVIRONMENT.items() if name.endswith("_PORT")}
    project = f"{PROJECT}-secured"
    secrets = ROOT / ".state" / project
    environment = {**ENVIRONMENT, **ports, "SECRETS_FOLDER": str(secrets)}
    terminal = request.config.get_terminal_writer()
    stack = Stack(project, environment, say=lambda line: terminal.line(f"[secured] {line}"), security=Security.SECURED)
    keep = request.config.getoption("--keep-stack")
    try:
        if not keep:
            stack.down(volumes=True)
        stack.up()
        yield stack
    finally:
        if not keep:
            stack.down(volumes=True)


@pytest.fixture
def unique():
    return uuid.uuid4().hex[:12]


@pytest.fixture
async def readers(secured):
    readers = (GraphReader(secured.addresses.graph_settings()), VectorReader(secured.addresses.vector_settings()))
    yield readers
    for reader in readers:
        await reader.close()


def as_role(stack, role):
    """The broker as a role reaches it, from this host."""
    token = (secrets_of(stack) / "source" / f"{role}.token").read_text()
    return replace(stack.addresses.broker, token=token, operation_timeout_seconds=5)


def secrets_of(stack):
    return stack.addresses.secrets.parent


async def assert_stored(readers, *events):
    expectation = Expectation()
    expectation.add_all(events)
    await assert_in_both(readers, expectation, SECONDS)


async def until(question, seconds=SECONDS):
    async with asyncio.timeout(seconds):
        while not (answer := await asyncio.to_thread(question)):
            await asyncio.sleep(0.5)
        return answer


def archived(stack, number, key):
    """The archived letters of a key, once there are that many."""
    mine = [letter for letter in archived_letters(stack) if letter["key"] == key]
    return mine if len(mine) == number else None


class TestWork:
    async def test_what_is_published_with_a_key_is_in_both_stores(self, secured, readers, unique):
        events = [create_person_event(f"{unique}-{number}", "Ann", source="test") for number in range(50)]
        addresses = secured.addresses
        totals = await publish(addresses.producer_url, events, api_key=addresses.api_key)
        assert totals["accepted"] == 50
        await assert_stored(readers, *events)

    async def test_a_dead_letter_is_retried_and_archived(self, secured, unique):
        poison = create_person_event(unique, "Ann", {"date_of_birth": "yesterday"}, source="test")
        publisher = Publisher(as_role(secured, PRODUCER_ROLE))
        try:
            await publisher.publish(Outgoing(_PERSONS, poison.to_bytes(), poison.entity_id))
        finally:
            await publisher.close()
        letters = await until(lambda: archived(secured, 2, unique))
        assert {(letter["leg"], letter["attempt"]) for letter in letters} == {("graph", 3), ("vector", 3)}

    async def test_a_request_that_is_repeated_under_its_key_publishes_nothing(self, secured, unique):
        """The producer writes its log of requests, and reads it."""
        body = json.dumps({"entity_id": unique, "entity_type": "person", "payload": {"name": "Ann"}})
        answers = [post(secured, body, **{"Idempotency-Key": unique}) for _ in range(2)]
        assert [status for status, _, _ in answers] == [202, 202]
        assert answers[1][2]["Idempotency-Replayed"] == "true"

    async def test_prometheus_scrapes_every_job(self, secured):
        def all_up():
            url = f"{secured.addresses.prometheus_url}/api/v1/query?query=up"
            with urllib.request.urlopen(url, timeout=10) as answer:
                found = json.load(answer)["data"]["result"]
            return {each["metric"]["job"] for each in found if each["value"][1] == "1"} >= {*SERVICES, AUDIT, "pulsar"}

        assert await until(all_up)

    async def test_the_worker_counts_the_letters_that_wait(self, secured):
        """It asks the admin API with a role that may do little there, and over TLS."""
        assert await until(lambda: "streaming_dlq_waiting{" in metrics_of(secured, "dlq_worker"))

    def test_the_demonstration_finds_out_that_the_stack_is_secured(self, secured):
        result = run(secured, ".venv/bin/fleet", "demo", "--project", secured.project)
        assert result.returncode == 0, result.stdout + result.stderr
        assert re.search(r"all +│ +920 │ +920 │ +920", result.stdout)
        assert "not read" not in result.stdout

    def test_the_audit_reads_everything(self, secured):
        result = run(secured, ".venv/bin/fleet", "verify", "--project", secured.project, "--format", "json")
        assert result.returncode == 0, result.stdout + result.stderr
        report = json.loads(result.stdout[result.stdout.index("{") :])
        assert (report["problem"], report["notes"], report["differences"]) == ("", [], 0)
        # Those of the test above.
        assert {finding["word"] for finding in report["findings"]} <= {"dead letter"}
        assert report["published"]["person"] >= 50

    def test_every_container_is_confined(self, secured):
        assert_confined(secured)


def run(stack, *command):
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT, env=stack._environment
    )


def post(stack, body, path="/v1/events", *, key=None, **headers):
    """Status, text and headers of the producer's answer."""
    sent = {"Content-Type": "application/json", "Authorization": f"Bearer {key or stack.addresses.api_key}", **headers}
    data = body if isinstance(body, bytes) else body.encode()
    request = urllib.request.Request(f"{stack.addresses.producer_url}{path}", data, sent)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def unsigned(algorithm, claims, signature=b""):
    """A token of one's own making."""
    parts = [json.dumps(part).encode() for part in ({"alg": algorithm, "typ": "JWT"}, claims)]
    head = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    secret = hmac.new(signature, head, hashlib.sha256).digest() if signature else b""
    return (head + b"." + base64.urlsafe_b64encode(secret).rstrip(b"=")).decode()


def forgeries(stack):
    """Tokens that the broker must not take, each of a superuser."""
    now = datetime.now(UTC)
    claims = {"sub": "operator"}
    key = (secrets_of(stack) / "source" / "tokens.key").read_bytes()
    public = (secrets_of(stack) / "pulsar" / "tokens-public.der").read_bytes()
    return {
        "signed by another key": make_token(make_signing_key(), "operator", now),
        "not signed": unsigned("none", claims),
        "signed by the public key as if it were a shared one": unsigned("HS256", claims, public),
        "ended": make_token(key, "operator", now - timedelta(days=500)),
        "no token": "x" * 40,
    }


def refusal(options, use):
    """The class of the error that a use of the broker ends with; None where it is let through."""
    client = connect(options)
    try:
        use(client)
    except pulsar.PulsarException as error:
        return type(error)
    finally:
        with contextlib.suppress(pulsar.PulsarException):
            client.close()
    return None


def is_let_in(stack, token):
    """Whether a producer can be made with a token. The client says no reason, and tries for two seconds."""
    broker = replace(stack.addresses.broker, token=token, operation_timeout_seconds=2)
    return refusal(broker, producing(_PERSONS)) is None


def producing(topic):
    return lambda client: client.create_producer(full_name(topic))


def consuming(topic, subscription):
    return lambda client: client.subscribe(
        full_name(topic), subscription, consumer_type=pulsar.ConsumerType.Shared, receiver_queue_size=1
    )


def reading(topic):
    return lambda client: client.create_reader(full_name(topic), pulsar.MessageId.earliest)


class TestPulsar:
    def test_nobody_is_let_in_without_a_token_of_the_fleet_s_own(self, secured):
        tokens = {"none": None, **forgeries(secured)}
        refused = secured.logs("pulsar", lines=100_000).count(_REFUSED)
        with ThreadPoolExecutor(len(tokens)) as pool:
            let_in = dict(zip(tokens, pool.map(lambda token: is_let_in(secured, token), tokens.values()), strict=True))
        assert let_in == dict.fromkeys(tokens, False)
        # It was the broker that refused each, and not for want of one.
        assert secured.logs("pulsar", lines=100_000).count(_REFUSED) >= refused + len(tokens)
        assert is_let_in(secured, secured.addresses.broker.token)

    def test_it_speaks_tls_and_the_certificate_is_verified(self, secured, localhost_certificate):
        broker = replace(secured.addresses.broker, operation_timeout_seconds=3)
        plain = replace(broker, url=broker.url.replace("pulsar+ssl", "pulsar"))
        assert refusal(plain, producing(_PERSONS)) is not None
        untrusting = replace(broker, tls_trust_certs_file=str(localhost_certificate[0]))
        assert refusal(untrusting, producing(_PERSONS)) is not None

    @pytest.mark.parametrize("role", sorted(RIGHTS))
    def test_a_role_produces_to_its_topics_alone(self, secured, role):
        options = as_role(secured, role)
        for topic in TOPIC_SUBSCRIPTIONS:
            allowed = Right.PRODUCE in RIGHTS[role].get(topic, ())
            expected = None if allowed else pulsar.AuthorizationError
            assert refusal(options, producing(topic)) is expected, topic

    @pytest.mark.parametrize("role", sorted(RIGHTS))
    def test_a_role_reads_by_its_own_subscription_alone(self, secured, role):
        options = as_role(secured, role)
        for topic, subscriptions in TOPIC_SUBSCRIPTIONS.items():
            for subscription in {*subscriptions, "graph-consumer", "vector-consumer", DLQ_SUBSCRIPTION, "spy"} - {role}:
                assert refusal(options, consuming(topic, subscription)) is pulsar.AuthorizationError, topic
            assert refusal(options, reading(topic)) is pulsar.AuthorizationError, topic
            if Right.CONSUME not in RIGHTS[role].get(topic, ()):
                assert refusal(options, consuming(topic, role)) is pulsar.AuthorizationError, topic

    def test_the_table_of_rights_is_the_least(self):
        """Written out, so that a wider one is a decision."""
        entities = set(ENTITY_TOPICS.values())
        rights = {
            role: {
                right: {topic for topic, held in by_topic.items() if right in held}
                for right in (Right.PRODUCE, Right.CONSUME)
            }
            for role, by_topic in RIGHTS.items()
        }
        retries = set(RETRY_TOPICS.values())
        assert rights == {
            "producer": {Right.PRODUCE: {*entities, REQUESTS_TOPIC}, Right.CONSUME: {REQUESTS_TOPIC}},
            "graph-consumer": {Right.PRODUCE: {DLQ_TOPIC}, Right.CONSUME: {*entities, "graph-retry-events"}},
            "vector-consumer": {Right.PRODUCE: {DLQ_TOPIC}, Right.CONSUME: {*entities, "vector-retry-events"}},
            "dlq-worker": {Right.PRODUCE: retries, Right.CONSUME: {DLQ_TOPIC, *retries}},
        }

    def test_the_admin_api_wants_a_token_and_the_right(self, secured):
        paths = [
            ("GET", "/admin/v2/persistent/public/banking", None),
            ("GET", "/admin/v2/namespaces/public/banking", None),
            ("GET", "/admin/v2/tenants", None),
            ("PUT", "/admin/v2/persistent/public/banking/mine", None),
            ("DELETE", f"/admin/v2/persistent/public/banking/{_PERSONS}?force=true", None),
            ("POST", f"/admin/v2/persistent/public/banking/{_PERSONS}/permissions/{DLQ_ROLE}", ["consume"]),
            ("POST", "/admin/v2/namespaces/public/banking/subscriptionAuthMode", "None"),
        ]
        tokens = {"none": None, **forgeries(secured)}
        for method, path, body in paths:
            for what, token in tokens.items():
                assert admin(secured, token, method, path, body)[0] == 401, (what, method, path)
            for role in (*RIGHTS, ROLES["prometheus"]):
                status, _ = admin(secured, as_role(secured, role).token, method, path, body)
                assert status in {401, 403}, (role, method, path)
        status, answer = admin(secured, as_role(secured, "operator").token, *paths[0])
        assert status == 200
        assert full_name(_PERSONS) in answer

    def test_its_metrics_want_a_token(self, secured):
        assert admin(secured, None, "GET", "/metrics/", None)[0] == 401
        status, answer = admin(secured, as_role(secured, "prometheus").token, "GET", "/metrics/", None)
        assert status == 200
        assert "pulsar_" in answer


def admin(stack, token, method, path, body):
    """Status and text of the admin API's answer."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{stack.addresses.pulsar_admin_url}{path}", data, headers, method=method)
    return ask(request, stack)


def ask(request, stack):
    context = ssl.create_default_context(cafile=stack.addresses.secrets / "ca.pem")
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def basic(user, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


class TestJanusGraph:
    @pytest.fixture
    def wrong(self, tmp_path):
        file = tmp_path / "wrong"
        file.write_text("guess")
        return file

    async def submit(self, settings):
        client = make_client(settings)
        try:
            return await client.submit("1 + 1", timeout_seconds=10)
        finally:
            await client.close()

    async def test_it_wants_tls_and_the_password(self, secured, wrong):
        settings = secured.addresses.graph_settings()
        assert await self.submit(settings) == [2]
        with pytest.raises(ConnectionFailedError):
            await self.submit(settings.model_copy(update={"janusgraph_use_ssl": False}))
        with pytest.raises(ConnectionFailedError, match="certificate verify failed"):
            await self.submit(settings.model_copy(update={"janusgraph_ca_file": None}))
        for change in (
            {"janusgraph_password_file": wrong},
            {"janusgraph_username": "nobody"},
            {"janusgraph_username": None, "janusgraph_password_file": None},
        ):
            with pytest.raises(AuthenticationError):
                await self.submit(settings.model_copy(update=change))

    def test_over_http_as_well(self, secured):
        base = f"https://127.0.0.1:{secured.addresses.janusgraph}/?gremlin=1%2B1"
        password = (secured.addresses.secrets / "janusgraph-password").read_text().strip()
        for headers in ({}, basic("fleet", "guess"), basic("nobody", password), basic("fleet", "")):
            assert ask(urllib.request.Request(base, headers=headers), secured)[0] == 401
        assert ask(urllib.request.Request(base, headers=basic("fleet", password)), secured)[0] == 200
        with pytest.raises((urllib.error.URLError, OSError)):
            urllib.request.urlopen(base.replace("https", "http"), timeout=10)


class TestOpenSearch:
    def test_it_wants_tls_and_a_password(self, secured):
        base = f"https://127.0.0.1:{secured.addresses.opensearch}/_cat/indices"
        password = (secured.addresses.secrets / "opensearch-password").read_text().strip()
        for headers in ({}, basic("operator", "guess"), basic("admin", "admin"), basic("vector_consumer", password)):
            assert ask(urllib.request.Request(base, headers=headers), secured)[0] == 401
        assert ask(urllib.request.Request(base, headers=basic("operator", password)), secured)[0] == 200
        plain = urllib.request.Request(base.replace("https", "http"), headers=basic("operator", password))
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(plain, timeout=10)
        assert refused.value.code == 400

    async def test_its_certificate_is_verified(self, secured):
        untrusting = secured.addresses.vector_settings().model_copy(update={"opensearch_ca_file": None})
        sink = VectorSink(untrusting)
        with pytest.raises(SinkUnavailableError, match="certificate"):
            await sink.open()
        await sink.close()

    def test_no_service_reaches_it_past_the_gate(self, secured):
        [inspected] = json.loads(secured.podman("inspect", secured.container("opensearch")))
        addresses = [network["IPAddress"] for network in inspected["NetworkSettings"]["Networks"].values()]
        assert len(addresses) == 1

        def connect_from(service):
            """What becomes of connections by name and by address, and to the gate."""
            program = (
                "import socket, sys\n"
                "for name in sys.argv[1:]:\n"
                "  try: socket.create_connection((name, 9200), timeout=3); print('connected')\n"
                "  except OSError: print('refused')"
            )
            return secured.exec(service, "python", "-c", program, "opensearch", *addresses, "opensearch-gate").split()

        with ThreadPoolExecutor(len(SERVICES)) as pool:
            for service, results in zip(SERVICES, pool.map(connect_from, SERVICES), strict=True):
                assert results == ["refused", "refused", "connected"], service


class TestProducer:
    @pytest.mark.parametrize("authorization", [None, "Bearer guess-guess-guess-guess", "Basic QTpC", "Bearer "])
    def test_it_wants_a_key(self, secured, authorization):
        headers = {"Content-Type": "application/json"} | ({"Authorization": authorization} if authorization else {})
        body = b'{"entity_id":"x","entity_type":"person","payload":{}}'
        request = urllib.request.Request(f"{secured.addresses.producer_url}/v1/events", body, headers)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        assert refused.value.code == 401

    async def test_the_publisher_says_what_the_answer_was(self, secured):
        with pytest.raises(PublishingError, match="401"):
            await publish(secured.addresses.producer_url, [create_person_event("x", "Ann", source="test")])


MARKS = {
    "name": "Zephyrine Quillfeather",
    "email": "zq.mark@quillfeather.example",
    "iban": "DE89370400440532013999",
    "text": "the xylographer confessed to embezzlement",
    "key": "mark-of-a-key-nobody-has-0123456789",
    "password": "mark-of-a-password-nobody-has",
}
"""What must not be found anywhere but in the stores, the topics and the archive."""


class TestLeaks:
    async def test_no_content_and_no_secret_is_in_logs_metrics_answers_or_environments(self, secured, readers, unique):
        answers = await publish_marked(secured, readers, unique)
        await asyncio.to_thread(knock_with_marks, secured)
        # What a leg logs of a letter comes with its last failure at the latest.
        await until(lambda: archived(secured, 2, f"{unique}-date"))
        await until(lambda: archived(secured, 2, f"{unique}-bytes"))
        await until(lambda: archived(secured, 2, f"{unique}-schema"))
        found = {"answers": "\n".join(answers)}
        for container in secured.containers():
            found[f"log of {container.service}"] = secured.logs(container.service, container.number, lines=100_000)
            found[f"environment of {container.service}"] = secured.podman("inspect", container.name)
        for service in (*SERVICES, AUDIT):
            found[f"metrics of {service}"] = metrics_of(secured, service)
        found["metrics of pulsar"] = admin(secured, as_role(secured, "operator").token, "GET", "/metrics/", None)[1]
        found["metrics of prometheus"] = secured.exec(
            "opensearch-gate", "curl", "-sSf", "http://prometheus:9090/metrics"
        )
        assert f"{unique}-date" in found["log of graph_consumer"]
        assert "streaming_dlq_messages_total" in found["metrics of vector_consumer"]
        for what, needle in {**MARKS, **dict(kept_secret(secured))}.items():
            leaks = [place for place, text in found.items() if needle.lower() in text.lower()]
            assert leaks == [], f"{what} is in {leaks}"


def kept_secret(stack):
    """Every secret of the stack, by its file: of keys and tokens a part that nothing else holds."""
    for file in (secrets_of(stack) / "source").iterdir():
        if file.suffix == ".pem":
            continue
        text = file.read_text().strip()
        if file.suffix == ".key":
            text = text.splitlines()[2]
        elif file.suffix == ".token":
            text = text.rsplit(".", 1)[1]
        yield file.name, text


async def publish_marked(stack, readers, unique):
    """Publish marked events, good ones and bad ones by each way; what the producer answered."""
    payload = {"email": MARKS["email"], "iban": MARKS["iban"], "notes": MARKS["text"]}
    good = create_person_event(f"{unique}-good", MARKS["name"], payload, source="test")
    totals = await publish(stack.addresses.producer_url, [good], api_key=stack.addresses.api_key)
    assert totals["accepted"] == 1
    person = {"entity_id": f"{unique}-x", "entity_type": "person"}
    account = {"entity_id": f"{unique}-x", "entity_type": "account"}
    bodies = [
        person | {"payload": {**payload, "date_of_birth": MARKS["name"]}},
        person | {"payload": {"employer_id": MARKS["name"]}},
        person | {"payload": payload, "timestamp": MARKS["text"]},
        person | {"payload": payload, "version": MARKS["iban"]},
        person | {"payload": payload, "schema_version": MARKS["iban"]},
        person | {"payload": payload, "event_type": MARKS["name"]},
        person | {"payload": MARKS["text"]},
        person | {"payload": payload, "source": MARKS["text"] * 20},
        account | {"payload": {"balance": MARKS["iban"]}},
        account | {"payload": {"owner_id": f"{unique}", "owner_type": MARKS["name"]}},
        {"entity_id": MARKS["name"], "entity_type": "person", "payload": {}},
        {"entity_id": f"{unique}-x", "entity_type": MARKS["name"], "payload": {}},
        person | {"payload": payload, "event_type": "delete"},
    ]
    refused = [post(stack, json.dumps(body)) for body in bodies]
    refused += [
        post(stack, json.dumps(bodies[0])[:-40]),
        post(stack, json.dumps(bodies[0]).encode() + b"\xff"),
        post(stack, json.dumps(bodies[0]), **{"Content-Encoding": "gzip"}),
        post(stack, json.dumps(bodies[0]), **{"Content-Type": "text/plain"}),
        post(stack, json.dumps(bodies[0]), **{"Idempotency-Key": ""}),
        post(stack, json.dumps(bodies[0]), key=MARKS["key"]),
        post(stack, json.dumps(bodies[0]), "/v1/nothing"),
    ]
    assert all(400 <= status < 500 for status, _, _ in refused), refused
    # Past the producer's checks, so that the legs find out.
    bad = create_person_event(f"{unique}-date", MARKS["name"], {**payload, "date_of_birth": MARKS["name"]}, source="t")
    raw = {
        f"{unique}-date": bad.to_bytes(),
        f"{unique}-bytes": b"\xff" + MARKS["name"].encode() + MARKS["text"].encode(),
        f"{unique}-cut": bad.to_bytes()[:-30],
        f"{unique}-enum": bad.to_bytes().replace(b'"person"', json.dumps(MARKS["name"]).encode()),
        f"{unique}-schema": json.dumps({"schema_version": MARKS["iban"]}).encode(),
        f"{unique}-term": create_person_event(
            f"{unique}-term", MARKS["name"], {"email": MARKS["email"] * 2000}, source="t"
        ).to_bytes(),
    }
    publisher = Publisher(as_role(stack, PRODUCER_ROLE))
    try:
        await publisher.publish_all([Outgoing(_PERSONS, data, key) for key, data in raw.items()])
    finally:
        await publisher.close()
    await assert_stored(readers, good)
    return [text for _, text, _ in refused]


def knock_with_marks(stack):
    """Wrong passwords and tokens, which a server may be tempted to log."""
    for port, user in ((stack.addresses.opensearch, "operator"), (stack.addresses.janusgraph, "fleet")):
        request = urllib.request.Request(f"https://127.0.0.1:{port}/", headers=basic(user, MARKS["password"]))
        assert ask(request, stack)[0] in {400, 401}
    assert admin(stack, MARKS["password"], "GET", "/admin/v2/tenants", None)[0] == 401
    assert not is_let_in(stack, MARKS["password"])


DOCUMENT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def here(stack, text):
    """A snippet for this stack and its ports."""
    ports = stack.addresses
    changes = {
        "janusgraph-demo": stack.project,
        ".state/secrets": str(secrets_of(stack)),
        "localhost:6650": f"localhost:{ports.pulsar}",
        "localhost:8000": f"localhost:{ports.producer}",
        "localhost:8182": f"localhost:{ports.janusgraph}",
        "localhost:9200": f"localhost:{ports.opensearch}",
        "make up SECURE=1": f"SECURE=1 .venv/bin/fleet up --project {stack.project}",
        "make certs": ".venv/bin/fleet certs",
        # There may be no way to the database from here.
        "uv audit --frozen": "uv audit --frozen --help",
    }
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


class TestDocument:
    """The last of these tests, for containers are made anew."""

    def test_the_snippet_runs_as_written(self, secured):
        (snippet,) = blocks("python")
        result = run(secured, sys.executable, "-c", here(secured, snippet))
        assert result.returncode == 0, result.stdout + result.stderr

    def test_the_commands_run_as_written(self, secured):
        tokens = secrets_of(secured) / "source" / "vector-consumer.token"
        before = {container.name: container.started for container in secured.containers()}
        old = tokens.read_text()
        for block in blocks("sh"):
            result = run(secured, "bash", "-euo", "pipefail", "-c", here(secured, block))
            assert result.returncode == 0, block + result.stdout + result.stderr
            if "permissions" in block:
                assert re.search(r"graph-consumer +\[consume\]", result.stdout)
        assert tokens.read_text() != old
        # Those whose secrets have changed were made anew, and the job ran again.
        after = {container.name: container.started for container in secured.containers()}
        anew = {"vector_consumer", "opensearch-gate", "provisioner"}
        assert {name for name in after if after[name] != before[name]} == {secured.container(name) for name in anew}

    async def test_what_was_renewed_is_in_use(self, secured, readers, unique):
        event = create_person_event(unique, "Ann", source="test")
        await publish(secured.addresses.producer_url, [event], api_key=secured.addresses.api_key)
        await assert_stored(readers, event)
