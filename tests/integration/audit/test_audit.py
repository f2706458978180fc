"""The audit against the real fleet: whatever is planted is found by name, and a fleet at work is not called broken."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from banking.streaming.entities import EntityType
from banking.streaming.events import create_event, create_person_event
from banking.streaming.producer import AsyncEntityProducer
from dlq_worker.settings import DlqWorkerSettings
from fleet.comparison import Expectation, wait_until_equal
from fleet.compose import StackError
from graph_consumer.settings import GraphSettings
from tests.integration.conftest import ENVIRONMENT, archived_letters, metrics_of
from vector_consumer.mappings import alias_of
from verify.audit import Scope, run_audit
from verify.judging import Word
from verify.report import Status
from verify.systems import Systems
from verify.tracing import run_trace

SECONDS = 120.0
GRAPH, VECTOR, BOTH = ("graph",), ("vector",), ("graph", "vector")


@pytest.fixture
def unique():
    return uuid.uuid4().hex[:12] + "-"


@pytest.fixture
async def producer(stack):
    async with AsyncEntityProducer(stack.addresses.pulsar_url) as producer:
        yield producer


@pytest.fixture
def systems(stack, tmp_path):
    """The systems as they are reached from here, with an archive of the test's own."""
    addresses = stack.addresses
    broker = {"pulsar_url": addresses.pulsar_url, "pulsar_admin_url": addresses.pulsar_admin_url}
    letters = DlqWorkerSettings(archive_url=(tmp_path / "archive").as_uri(), **broker)
    return Systems(addresses.graph_settings(), addresses.vector_settings(), letters)


class Bank:
    """Persons of one test: what is published of them, and what is done to them behind the legs' backs."""

    def __init__(self, unique, graph, vector):
        self.unique = unique
        self.expectation = Expectation()
        self._graph = graph
        self._vector = vector
        self._index = alias_of("banking", "person") + "-v1"

    def id(self, name):
        return f"{self.unique}{name}"

    def person(self, name, version=1, **payload):
        event = create_person_event(self.id(name), name, payload, source="test", version=version)
        self.expectation.add(event)
        return event

    def poison(self, name):
        return create_person_event(self.id(name), name, {"date_of_birth": "yesterday"}, source="test", version=1)

    def deleted(self, name, version):
        event = create_event("person", self.id(name), source="test", version=version, event_type="delete")
        self.expectation.add(event)
        return event

    async def settle(self, *events, without=""):
        """Wait until both stores hold what is expected: of these events, or of all save those of one name."""
        expectation = Expectation()
        expectation.add_all(events)
        for kind, held in ({} if events else self.expectation.entities).items():
            kept = {entity_id: one for entity_id, one in held.items() if entity_id != self.id(without)}
            expectation.entities[kind] = kept
        readers = (self._graph, self._vector)
        for done in await asyncio.gather(*(wait_until_equal(one, expectation, SECONDS) for one in readers)):
            assert done.differences == []

    async def gremlin(self, name, steps):
        """Take some steps from the vertex of a person."""
        await self._graph.submit(
            f"g.V().has('entity_key', wanted){steps}.iterate(); g.tx().commit(); 1",
            {"wanted": f"person:{self.id(name)}"},
        )

    async def drop_vertices(self, vertices):
        await self._graph.submit(
            "g.V(wanted).drop().iterate(); g.tx().commit(); 1", {"wanted": [int(vertex) for vertex in vertices]}
        )

    async def add_vertex(self, name, properties=""):
        """Add a vertex as somebody would who minds no index."""
        script = (
            "tx = graph.buildTransaction().enableBatchLoading().start();"
            "tx.addVertex(org.apache.tinkerpop.gremlin.structure.T.label, 'person', 'entity_key', 'person:' + wanted,"
            f"'entity_id', wanted, 'entity_type', 'person'{properties}); tx.commit(); 1"
        )
        await self._graph.submit(script, {"wanted": self.id(name)})

    async def document(self, name, version, **fields):
        """Change a document under that version."""
        current = await self._vector.get("person", self.id(name)) or {
            "entity_id": self.id(name),
            "entity_type": "person",
        }
        await self._vector.client.index(
            index=self._index,
            id=self.id(name),
            body={
                name: value for name, value in (current | {"version": version} | fields).items() if value is not None
            },
            params={"version": version, "version_type": "external_gte"},
        )

    async def remove_document(self, name, version):
        await self._vector.client.delete(
            index=self._index, id=self.id(name), params={"version": version, "version_type": "external_gte"}
        )


