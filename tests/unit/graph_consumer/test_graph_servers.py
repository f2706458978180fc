"""Which of several JanusGraph servers is asked to write what."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from banking.streaming.entities import EntityType
from banking.streaming.events import EntityEvent, create_event
from banking.streaming.sink import APPLIED, BatchFailedError, RejectionReason, SinkUnavailableError
from banking.streaming.topics import ordering_key
from graph_consumer.model import build_model
from graph_consumer.settings import GraphSettings
from graph_consumer.sink import GraphSink

from .conftest import GremlinServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .conftest import Request

FINGERPRINT = build_model()["fingerprint"]
IDS = [f"p{number}" for number in range(40)]


class Writer:
    """A server's batch writer: remembers the ids it wrote, or fails as told."""

    def __init__(self, server: GremlinServer) -> None:
        self.server = server
        self.written: list[str] = []
        self.failure: tuple[int, str, list[str]] | None = None
        self.fingerprint = FINGERPRINT
        server.handle = self.handle

    async def handle(self, request: Request) -> None:
        if request.script == "writer.check()":
            await request.answer([self.fingerprint])
        elif self.failure is not None:
            await request.fail(*self.failure)
        else:
            ids = [row[1] for row in json.loads(request.arguments["bindings"]["batch"])["rows"]]
            self.written.extend(ids)
            await request.answer([json.dumps({"model": self.fingerprint, "outcomes": ["applied"] * len(ids)})])


@pytest.fixture
async def writers() -> AsyncIterator[list[Writer]]:
    servers = [GremlinServer(), GremlinServer()]
    for server in servers:
        await server.start()
    yield [Writer(server) for server in servers]
    for server in servers:
        await server.stop()


@pytest.fixture
async def sink(writers: list[Writer]) -> AsyncIterator[GraphSink]:
    hosts = ", ".join(f"127.0.0.1:{writer.server.port}" for writer in writers)
    sink = GraphSink(GraphSettings(janusgraph_host=hosts))
    await sink.open()
    yield sink
    await sink.close()


def person(entity_id: str, **payload: Any) -> EntityEvent:
    return create_event(EntityType.PERSON, entity_id, payload, source="test", version=1)


def of_bucket(remainder: int) -> list[str]:
    return [entity_id for entity_id in IDS if int(ordering_key(entity_id)) % 2 == remainder]


async def test_each_bucket_goes_to_one_server_and_outcomes_keep_their_places(
    sink: GraphSink, writers: list[Writer]
) -> None:
    events = [person("odd", name=7), *(person(entity_id) for entity_id in IDS)]
    outcomes = await sink.write(events)
    assert outcomes[0].reason is RejectionReason.INVALID_FIELD
    assert outcomes[1:] == [APPLIED] * len(IDS)
    assert [writer.written for writer in writers] == [of_bucket(0), of_bucket(1)]
    assert writers[0].written
    assert writers[1].written


async def test_the_next_server_stands_in_until_the_one_that_was_away_is_back(
    sink: GraphSink, writers: list[Writer]
) -> None:
    away, stand_in = writers
    port = away.server.port
    await away.server.stop()
    with pytest.raises(SinkUnavailableError, match="away"):
        await sink.write([person(entity_id) for entity_id in IDS])
    stand_in.written.clear()
    assert await sink.write([person(entity_id) for entity_id in IDS]) == [APPLIED] * len(IDS)
    assert sorted(stand_in.written) == sorted(IDS)
    await sink.check()  # one server is enough

    back = Writer(GremlinServer())
    await back.server.start(port)
    await sink.check()
    stand_in.written.clear()
    assert await sink.write([person(entity_id) for entity_id in IDS]) == [APPLIED] * len(IDS)
    assert [back.written, stand_in.written] == [of_bucket(0), of_bucket(1)]
    await back.server.stop()


async def test_all_away_is_unavailable(sink: GraphSink, writers: list[Writer]) -> None:
    for writer in writers:
        await writer.server.stop()
    with pytest.raises(SinkUnavailableError, match="not ready"):
        await sink.check()
    with pytest.raises(SinkUnavailableError, match="away"):
        await sink.write([person(IDS[0])])


async def test_a_server_with_another_model_is_passed_over(sink: GraphSink, writers: list[Writer]) -> None:
    writers[1].fingerprint = "another"
    await sink.check()
    assert await sink.write([person(entity_id) for entity_id in IDS]) == [APPLIED] * len(IDS)
    assert sorted(writers[0].written) == sorted(IDS)


async def test_a_server_that_answers_an_error_keeps_its_buckets(sink: GraphSink, writers: list[Writer]) -> None:
    writers[0].failure = (597, "odd", ["java.lang.ClassCastException"])
    with pytest.raises(BatchFailedError, match="ClassCastException"):
        await sink.write([person(entity_id) for entity_id in IDS])
    writers[0].failure = None
    await sink.write([person(entity_id) for entity_id in IDS])
    assert writers[0].written == of_bucket(0)


async def test_an_entity_that_another_server_still_writes_is_waited_for(sink: GraphSink, writers: list[Writer]) -> None:
    writers[0].failure = (597, "another server still writes buckets of this batch", ["fleet.ForeignEntityException"])
    async with asyncio.timeout(10):
        with pytest.raises(SinkUnavailableError, match="another server still writes"):
            await sink.write([person(entity_id) for entity_id in IDS])


@pytest.mark.parametrize(
    ("hosts", "servers"),
    [
        ("graph", [("graph", 8182)]),
        ("graph-1,graph-2:8183", [("graph-1", 8182), ("graph-2", 8183)]),
        (" a , b ", [("a", 8182), ("b", 8182)]),
        ("[::1]:1,10.0.0.1", [("[::1]", 1), ("10.0.0.1", 8182)]),
    ],
)
def test_hosts_may_be_several_with_ports_of_their_own(hosts: str, servers: list[tuple[str, int]]) -> None:
    assert GraphSettings(janusgraph_host=hosts).janusgraph_servers == servers


@pytest.mark.parametrize("hosts", ["a,,b", "a:b", "http://a", "a b", ",", "a:65536", "a:0"])
def test_what_is_no_host_is_refused(hosts: str) -> None:
    with pytest.raises(ValidationError, match="expected HOST or HOST:PORT"):
        GraphSettings(janusgraph_host=hosts)
