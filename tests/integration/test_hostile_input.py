"""Hostile input against the real fleet: the good events between are stored exactly, and so is what is hostile, or it is
a dead letter with its bytes; no service ends or grows, and no text becomes a command."""

from __future__ import annotations

import asyncio
import json
import random
import re
import urllib.request
import uuid
from collections import Counter

import aiohttp
import msgspec
import pytest

from banking.streaming.archive import ArchivedLetter
from banking.streaming.broker import Outgoing, Publisher, connect
from banking.streaming.entities import EntityType
from banking.streaming.events import EventDecodeError, create_event, decode_event
from banking.streaming.payloads import InvalidPayloadError, check_payload
from banking.streaming.topics import DLQ_TOPIC, ENTITY_TOPICS, REQUESTS_TOPIC, RETRY_TOPICS, full_name
from fleet.comparison import Expectation, wait_until_equal
from fleet.compose import SERVICES
from tests.hostile import (
    IDS,
    NO_EVENTS,
    STRANGE_EVENTS,
    TEXTS,
    WRONG_PAYLOADS,
    event_with,
    renamed,
    with_payload,
    zeros_packed,
)
from tests.integration.conftest import archived_letters
from tests.replay import document_of, documents_as_they_are, graph_as_it_is, vertex_of, vertices_by_scan

SECONDS = 120.0
LEGS = ("graph", "vector")
# Of 400 MiB that a container of theirs may take; what is left is room for bytes in flight.
MAX_RESIDENT_BYTES = 380 * 1024 * 1024


@pytest.fixture
def unique():
    return uuid.uuid4().hex[:12]


@pytest.fixture
async def publisher(stack):
    publisher = Publisher(stack.addresses.broker)
    yield publisher
    await publisher.close()


@pytest.fixture(scope="module", autouse=True)
def unharmed(stack):
    """Whatever the tests send: no container was restarted or has grown too far, no index is gone, no file was made."""
    before = stack.containers(), indices_of(stack)
    yield
    started = {each.name: each.started for each in stack.containers()}
    assert started == {each.name: each.started for each in before[0]}
    assert indices_of(stack) == before[1]
    for service in SERVICES:
        status = stack.exec(service, "sh", "-c", "cat /proc/1/status; ls /tmp")
        resident = int(re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)[1]) * 1024
        assert resident < MAX_RESIDENT_BYTES, service
        assert "owned" not in status, service
        for entry in map(json.loads, stack.logs(service, lines=1000).splitlines()):
            assert {"event", "level", "timestamp"} <= set(entry)
            assert "exception" not in entry
    assert "owned" not in stack.exec("janusgraph", "ls", "/tmp")


def indices_of(stack):
    url = f"http://127.0.0.1:{stack.addresses.opensearch}/_cat/indices/banking-*?h=index,uuid"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return sorted(answer.read().splitlines())


def send_the_largest(stack, traffic):
    """Messages whose letters are larger than the broker takes in one piece."""
    client = connect(stack.addresses.broker)
    producer = client.create_producer(full_name(ENTITY_TOPICS[EntityType.PERSON]), batching_enabled=False)
    for number in range(3):  # one for each batch that a leg has in flight
        key, data = f"{traffic.unique}-largest-{number}", random.Random(number).randbytes(5 * 1024 * 1024 - 100)
        producer.send(data, partition_key=key)
        traffic.letters[key] = data
    client.close()


class Traffic:
    """Messages as they are sent, and what must become of each."""

    def __init__(self, unique):
        self.unique = unique
        self.messages = []
        self.expected = Expectation()
        self.stored = []
        self.letters = {}

    def good(self, number):
        for _ in range(number):
            name = f"{self.unique}-good-{len(self.messages)}"
            self.event(create_event("person", name, {"name": "Ann"}, source="test"))

    def event(self, event, data=None):
        data = event.to_bytes() if data is None else data
        self.messages.append(Outgoing(ENTITY_TOPICS[event.entity_type], data, event.entity_id))
        self.expected.add(event)
        self.stored.append(event)

    def hostile(self, name, data):
        """What is an event that fits is stored, and what is not is a letter of both legs."""
        key = f"{self.unique}-{name}"
        data = renamed(data, key)
        try:
            event = decode_event(data)
            check_payload(event.entity_type, event.payload)
        except (EventDecodeError, InvalidPayloadError):
            self.messages.append(Outgoing(ENTITY_TOPICS[EntityType.ACCOUNT], data, key))
            self.letters[key] = data
        else:
            self.event(event, data)


