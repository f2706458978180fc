"""A repair takes the place of an equal version, and of nothing newer; only a retry topic can bring one."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest

from banking.streaming.consumer import BatchConsumer
from banking.streaming.events import create_event, create_person_event, decode_event
from banking.streaming.health import Health
from banking.streaming.repairs import REPAIR_PROPERTY, RepairEvent, as_received, repair_message
from banking.streaming.sink import Leg
from banking.streaming.testing import InMemoryDeadLetters, InMemorySink, InMemorySource
from banking.streaming.topics import RETRY_TOPICS
from graph_consumer.rows import encode_row, to_row
from vector_consumer.documents import encode_document

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def person(name, version=5):
    return create_person_event("p", name, source="test", version=version)


def message(event):
    return repair_message(Leg.GRAPH, event.to_bytes(), event.entity_id)


async def consume(sink, source):
    stop = asyncio.Event()
    running = asyncio.create_task(BatchConsumer(sink, [source], InMemoryDeadLetters(), Health()).run(stop))
    put = len(source._waiting)
    async with asyncio.timeout(10):
        while len(source.acknowledged) < put:
            await asyncio.sleep(0.001)
    stop.set()
    await running


def put(source, event, *, topic=RETRY_TOPICS[Leg.GRAPH]):
    made = message(event)
    return source.put(made.data, topic=topic, key=made.key, properties=made.properties)


@pytest.mark.parametrize(("held", "stored"), [(4, "published"), (5, "published"), (6, "held")])
async def test_a_repair_is_stored_unless_the_store_is_newer(held, stored):
    sink, source = InMemorySink(), InMemorySource()
    sink.stored["person", "p"] = person("held", held)
    put(source, person("published"))
    await consume(sink, source)
    assert sink.stored["person", "p"].payload["name"] == stored


async def test_an_entity_topic_brings_no_repairs_whatever_it_claims():
    sink, source = InMemorySink(), InMemorySource()
    sink.stored["person", "p"] = person("held")
    put(source, person("published"), topic="persons-events")
    await consume(sink, source)
    assert sink.stored["person", "p"].payload["name"] == "held"


@pytest.mark.parametrize("repair_first", [True, False])
async def test_beside_a_retry_of_the_same_version_the_repair_is_written(repair_first):
    sink, source = InMemorySink(), InMemorySource()
    sink.stored["person", "p"] = person("held")
    retry = person("retried")
    if repair_first:
        put(source, person("published"))
    source.put(retry.to_bytes(), topic=RETRY_TOPICS[Leg.GRAPH], key="p")
    if not repair_first:
        put(source, person("published"))
    await consume(sink, source)
    assert sink.stored["person", "p"].payload["name"] == "published"


def test_a_repair_is_the_event_itself_with_its_bytes_and_key():
    event = person("Ann")
    made = message(event)
    assert (made.topic, made.data, made.key) == (RETRY_TOPICS[Leg.GRAPH], event.to_bytes(), "p")
    assert made.properties == {REPAIR_PROPERTY: "equal-version"}
    assert made.deliver_after is None
    received = as_received(decode_event(made.data), put(InMemorySource(), event))
    assert isinstance(received, RepairEvent)
    assert received.to_bytes() == event.to_bytes()


@pytest.mark.parametrize("event_type", ["update", "delete"])
def test_both_stores_are_told(event_type):
    plain = create_event("person", "p", source="test", version=5, event_type=event_type)
    repair = as_received(plain, put(InMemorySource(), plain))
    for event, repairs, version_type in ((plain, False, "external"), (repair, True, "external_gte")):
        assert json.loads(encode_row(to_row(event, NOW)))[5] is repairs
        action = json.loads(encode_document(event, "i", None, NOW).splitlines()[0])
        assert action["index"]["version_type"] == version_type
        assert action["index"]["version"] == 5
