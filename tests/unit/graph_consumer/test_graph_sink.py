from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from banking.streaming.entities import EntityType
from banking.streaming.events import EntityEvent, create_event
from banking.streaming.sink import (
    APPLIED,
    STALE,
    BatchFailedError,
    RejectionReason,
    SinkUnavailableError,
    Status,
)
from graph_consumer import sink as sink_module
from graph_consumer.model import build_model
from graph_consumer.settings import GraphSettings
from graph_consumer.sink import GraphSink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .conftest import GremlinServer, Request

FINGERPRINT = build_model()["fingerprint"]


class Writer:
    """The server's side: says what is asked of it, in turn, then applies everything."""

    def __init__(self) -> None:
        self.failures: list[tuple[int, str, list[str]]] = []
        self.outcomes: list[Any] = []
        self.batches: list[list[Any]] = []
        self.fingerprint = FINGERPRINT
        self.is_healthy = True

    async def handle(self, request: Request) -> None:
        if request.script == "writer.check()":
            if self.is_healthy:
                await request.answer([self.fingerprint])
            else:
                await request.fail(597, "No such property: writer", ["groovy.lang.MissingPropertyException"])
            return
        if self.failures:
            await request.fail(*self.failures.pop(0))
            return
        rows = json.loads(request.arguments["bindings"]["batch"])["rows"]
        self.batches.append(rows)
        outcomes = self.outcomes or ["applied"] * len(rows)
        await request.answer([json.dumps({"model": self.fingerprint, "outcomes": outcomes})])


@pytest.fixture
def writer(server: GremlinServer) -> Writer:
    writer = Writer()
    server.handle = writer.handle
    return writer


@pytest.fixture
async def sink(server: GremlinServer, writer: Writer) -> AsyncIterator[GraphSink]:
    sink = GraphSink(GraphSettings(janusgraph_host="127.0.0.1", janusgraph_port=server.port))
    yield sink
    await sink.close()


def person(entity_id: str, **payload: Any) -> EntityEvent:
    return create_event(EntityType.PERSON, entity_id, payload, source="test", version=1)


DEADLOCK = (597, "deadlock", ["org.janusgraph.core.JanusGraphException", "com.sleepycat.je.DeadlockException"])


async def test_outcomes_stand_in_the_order_of_the_events(sink: GraphSink, writer: Writer) -> None:
    writer.outcomes = ["stale", ["invalid", "name", "too odd"], "applied"]
    outcomes = await sink.write([person("a"), person("b", name=1), person("c"), person("d")])
    assert outcomes[0] == STALE
    assert (outcomes[1].reason, outcomes[1].detail[:12]) == (RejectionReason.INVALID_FIELD, "payload.name")
    assert (outcomes[2].reason, outcomes[2].detail) == (RejectionReason.INVALID_FIELD, "name: too odd")
    assert outcomes[3] == APPLIED


async def test_nothing_valid_asks_nothing(sink: GraphSink, server: GremlinServer) -> None:
    assert [outcome.status for outcome in await sink.write([person("a", name=1)])] == [Status.REJECTED]
    assert await sink.write([]) == []
    assert server.requests == []


async def test_a_deadlock_is_tried_again(sink: GraphSink, writer: Writer) -> None:
    writer.failures = [DEADLOCK, DEADLOCK]
    assert await sink.write([person("a")]) == [APPLIED]
    assert writer.failures == []


async def test_lasting_deadlocks_are_a_retry(sink: GraphSink, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "_CONTENTION_ATTEMPTS", 2)
    writer.failures = [DEADLOCK] * 2
    assert [outcome.status for outcome in await sink.write([person("a"), person("b")])] == [Status.RETRY] * 2


@pytest.mark.parametrize(
    "failure",
    [
        (598, "Evaluation exceeded the configured 'evaluationTimeout'", ["java.util.concurrent.TimeoutException"]),
        (597, "disk full", ["org.janusgraph.core.JanusGraphException", "com.sleepycat.je.DiskLimitException"]),
        (597, "no node", ["org.janusgraph.diskstorage.TemporaryBackendException"]),
        (401, "who are you?", []),
    ],
)
async def test_trouble_of_the_store_is_never_an_events_fault(
    sink: GraphSink, writer: Writer, failure: tuple[int, str, list[str]]
) -> None:
    writer.failures = [failure]
    if failure[0] == 401:
        writer.is_healthy = False
    with pytest.raises(SinkUnavailableError):
        await sink.write([person("a")])


async def test_another_failure_of_a_healthy_server_is_the_batchs(sink: GraphSink, writer: Writer) -> None:
    writer.failures = [(597, "value [Ann] is odd", ["java.lang.ClassCastException"])]
    with pytest.raises(BatchFailedError, match=r"597 java\.lang\.ClassCastException") as caught:
        await sink.write([person("a")])
    assert "Ann" not in str(caught.value)


async def test_a_failure_of_a_server_whose_script_engine_is_broken_is_not(sink: GraphSink, writer: Writer) -> None:
    writer.failures = [(597, "No such property: writer", ["groovy.lang.MissingPropertyException"])]
    writer.is_healthy = False
    with pytest.raises(SinkUnavailableError, match="not ready"):
        await sink.write([person("a")])
    with pytest.raises(SinkUnavailableError, match="not ready"):
        await sink.open()


async def test_a_server_that_is_away_is_unavailable(sink: GraphSink, server: GremlinServer) -> None:
    await server.stop()
    for call in (sink.open(), sink.check(), sink.write([person("a")])):
        with pytest.raises(SinkUnavailableError):
            await call


async def test_another_model_on_the_server_is_unavailable(sink: GraphSink, writer: Writer) -> None:
    await sink.open()
    writer.fingerprint = "another"
    for call in (sink.check(), sink.write([person("a")])):
        with pytest.raises(SinkUnavailableError, match="another"):
            await call


async def test_an_answer_that_misses_rows_is_unavailable(sink: GraphSink, writer: Writer) -> None:
    writer.outcomes = ["applied"]
    with pytest.raises(SinkUnavailableError, match="every row"):
        await sink.write([person("a"), person("b")])


async def test_a_large_batch_is_cut_by_bytes(sink: GraphSink, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "_CHUNK_BYTES", 3000)
    events = [person(f"{number}", name="x" * size) for number, size in enumerate([1000, 1000, 5000, 1000, 1000])]
    assert await sink.write(events) == [APPLIED] * 5
    assert [[row[1] for row in batch] for batch in writer.batches] == [["0", "1"], ["2"], ["3", "4"]]


async def test_a_row_larger_than_any_request_is_rejected_alone(server: GremlinServer, writer: Writer) -> None:
    sink = GraphSink(
        GraphSettings(janusgraph_host="127.0.0.1", janusgraph_port=server.port, janusgraph_max_request_bytes=65536)
    )
    outcomes = await sink.write([person("a", name="x" * 65536), person("b")])
    assert [outcome.reason for outcome in outcomes] == [RejectionReason.REFUSED_BY_STORE, None]
    assert "JANUSGRAPH_MAX_REQUEST_BYTES" in outcomes[0].detail
    await sink.close()