async def letters_of(stack, keys, number):
    """The archived letters of some keys, once there are so many."""
    async with asyncio.timeout(SECONDS):
        while True:
            listed = await asyncio.to_thread(archived_letters, stack)
            letters = [letter for letter in listed if letter["key"] in keys]
            if len(letters) >= number:
                return letters
            await asyncio.sleep(1)


async def content_of(stack, letters):
    """The letters with their content, read from the archive's objects in one go."""
    places = sorted({letter["place"] for letter in letters})
    script = (
        "import sys, zstandard\n"
        "for place in sys.argv[1:]:\n"
        "    packed = open(f'/archive/v1/letters/{place}', 'rb').read()\n"
        "    sys.stdout.buffer.write(zstandard.ZstdDecompressor().decompress(packed))"
    )
    output = await asyncio.to_thread(stack.exec, "dlq_worker", "python", "-c", script, *places, timeout_seconds=60)
    return msgspec.json.Decoder(ArchivedLetter).decode_lines(output.encode())


async def assert_stored(readers, traffic):
    comparisons = await asyncio.gather(*(wait_until_equal(reader, traffic.expected, SECONDS) for reader in readers))
    for comparison in comparisons:
        assert comparison.differences == []
        assert comparison.equal == traffic.expected.count()


async def test_any_bytes_between_good_events(stack, publisher, graph, vector, unique):
    traffic = Traffic(unique)
    corpus = {**NO_EVENTS, **STRANGE_EVENTS, **{name: with_payload(data) for name, data in WRONG_PAYLOADS.items()}}
    for name, data in corpus.items():
        traffic.good(4)
        traffic.hostile(name, data)
    traffic.good(4)
    await publisher.publish_all(traffic.messages)
    await asyncio.to_thread(send_the_largest, stack, traffic)
    await assert_stored((graph, vector), traffic)
    letters = await letters_of(stack, traffic.letters, 2 * len(traffic.letters))
    assert Counter(letter["key"] for letter in letters) == dict.fromkeys(traffic.letters, 2)
    assert {(letter["leg"], letter["attempt"]) for letter in letters} == {(leg, 3) for leg in LEGS}
    archived = [each for each in await content_of(stack, letters) if each.key in traffic.letters]
    assert len(archived) == len(letters)
    assert all(each.data == traffic.letters[each.key] for each in archived)
    shown = stack.exec("dlq_worker", "dlq_worker", "show", letters[0]["letter_id"], "--format", "json", "--payload")
    assert json.loads(shown).get("text", "").encode() in (b"", traffic.letters[letters[0]["key"]])


async def test_texts_and_ids_are_no_commands(stack, publisher, graph, vector, unique):
    """Each text in every field of every type, and each awkward id as an entity's and as a reference's."""
    traffic = Traffic(unique)
    traffic.good(5)
    for entity_type in EntityType:
        for name, text in TEXTS.items():
            traffic.event(event_with(entity_type, f"{unique}-{name}", text))
        for entity_id in IDS:
            own = f"{unique[:4]}{entity_id}"[:256]
            traffic.event(event_with(entity_type, own, "x", target_id=own))
    traffic.good(5)
    before = await vertices_by_scan(stack.addresses.graph_settings())
    await publisher.publish_all(traffic.messages)
    await assert_stored((graph, vector), traffic)

    wanted = {}
    for event in traffic.stored:
        vertex = vertex_of(event)
        wanted[vertex[0]["entity_key"]] = vertex
    found = await graph_as_it_is(graph, list(wanted))
    assert found == wanted
    for entity_type in EntityType:
        events = {event.entity_id: event for event in traffic.stored if event.entity_type is entity_type}
        async for entity_id, document, version in documents_as_they_are(vector, entity_type, list(events)):
            document.pop("embedding", None)
            assert document == document_of(events[entity_id]), entity_id
            assert version == events[entity_id].version
    # A full scan: nothing else was made, and nothing removed.
    targets = {target for _, edges in wanted.values() for _, target, _ in edges}
    made = set(wanted) | targets
    after = await vertices_by_scan(stack.addresses.graph_settings())
    assert after - before == Counter(dict.fromkeys(made, 1))


