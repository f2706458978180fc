"""The library's snippets, from the pages that show them, run as written against the running fleet."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from banking.streaming.entities import EntityType
from banking.streaming.events import decode_event
from fleet.comparison import Expectation, wait_until_equal
from fleet.compose import ROOT

SECONDS = 120.0


def snippets(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def snippet(text: str) -> str:
    """The one that holds a text."""
    (found,) = [snippet for snippet in snippets("docs/library.md") if text in snippet]
    return found


@pytest.fixture
def run(stack, tmp_path):
    def run(program: str) -> str:
        """What a program of its own says; only the broker's address is another than in the page."""
        here = program.replace("pulsar://localhost:6650", stack.addresses.pulsar_url)
        result = subprocess.run(
            [sys.executable, "-c", here], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


async def test_a_published_person_is_in_both_stores(run, graph, vector):
    assert snippets("README.md") == [snippet("person-123")], "both pages begin with the same snippet"
    before = [await reader.lookup(EntityType.PERSON, ["person-123"]) for reader in (graph, vector)]
    report = "\nprint(event.to_bytes().decode())"
    event = decode_event(run(snippet("person-123") + report).encode())
    assert event.payload == {
        "name": "John Doe",
        "first_name": "John",
        "last_name": "Doe",
        "email": "john@example.com",
    }
    expectation = Expectation()
    expectation.add(event)
    for reader, held in zip((graph, vector), before, strict=True):
        assert held.get("person-123") is None or held["person-123"].version < event.version
        assert (await wait_until_equal(reader, expectation, SECONDS)).differences == []


def test_any_number_of_events_is_published_from_an_event_loop(run):
    assert run(snippet("AsyncEntityProducer")) == "1000 published, 0 failed: []\n"


def test_a_generated_person_becomes_an_event(run):
    event = decode_event(run(snippet("PersonGenerator") + "\nprint(event.to_bytes().decode())").encode())
    assert (event.entity_type, event.source) == (EntityType.PERSON, "MyApp")
    assert event.payload["name"] == f"{event.payload['first_name']} {event.payload['last_name']}"


async def test_a_generated_bank_is_in_both_stores(run, tmp_path, graph, vector):
    assert run(snippet("StreamingOrchestrator")) == "Published 920 events\n"
    events = [decode_event(line) for line in (tmp_path / "output" / "events.ndjson").read_bytes().splitlines()]
    assert len(events) == 920
    statistics = json.loads((tmp_path / "output" / "statistics.json").read_bytes())
    assert statistics["events_published"] == 920
    expectation = Expectation()
    expectation.add_all(events)
    for reader in (graph, vector):
        comparison = await wait_until_equal(reader, expectation, SECONDS)
        assert comparison.differences == []
        assert comparison.equal.total() == 920


def test_what_is_published_in_a_span_carries_its_trace(run):
    report = """
from banking.streaming.producer import _message
from banking.streaming.tracing import TRACEPARENT, traceparent_of
with trace.get_tracer("my-app").start_as_current_span("again") as span:
    carried = traceparent_of(_message(create_person_event("person-124", "Jane Doe")).properties)
    print(carried.split("-")[1] == f"{span.get_span_context().trace_id:032x}")
"""
    assert run(snippet("start_tracing()") + report) == "True\n"


def test_metrics_are_text_for_prometheus(run):
    published = "from banking.streaming import MockEntityProducer\n"
    text = run(published + snippet("get_metrics_output"))
    assert re.search(r'^streaming_build_info\{version="\d+\.\d+\.\d+"\} 1\.0$', text, re.MULTILINE)
    assert "# TYPE streaming_events_published_total counter" in text