@pytest.fixture
def bank(unique, graph, vector):
    return Bank(unique, graph, vector)


async def audited(systems, scope):
    """The report of an audit that could read everything."""
    report = await run_audit(systems, scope)
    assert report.problem == ""
    return report


def verify(stack, *arguments, seconds=300):
    """The audit as `make verify` runs it: in its service's container. What it printed, and its exit status."""
    command = [str(Path(sys.prefix) / "bin" / "fleet"), "verify", "--project", stack.project, *arguments]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, check=False, env=os.environ | ENVIRONMENT
    )
    return result.stdout, result.returncode, result.stderr


async def audit(stack, bank, *arguments):
    options = ("--id-prefix", bank.unique, "--format", "json", "--limit", "100", *arguments)
    out, status, problems = await asyncio.to_thread(verify, stack, *options)
    told = json.loads(out[out.index("{") :]) if "{" in out else pytest.fail(out + problems)
    assert told["exit_status"] == status, out + problems
    assert told["problem"] == ""
    found = {
        (finding["leg"], finding["entity_id"].removeprefix(bank.unique), finding["word"])
        for finding in told["findings"]
    }
    return told, found, status


async def until(condition, seconds=60.0):
    async with asyncio.timeout(seconds):
        while not (value := await asyncio.to_thread(condition)):
            await asyncio.sleep(0.5)
    return value


def archived(stack, entity_id):
    return len([letter for letter in archived_letters(stack) if letter["key"] == entity_id]) == 2


def everywhere(word, *names, legs=BOTH):
    return {(leg, name, word) for leg in legs for name in names}


async def plant(bank, producer):
    """Publish, wait for both legs, and then spoil what both stores hold."""
    names = ("lost-document", "lost-vertex", "twice", "stubbed", "referred")
    owned = create_event(
        "account",
        bank.id("account"),
        {"owner_id": bank.id("unknown"), "owner_type": "person"},
        source="test",
        version=1,
    )
    bank.expectation.add(owned)
    events = [bank.person("fine", 1), bank.person("fine", 2, city="Ulm"), bank.person("again"), bank.person("again")]
    events += [bank.person("overtaken", 2), bank.person("overtaken", 1), bank.person("gone"), bank.deleted("gone", 2)]
    events += [
        bank.person("old", 1),
        bank.person("old", 2),
        bank.person("altered"),
        *(bank.person(name) for name in names),
    ]
    events += [bank.person("revived"), bank.deleted("revived", 2), bank.poison("refused"), owned]
    await producer.send_many(events)
    await bank.settle()

    await bank.remove_document("lost-document", 1)
    await bank.gremlin("lost-vertex", ".drop()")
    await bank.add_vertex("twice", ", 'version', 1L, 'content_hash', 'beef'")
    await bank.gremlin("stubbed", ".properties('version', 'content_hash', 'name').drop()")
    await bank.gremlin("old", ".property('version', 1L)")
    await bank.remove_document("old", 2)
    await bank.gremlin("altered", ".property('content_hash', 'beef')")
    await bank.document("altered", 1, content_hash="beef")
    await bank.gremlin("revived", ".properties('deleted').drop()")
    await bank.document("revived", 2, deleted=None)
    await bank.add_vertex("extra", ", 'version', 4L, 'content_hash', 'beef'")
    await bank.document("extra", 4, content_hash="beef")
    await bank.add_vertex("dangling")


