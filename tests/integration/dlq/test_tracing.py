"""One trace from a request through Pulsar to both stores, and on through retries to the archive."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from functools import partial
from typing import TYPE_CHECKING

import aiohttp

from banking.streaming import create_person_event
from banking.streaming.broker import Outgoing
from banking.streaming.sink import Leg
from banking.streaming.topics import LEG_SUBSCRIPTIONS
from banking.streaming.tracing import TRACEPARENT
from tests.collector import collecting
from tests.integration.dlq.conftest import LegProcess, Process, Worker, readiness

if TYPE_CHECKING:
    from banking.streaming.archive import DeadLetterArchive
    from banking.streaming.broker import Publisher
    from tests.collector import Span
    from tests.integration.dlq.conftest import Lane

PRODUCER_PROGRAM = """
import sys
from banking.streaming import producer
from banking.streaming.entities import EntityType

producer.ENTITY_TOPICS = {EntityType.PERSON: sys.argv[1]}

from producer.server import run
from producer.settings import ProducerSettings

run(ProducerSettings())
"""


class Producer(Process):
    """The producer, which publishes persons to a lane."""

    def __init__(self, lane: Lane, **environment: str) -> None:
        super().__init__(PRODUCER_PROGRAM, lane, "nowhere", {"API_AUTHENTICATION": "false"} | environment)


async def post(address: str, events: list[dict[str, object]], traceparent: str | None = None) -> None:
    headers = {} if traceparent is None else {TRACEPARENT: traceparent}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session,
        session.post(f"{address}/v1/events", json=events, headers=headers) as response,
    ):
        assert response.status == 202, await response.text()


def person(entity_id: str, **fields: object) -> dict[str, object]:
    return {
        "entity_type": "person",
        "entity_id": entity_id,
        "event_type": "create",
        "payload": {"name": f"Ada {entity_id}"},
        **fields,
    }


def total(spans: list[Span], result: str) -> int:
    return sum(span.attributes.get(f"banking.events.{result}", 0) for span in spans)


async def test_one_trace_from_the_request_to_both_stores_and_to_the_archive(
    lane: Lane, archive: DeadLetterArchive, graph_store: dict[str, str], vector_store: dict[str, str]
) -> None:
    mark = uuid.uuid4().hex
    caller, span_of_caller = uuid.uuid4().hex, uuid.uuid4().hex[:16]
    async with collecting() as collector, contextlib.AsyncExitStack() as stack:
        to = {"TRACING_ENDPOINT": collector.endpoint}
        graph = await stack.enter_async_context(LegProcess(lane, graph_store, **to))
        vector = await stack.enter_async_context(LegProcess(lane, vector_store, **to))
        worker = await stack.enter_async_context(Worker(lane, archive, DLQ_RETRY_DELAYS_SECONDS="0.5", **to))
        # It lets a version through that lies too far ahead for the legs.
        producer = await stack.enter_async_context(Producer(lane, MAX_CLOCK_SKEW_SECONDS="86400", **to))
        for process in (graph, vector, worker, producer):
            await readiness(await process.address(), lambda missing: not missing)
        address = await producer.address()

        await post(address, [person(f"{mark}-{number}") for number in range(3)], f"00-{caller}-{span_of_caller}-01")
        (request,) = await collector.until(lambda: collector.named("producer", "POST /v1/events"))
        assert (request.trace, request.parent) == (caller, span_of_caller)
        assert request.attributes["http.response.status_code"] == 202
        (publish,) = collector.named("producer", "publish events")
        assert (publish.trace, publish.parent) == (caller, request.id)
        assert total([publish], "accepted") == 3
        for leg in ("graph", "vector"):
            of_leg = partial(collector.named, f"{leg}_consumer")
            async with asyncio.timeout(60):
                while total(of_leg(f"{leg} settle", caller), "applied") < 3:
                    await asyncio.sleep(0.05)
            for span in of_leg(f"{leg} settle", caller):
                assert span.parent == publish.id
                (batch,) = [each for each in of_leg(f"{leg} batch") if each.id in span.links]
                assert (batch.parent, batch.links) == ("", {publish.id})
                assert batch.trace != caller
                writes = [each for each in of_leg(f"{leg} write") if each.parent == batch.id]
                assert writes
                assert {write.trace for write in writes} == {batch.trace}

        # What a leg cannot store: its trace goes on with it, to its retry and to the archive.
        assert await vector.stop() == 0
        tomorrow = (time.time_ns() // 1000) + 3600 * 1_000_000
        await post(address, [person(f"{mark}-ahead", version=tomorrow)])
        (publish,) = await collector.until(
            lambda: [span for span in collector.named("producer", "publish events") if span.trace != caller]
        )
        refused = await collector.until(lambda: collector.named("graph_consumer", "graph settle", publish.trace), 2)
        assert [(span.attributes, span.failed) for span in refused] == [({"banking.events.rejected": 1}, True)] * 2
        letters = await collector.until(lambda: collector.named("dlq_worker", "dlq settle", publish.trace), 2)
        assert [span.attributes for span in letters] == [{"banking.events.retried": 1}, {"banking.events.archived": 1}]
        assert {span.parent for span in (*refused, *letters)} == {publish.id}
        assert not [span for span in collector.spans if mark.encode() in span.raw or b"Ada" in span.raw]


async def test_hostile_contexts_and_a_collector_that_is_away_stop_nothing(
    lane: Lane, publisher: Publisher, vector_store: dict[str, str]
) -> None:
    mark = uuid.uuid4().hex
    nowhere = {"TRACING_ENDPOINT": "http://127.0.0.1:9/v1/traces"}
    async with Producer(lane, **nowhere) as producer, LegProcess(lane, vector_store, **nowhere) as leg:
        for process in (producer, leg):
            await readiness(await process.address(), lambda missing: not missing)
        address = await producer.address()
        for number, text in enumerate(("", "00-", "0" * 7000, f"00-{'0' * 32}-{'1' * 16}-01", "é" * 55)):
            await post(address, [person(f"{mark}-{number}")], text)
        hostile = create_person_event(f"{mark}-raw", "Ada", source="test")
        await publisher.publish(
            Outgoing(lane.events, hostile.to_bytes(), hostile.entity_id, {TRACEPARENT: "0" * 1_000_000})
        )
        async with asyncio.timeout(60):
            while (await lane.state(lane.events, LEG_SUBSCRIPTIONS[Leg.VECTOR]))["msgBacklog"]:
                await asyncio.sleep(0.1)
            while not all(any("takes no spans" in line for line in each.lines) for each in (producer, leg)):
                await asyncio.sleep(0.1)
        started = time.monotonic()
        assert [await each.stop() for each in (producer, leg)] == [0, 0]
        assert time.monotonic() - started < 30
        for process in (producer, leg):
            assert sum("takes no spans" in line for line in process.lines) == 1
        assert not [line for line in leg.lines if "rejected" in line]