async def test_messages_of_the_fleet_s_own_topics(stack, publisher, graph, vector, unique):
    """Bytes, keys and properties of anybody's in the topics by which the services talk to each other."""
    draw = random.Random(3)
    messages = []
    for name, data in draw.sample(sorted(NO_EVENTS.items()), 12):
        for topic in (DLQ_TOPIC, *RETRY_TOPICS.values(), REQUESTS_TOPIC):
            properties = {
                "dlq-letter-id": f"../../{unique}-{name}-{topic}",
                "dlq-leg": draw.choice(["graph", "vector", "../../x"]),
                "dlq-topic": draw.choice(["persons-events", "../../../escaped"]),
                "dlq-reason": draw.choice(["invalid_field", TEXTS["terminal"]]),
                "dlq-error": draw.choice(list(TEXTS.values()))[:1000],
                "dlq-attempt": draw.choice(["0", "3", "-1", "9" * 5000, "\uff13"]),
                "dlq-first-failure": draw.choice(["2026-01-01T00:00:00Z", "0001-01-01T00:00:00+18:00", "never"]),
                "dlq-last-failure": "2026-01-01T00:00:00Z",
                "repair": "equal-version",
                TEXTS["path"]: TEXTS["groovy"],
            }
            messages.append(Outgoing(topic, data, f"{unique}-{name}", properties))
    traffic = Traffic(unique)
    traffic.good(40)
    await publisher.publish_all(messages)
    await publisher.publish_all(traffic.messages)
    await assert_stored((graph, vector), traffic)
    # Those of the dead-letter topic, and those that a leg has rejected; what retries them is the archive's own.
    keys = {message.key for message in messages}
    letters = await letters_of(stack, keys, 3 * len(keys))
    archived = [each for each in await content_of(stack, letters) if each.key in keys]
    sent = {message.key: message.data for message in messages}
    assert all(each.data == sent[each.key] for each in archived)
    folders = stack.exec("dlq_worker", "find", "/archive", "-type", "d").splitlines()
    own = re.compile(r"/archive(/v1(/probe|/(letters|manifest|replays)(/date=[\d-]{10}(/type=[a-z]+)?)?)?)?")
    assert [folder for folder in folders if own.fullmatch(folder) is None] == []
    listing = stack.exec("dlq_worker", "dlq_worker", "list", "--limit", "10000", timeout_seconds=60)
    assert all(character.isprintable() for line in listing.split("\n") for character in line)


async def test_requests_of_any_kind(stack, graph, vector, unique):
    traffic = Traffic(unique)
    url = f"{stack.addresses.producer_url}/v1/events"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as http:

        async def post(data, content_type="application/json", **headers):
            async with http.post(url, data=data, headers={"Content-Type": content_type, **headers}) as response:
                answer = json.loads(await response.read())
                assert response.status in {202, 400, 413, 415}, (response.status, answer)
                return response.status

        for name, data in {**NO_EVENTS, **STRANGE_EVENTS}.items():
            await post(renamed(data, f"{unique}-http-{name}"))
        for pack in ("gzip", "zstd"):
            bomb = zeros_packed(pack, 300)
            assert await post(bomb, **{"Content-Encoding": pack}) == 413
            assert await post(bomb, "application/x-ndjson", **{"Content-Encoding": pack}) == 400
        assert await post(b"[" + b"0," * 8_000_000 + b"0]") == 413
        assert await post(b"[" + b"{}," * 1_900_000 + b"{}]") == 400
        dense = b'{"entity_id":"x","entity_type":"account","payload":{"x":[%s0]}}'
        assert await post(dense % (b"{}," * 5_000_000)) == 400
        assert await post(dense % (b"{}," * 1_300_000)) == 400
        for text in TEXTS.values():
            event = create_event("person", f"{unique}-{len(traffic.stored)}", {"name": text, text: text}, source="t")
            assert await post(event.to_bytes(), **{"Idempotency-Key": f'"{uuid.uuid4()}"'}) == 202
            traffic.event(event)
    await assert_stored((graph, vector), traffic)