async def test_whatever_is_planted_is_found_named_and_mended(stack, producer, bank):
    await plant(bank, producer)
    await until(lambda: archived(stack, bank.id("refused")))
    stack.pause("dlq_worker")
    try:
        await producer.send_many([bank.poison("waiting"), last := bank.person("last")])
        await bank.settle(last)
        stack.pause("graph_consumer")
        try:
            await producer.send_many([bank.person("fine", 3, city="Bonn"), bank.person("new")])
            told, found, status = await audit(stack, bank)
        finally:
            stack.unpause("graph_consumer")
    finally:
        stack.unpause("dlq_worker")
    letters = everywhere("dead letter", "refused", "waiting")
    unmended = {*everywhere("extra", "extra"), ("graph", "twice", "duplicated")}
    assert found == letters | unmended | {
        ("vector", "lost-document", "missing"),
        ("graph", "lost-vertex", "missing"),
        ("graph", "stubbed", "dangling stub"),
        ("graph", "dangling", "dangling stub"),
        ("graph", "old", "version differs"),
        ("vector", "old", "missing"),
        *everywhere("content differs", "altered"),
        *everywhere("resurrected", "revived"),
    }
    assert status == 1
    details = {finding["entity_id"]: finding["detail"] for finding in told["findings"]}
    assert details[bank.id("refused")].startswith("archived")
    assert details[bank.id("waiting")].startswith("waiting")
    persons = {leg: told["entities"][leg]["person"] for leg in BOTH}
    assert persons["graph"]["behind"] == 2
    assert persons["graph"]["stub"] == 1
    assert "behind" not in persons["vector"]
    assert list(told["behind_since"]) == ["graph person"]
    assert told["overtaken"] == {"person": 1}

    _, found, status = await audit(stack, bank, "--repair")
    assert status == 1
    await bank.settle(without="twice")
    told, found, status = await audit(stack, bank)
    assert found - everywhere("dead letter", "waiting", "refused") == unmended
    assert status == 1
    assert (told["entities"]["graph"]["person"]["stub"], told["differences"]) == (1, 3)

    # What no event can mend is removed by hand, and what that takes along is mended then.
    (twice,) = (finding["detail"] for finding in told["findings"] if finding["word"] == "duplicated")
    vertices = re.findall(r"(\S+) of 1", twice)
    assert len(vertices) == 2
    await bank.drop_vertices(vertices)
    await bank.gremlin("extra", ".drop()")
    await bank.remove_document("extra", 4)
    _, found, status = await audit(stack, bank, "--repair")
    assert found - everywhere("dead letter", "waiting", "refused") == {("graph", "twice", "missing")}
    await bank.settle()
    await until(lambda: archived(stack, bank.id("waiting")))
    _, found, status = await audit(stack, bank)
    assert found == everywhere("dead letter", "waiting", "refused")
    assert status == 0


async def test_a_fleet_that_is_published_to_all_the_time_is_in_step(stack, producer, systems, bank):
    ended = asyncio.Event()

    async def publish():
        version = 0
        while not ended.is_set():
            version += 2
            events = [bank.person(f"busy-{number}", version, city=str(version)) for number in range(40)]
            # Accounts come before their owners, which are stubs for a while; some are deleted and come back.
            owned = [
                create_event(
                    "account",
                    bank.id(f"account-{version}-{number}"),
                    {"owner_id": bank.id(f"busy-{version}-{number}"), "owner_type": "person"},
                    source="test",
                )
                for number in range(5)
            ]
            owners = [bank.person(f"busy-{version}-{number}") for number in range(5)]
            gone = [bank.deleted(f"busy-{number}", version + 1) for number in range(3)] if version % 10 == 0 else []
            await producer.send_many([*events, *gone, *owned, *owners])

    publishing = asyncio.create_task(publish())
    try:
        for _ in range(2):
            report = await audited(systems, Scope(prefix=bank.unique))
            assert report.findings == []
            assert report.status is Status.IN_STEP
            assert report.published["person"] >= 40
    finally:
        ended.set()
        await publishing
    await bank.settle()


