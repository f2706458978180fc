"""Traces without servers: what is imported, what hostile contexts do, what a batch's spans say, and no collector."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from banking.streaming import create_person_event, tracing
from banking.streaming.archive import archived_letter
from banking.streaming.consumer import BatchConsumer
from banking.streaming.dead_letters import received_letter, rejected_letter
from banking.streaming.health import Health
from banking.streaming.producer import _message
from banking.streaming.service import run_service
from banking.streaming.settings import ServiceSettings, load_settings
from banking.streaming.sink import Leg, RejectionReason, rejected
from banking.streaming.testing import InMemoryDeadLetters, InMemorySink, InMemorySource
from banking.streaming.topics import RETRY_TOPICS
from banking.streaming.tracing import MAX_TRACES_PER_BATCH, TRACEPARENT, traceparent_of
from tests.collector import collecting

HOSTILE = (
    "",
    "00",
    "00-" + "0" * 32 + "-" + "1" * 16 + "-01",
    "00-" + "1" * 32 + "-" + "0" * 16 + "-01",
    "00-" + "A" * 32 + "-" + "1" * 16 + "-01",
    "00-" + "1" * 32 + "-" + "1" * 16 + "-01\n",
    "00-" + "1" * 32 + "-" + "1" * 16 + "-01-more",
    "00-" + "\u0661" * 32 + "-" + "1" * 16 + "-01",
    "\udc80" * 55,
    "0" * 4_000_000,
)


def traceparent(number, *, sampled=True):
    return f"00-{number:032x}-{number:016x}-{sampled:02x}"


@pytest.fixture
def spans():
    """What is traced meanwhile, with a provider that the program has of its own."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.start_tracing(provider)
    yield exporter.get_finished_spans
    tracing.stop_tracing()


def by_name(spans, name):
    return [span for span in spans if span.name == name]


@asynccontextmanager
async def leg(source, judge=lambda _event: None):
    sink, dead, stop = InMemorySink(), InMemoryDeadLetters(), asyncio.Event()
    sink.judge = judge
    task = asyncio.create_task(BatchConsumer(sink, [source], dead, Health()).run(stop))
    try:
        yield dead
    finally:
        stop.set()
        await asyncio.wait_for(task, 5)


async def settled(source, number):
    async with asyncio.timeout(10):
        while len(source.acknowledged) < number:
            await asyncio.sleep(0.001)


def put(source, number, properties, entity_id=None):
    event = create_person_event(entity_id or f"p-{number}", "Ann", source="test", version=number + 1)
    return source.put(event.to_bytes(), key=event.entity_id, properties=properties)


PROGRAM = """
import asyncio, os, sys
{environment}
from banking.streaming.service import run_service
from banking.streaming.leg import LegSettings
from producer import cli, server
from graph_consumer.sink import GraphSink
from vector_consumer.sink import VectorSink
from dlq_worker import worker
from banking.streaming import EntityProducer

async def main(service):
    print("modules", sorted(name for name in sys.modules if name.startswith("opentelemetry"))[:3])

run_service("test", LegSettings(http_port=0), main)
"""


@pytest.mark.parametrize(("endpoint", "imported"), [(None, False), ("", False), ("http://127.0.0.1:9/v1/traces", True)])
def test_nothing_of_opentelemetry_is_imported_unless_a_collector_is_named(endpoint, imported):
    environment = "" if endpoint is None else f"os.environ['TRACING_ENDPOINT'] = {endpoint!r}"
    program = PROGRAM.format(environment=environment)
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, env={"PATH": ""}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert ("modules []" not in result.stdout) == imported
    assert "modules [" in result.stdout


@pytest.mark.parametrize("ratio", ["-0.1", "1.5", "nan", "all"])
def test_a_wrong_setting_is_refused(monkeypatch, capsys, ratio):
    monkeypatch.setenv("TRACING_SAMPLE_RATIO", ratio)
    monkeypatch.setenv("TRACING_ENDPOINT", "collector:4318")
    with pytest.raises(SystemExit):
        load_settings(ServiceSettings)
    assert {"TRACING_SAMPLE_RATIO", "TRACING_ENDPOINT"} <= set(capsys.readouterr().err.replace(":", " ").split())


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_context_that_is_not_well_formed_is_none(text):
    assert traceparent_of({TRACEPARENT: text}) is None


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True))
def test_any_text_is_a_context_or_none(text):
    found = traceparent_of({TRACEPARENT: text})
    assert found in (None, text)
    if found is not None:
        assert len(found) == 55


async def test_hostile_contexts_change_nothing(spans):
    source = InMemorySource()
    for number, text in enumerate(HOSTILE):
        put(source, number, {TRACEPARENT: text})
    async with leg(source, lambda _event: rejected(RejectionReason.INVALID_FIELD, "x")) as dead:
        await settled(source, len(HOSTILE))
    assert [letter.traceparent for letter in dead.letters] == [None] * len(HOSTILE)
    assert spans() == ()


def test_an_event_carries_the_span_that_is_current(spans):
    event = create_person_event("p-1", "Ann", source="test")
    assert _message(event).properties is None
    with tracing.publishing(lambda: {"accepted": 1}):
        first = _message(event).properties
        assert _message(event).properties == first
    with tracing.publishing(dict):
        second = _message(event).properties
    published, _ = spans()
    context = published.context
    assert first == {TRACEPARENT: f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}
    assert second != first
    assert published.attributes["banking.events.accepted"] == 1
    assert _message(event).properties is None


def test_an_error_is_told_by_its_kind_alone(spans):
    with pytest.raises(ValueError, match="Ada"), tracing.publishing(dict):
        raise ValueError("payload.name: Ada Lovelace")
    (span,) = spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ValueError")
    assert "Ada" not in span.to_json()