async def test_contents_are_compared_where_that_is_asked_for(producer, systems, bank):
    owned = create_event(
        "account",
        bank.id("account"),
        {"owner_id": bank.id("a"), "owner_type": "person", "balance": "10.10", "opened_on": "2026-01-01"},
        source="test",
        version=1,
    )
    bank.expectation.add(owned)
    await producer.send_many([bank.person("a", tags=[1.0, {"b": None}]), bank.person("b"), bank.person("c"), owned])
    await producer.send_many([bank.person("d"), bank.deleted("d", 2)])
    await bank.settle()
    clean = await audited(systems, Scope(prefix=bank.unique, contents=True))
    assert clean.findings == []
    assert clean.words["graph", "person", Word.IN_STEP] == clean.words["vector", "person", Word.IN_STEP] == 4

    await bank.gremlin("b", ".property('name', 'Mallory')")
    await bank.gremlin("a", ".inE('owned_by').drop()")
    await bank.document("c", 1, payload={"name": "Mallory"})
    by_hash = await audited(systems, Scope(prefix=bank.unique))
    assert by_hash.findings == []
    report = await audited(systems, Scope(prefix=bank.unique, contents=True, repair=True))
    assert {(finding.leg, finding.entity_id, finding.word) for finding in report.findings} == {
        ("graph", bank.id("b"), Word.CONTENT_DIFFERS),
        ("graph", bank.id("account"), Word.CONTENT_DIFFERS),
        ("vector", bank.id("c"), Word.CONTENT_DIFFERS),
    }
    assert report.repaired == 3
    async with asyncio.timeout(SECONDS):
        while (report := await audited(systems, Scope(prefix=bank.unique, contents=True))).findings:
            await asyncio.sleep(1)
    assert report.status is Status.IN_STEP


async def told(stack):
    """What the service tells as metrics, once it listens."""
    async with asyncio.timeout(SECONDS):
        while True:
            with contextlib.suppress(StackError):
                text = await asyncio.to_thread(metrics_of, stack, "verify")
                return [sample for family in text_string_to_metric_families(text) for sample in family.samples]
            await asyncio.sleep(0.5)


async def found_at_start(stack):
    """What the service finds in the audit that it begins with."""
    await asyncio.to_thread(stack.restart, "verify")
    async with asyncio.timeout(SECONDS):
        while True:
            samples = await told(stack)
            if any(one.value for one in samples if one.labels.get("result") in {"in step", "differences"}):
                break
            await asyncio.sleep(0.5)
    names = ("consumer_type", "entity_type", "difference")
    return Counter(
        {
            tuple(one.labels[name] for name in names): int(one.value)
            for one in samples
            if one.name == "streaming_audit_differences"
        }
    )


async def test_the_service_tells_prometheus_what_it_finds(stack, producer, systems, bank):
    await producer.send(bank.person("watched"))
    await bank.settle()
    before = await found_at_start(stack)
    await bank.remove_document("watched", 1)
    assert await found_at_start(stack) - before == {("vector", "person", "missing"): 1}
    report = await audited(systems, Scope(prefix=bank.unique, repair=True))
    assert report.repaired == 1
    await bank.settle()
    assert await found_at_start(stack) == before


async def test_the_service_ends_in_the_middle_of_an_audit(stack):
    await found_at_start(stack)
    for _ in range(2):
        stack.restart("verify")
        await told(stack)
    lines = stack.logs("verify", lines=10_000).splitlines()
    begun = [number for number, line in enumerate(lines) if '"starting"' in line]
    ended = [line for line in lines[begun[-3] :] if '"stopped"' in line]
    assert len(ended) == 2
    assert all('"status": 0' in line for line in ended)


async def test_a_repair_that_comes_late_undoes_nothing(stack, producer, systems, bank, vector):
    await producer.send(bank.person("late", 1))
    await bank.settle()
    await bank.remove_document("late", 1)
    stack.pause("vector_consumer")
    try:
        report = await audited(systems, Scope(prefix=bank.unique, repair=True))
        assert report.repaired == 1
        await producer.send(bank.person("late", 2, city="Bonn"))
    finally:
        stack.unpause("vector_consumer")
    await bank.settle()
    report = await audited(systems, Scope(prefix=bank.unique))
    assert (report.status, report.findings) == (Status.IN_STEP, [])
    assert (await vector.get("person", bank.id("late")))["city"] == "Bonn"


async def test_the_same_id_under_two_types_is_two_entities(producer, systems, bank):
    company = create_event("company", bank.id("same"), {"name": "Same"}, source="test", version=9)
    bank.expectation.add(company)
    await producer.send_many([bank.person("same", 4), company])
    await bank.settle()
    story = await run_trace(systems, bank.id("same"), tuple(EntityType))
    assert story.problem == ""
    assert [(one.entity_type, [event.version for event in one.events]) for one in story.entities] == [
        ("person", [4]),
        ("company", [9]),
    ]
    await bank.remove_document("same", 4)
    report = await audited(systems, Scope(prefix=bank.unique))
    assert [(one.entity_type, one.leg, one.word) for one in report.findings] == [("person", "vector", Word.MISSING)]


async def test_a_trace_tells_versions_stores_and_letters(stack, producer, bank):
    first, last = bank.person("traced", 1), bank.person("traced", 3, city="Ulm")
    await producer.send_many([first, last, bank.person("traced", 2)])
    poison = create_person_event(
        bank.id("traced"), "x", {"date_of_birth": "yesterday"}, source="test", version=4, metadata={"k": "secret"}
    )
    await producer.send(poison)
    await bank.settle()
    await until(lambda: archived(stack, bank.id("traced")))
    out, status, problems = await asyncio.to_thread(verify, stack, "trace", bank.id("traced"), "--format", "json")
    story = json.loads(out)
    assert status == story["exit_status"] == 0, problems
    (entity,) = story["entities"]
    assert [event["version"] for event in entity["events"]] == [1, 3, 2, 4]
    assert [event["event_id"] for event in entity["events"]][:2] == [first.event_id, last.event_id]
    assert all(event["acknowledged"] == ["graph", "vector"] for event in entity["events"])
    assert all(event["topic"] == "persons-events" for event in entity["events"])
    assert {(one["leg"], one["word"], one["held"][0]["version"]) for one in entity["stores"]} == {
        ("graph", "dead letter", 3),
        ("vector", "dead letter", 3),
    }
    for leg in BOTH:
        letters = [letter for letter in entity["letters"] if letter["leg"] == leg]
        assert {letter["version"] for letter in letters} == {4}
        assert {letter["attempt"] for letter in letters if letter["state"] == "settled"} == {0, 1, 2, 3}
        assert [letter["attempt"] for letter in letters if letter["state"] == "archived"] == [3]
    assert "secret" not in out


async def test_an_id_that_nobody_knows_and_a_store_that_is_away_are_not_judged(systems, bank):
    story = await run_trace(systems, bank.id("nobody"), tuple(EntityType))
    assert (story.status, story.problem) == (Status.NOT_JUDGED, f"nothing is known of {bank.id('nobody')}")
    away = Systems(GraphSettings(janusgraph_host="127.0.0.1", janusgraph_port=1), systems.vector, systems.letters)
    report = await run_audit(away, Scope(prefix=bank.unique))
    assert report.status is Status.NOT_JUDGED
    assert report.problem.startswith("JanusGraph: ws://127.0.0.1:1")