async def test_a_batch_has_a_trace_of_its_own_linked_to_those_of_its_events(spans):
    source = InMemorySource()
    put(source, 0, {TRACEPARENT: traceparent(1)})
    put(source, 1, {TRACEPARENT: traceparent(1)}, "p-0")  # newer: the older one is stale
    put(source, 2, {TRACEPARENT: traceparent(2)})
    put(source, 3, {TRACEPARENT: traceparent(3, sampled=False)})
    put(source, 4, {})
    refused = rejected(RejectionReason.INVALID_FIELD, "Ada")
    async with leg(source, lambda event: refused if event.entity_id == "p-2" else None) as dead:
        await settled(source, 5)
    (batch,) = by_name(spans(), "graph batch")
    assert batch.parent is None
    assert [link.context.trace_id for link in batch.links] == [1, 2]
    assert batch.attributes["messaging.batch.message_count"] == 5
    assert batch.attributes["banking.events.traced"] == 3
    (write,) = by_name(spans(), "graph write")
    assert write.parent.span_id == batch.context.span_id
    assert write.attributes["banking.events.written"] == 4
    first, second = by_name(spans(), "graph settle")
    for number, span in ((1, first), (2, second)):
        assert (span.context.trace_id, span.parent.span_id) == (number, number)
        assert [link.context for link in span.links] == [batch.context]
    assert dict(first.attributes) == {"banking.events.applied": 1, "banking.events.stale": 1}
    assert dict(second.attributes) == {"banking.events.rejected": 1}
    assert second.status.status_code is StatusCode.ERROR
    assert [letter.traceparent for letter in dead.letters] == [traceparent(2)]
    assert not [span for span in spans() if "p-" in span.to_json() or "Ada" in span.to_json()]


async def test_the_traces_of_one_batch_are_bounded(spans):
    source = InMemorySource(batch_messages=1000)
    number = MAX_TRACES_PER_BATCH + 72
    for index in range(number):
        put(source, index, {TRACEPARENT: traceparent(index + 1)})
    async with leg(source):
        await settled(source, number)
    (batch,) = by_name(spans(), "graph batch")
    assert len(batch.links) == len(by_name(spans(), "graph settle")) == MAX_TRACES_PER_BATCH
    assert batch.attributes["banking.traces.left_out"] == 72


def test_a_letter_keeps_its_trace_through_retries_and_the_archive():
    source = InMemorySource()
    delivery = source.put(b"{}", properties={TRACEPARENT: traceparent(7), "other": "x"})
    for _ in range(3):
        letter = rejected_letter(delivery, Leg.GRAPH, RejectionReason.UNDECODABLE, "no event")
        message = letter.to_dead_letter_message()
        assert message.properties[TRACEPARENT] == traceparent(7)
        dead = source.put(message.data, topic="dlq", properties=message.properties)
        assert received_letter(dead).traceparent == traceparent(7)
        assert archived_letter(dead).properties[TRACEPARENT] == traceparent(7)
        retried = letter.to_retry_message(None)
        delivery = source.put(retried.data, topic=RETRY_TOPICS[Leg.GRAPH], properties=retried.properties)


async def test_a_share_of_the_traces_is_recorded_and_a_caller_decides_itself():
    """And every batch that has traced events, whatever the share."""
    async with collecting() as collector:
        sampled = []
        with tracing.traced("test", collector.endpoint, 0.0):
            for headers in ({}, {TRACEPARENT: traceparent(5, sampled=False)}, {TRACEPARENT: traceparent(6)}):
                with tracing.active.request("POST", "/x", headers), tracing.publishing(dict):
                    sampled.append(tracing.message_properties() is not None)
            source = InMemorySource()
            put(source, 0, {TRACEPARENT: traceparent(6)})
            async with leg(source):
                await settled(source, 1)
            await collector.until(lambda: collector.spans, 5, 10)
        assert sampled == [False, False, True]
        assert {(span.name, span.trace == f"{6:032x}") for span in collector.spans} == {
            *(("POST /x", True), ("publish events", True), ("graph settle", True)),
            *(("graph batch", False), ("graph write", False)),
        }


@pytest.mark.parametrize("answers", [False, True], ids=["away", "silent"])
async def test_a_collector_that_is_away_costs_spans_and_no_time(answers, caplog, monkeypatch):
    """It refuses connections, or takes them and never answers."""
    monkeypatch.setattr(tracing, "_SEND_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not answers:
            server.close()
        caplog.set_level(logging.INFO)
        started = time.monotonic()
        with tracing.traced("test", f"http://127.0.0.1:{port}/v1/traces", 1.0):
            for _ in range(10_000):  # some times more than may wait
                with tracing.publishing(dict):
                    pass
            published = time.monotonic() - started
            async with asyncio.timeout(10):
                while not caplog.records:
                    await asyncio.sleep(0.05)
            stopping = time.monotonic()
        assert time.monotonic() - stopping < tracing._FLUSH_SECONDS + 1
        assert published < 10
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "banking.streaming.tracing")
    assert "takes no spans" in record.getMessage()


def test_a_service_ends_while_its_collector_is_away(monkeypatch):
    async def main(_service):
        with tracing.publishing(dict):
            pass

    monkeypatch.setattr("banking.streaming.service.configure_logging", lambda *_: None)
    started = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        run_service("test", ServiceSettings(tracing_endpoint="http://127.0.0.1:9/v1/traces", http_port=0), main)
    assert ended.value.code == 0
    assert time.monotonic() - started < tracing._FLUSH_SECONDS + 3
    assert tracing.active is None
