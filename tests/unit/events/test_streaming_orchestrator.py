"""The orchestrator: what it publishes, writes down and counts, twice the same, and how it stops."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import msgspec
import pytest

from banking.data_generators import CountsError, Pattern
from banking.streaming.broker import BrokerUnavailableError
from banking.streaming.events import decode_event, to_microseconds
from banking.streaming.producer import (
    EventsNotPublishedError,
    FlushTimeoutError,
    MockEntityProducer,
    PublishFailure,
    PublishReport,
)
from banking.streaming.streaming_orchestrator import (
    EVENTS_FILE,
    GROUND_TRUTH_FILE,
    STATISTICS_FILE,
    Progress,
    StreamingConfig,
    StreamingOrchestrator,
)

BY_TYPE = {"person": 100, "company": 20, "account": 200, "transaction": 500, "communication": 100}


def run(folder, **changes):
    config = StreamingConfig(**{"output_dir": folder, "use_mock_producer": True, **changes})
    with StreamingOrchestrator(config) as orchestrator:
        stats = orchestrator.generate_all()
        producer = orchestrator.producer
    return stats, producer


def test_publishes_writes_down_and_counts_the_same(tmp_path):
    stats, producer = run(tmp_path)
    assert isinstance(producer, MockEntityProducer)
    assert (stats.events_generated, stats.events_published, stats.events_failed) == (920, 920, 0)
    assert stats.events_unsettled == 0
    assert stats.events_by_type == BY_TYPE == Counter(event.entity_type for event in producer.events)
    written = [decode_event(line) for line in (tmp_path / EVENTS_FILE).read_bytes().splitlines()]
    assert [event.to_bytes() for event in written] == [event.to_bytes() for event in producer.events]
    statistics = json.loads((tmp_path / STATISTICS_FILE).read_text())
    assert statistics["seed"] == 42
    assert statistics["counts"]["transactions"] == 500
    assert statistics["events_published"] == 920
    assert statistics["events_by_type"] == BY_TYPE
    assert stats.elapsed_seconds > 0
    assert stats.events_per_second > 0
    published = {event.entity_id for event in producer.events}
    patterns = [
        msgspec.json.decode(line, type=Pattern) for line in (tmp_path / GROUND_TRUTH_FILE).read_bytes().splitlines()
    ]
    assert len(patterns) == stats.patterns == 3
    for pattern in patterns:
        named = pattern.account_ids + pattern.person_ids + pattern.transaction_ids + pattern.communication_ids
        assert set(named) <= published
    assert not list(tmp_path.glob("*.part"))


def test_same_seed_gives_the_same_bytes_and_another_none_of_them(tmp_path):
    files = {}
    for name, seed in (("one", 42), ("two", 42), ("three", 43)):
        run(tmp_path / name, seed=seed)
        files[name] = [(tmp_path / name / file).read_bytes() for file in (EVENTS_FILE, GROUND_TRUTH_FILE)]
    assert files["one"] == files["two"]
    first, other = ({decode_event(line).event_id for line in files[name][0].splitlines()} for name in ("one", "three"))
    assert len(first) == 920
    assert first.isdisjoint(other)


def test_version_and_time_are_those_of_the_entity(tmp_path):
    _, producer = run(None)
    for event in producer.events:
        assert event.payload["created_at"] == event.timestamp.isoformat().replace("+00:00", "Z")
        assert event.version == to_microseconds(event.timestamp)
        assert event.source == "DataGenerator"


def test_nothing_is_published_where_that_is_switched_off(tmp_path):
    stats, producer = run(tmp_path, streaming_enabled=False, use_mock_producer=False, pulsar_url="pulsar://nowhere:1")
    assert producer is None
    assert (stats.events_generated, stats.events_published) == (920, 0)
    assert len((tmp_path / EVENTS_FILE).read_bytes().splitlines()) == 920


def test_second_run_of_one_orchestrator_counts_anew():
    with StreamingOrchestrator(StreamingConfig(use_mock_producer=True)) as orchestrator:
        orchestrator.generate_all()
        assert orchestrator.generate_all().events_published == 920
        assert len(orchestrator.producer.events) == 1840
        orchestrator.close()
        assert orchestrator.producer is None


def test_works_beside_the_main_thread(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path)[0]))
    thread.start()
    thread.join()
    assert results[0].events_published == 920


def test_impossible_counts_are_named():
    with pytest.raises(CountsError, match="accounts"):
        StreamingOrchestrator(StreamingConfig(person_count=0, company_count=0))


class UnconfirmedProducer(MockEntityProducer):
    """Hands over, and then learns at the flush that not all of it was stored."""

    def __init__(self, error: Exception, away_from: int | None = None) -> None:
        super().__init__()
        self.error = error
        self.away_from = away_from

    def send(self, event):
        if len(self.events) == self.away_from:
            raise BrokerUnavailableError("the broker is away")
        super().send(event)

    def flush(self, timeout_seconds=30.0):
        raise self.error


def orchestrate(folder, producer):
    orchestrator = StreamingOrchestrator(StreamingConfig(output_dir=folder))
    orchestrator.producer = producer
    return orchestrator


def test_unconfirmed_events_are_counted_and_named(tmp_path):
    report = PublishReport(failed=3, failures=[PublishFailure("event-1", "entity-1", "timed out")])
    stats = orchestrate(tmp_path, UnconfirmedProducer(EventsNotPublishedError(report))).generate_all()
    assert (stats.events_generated, stats.events_published, stats.events_failed) == (920, 917, 3)
    statistics = json.loads((tmp_path / STATISTICS_FILE).read_text())
    assert statistics["failures"] == [{"event_id": "event-1", "entity_id": "entity-1", "error": "timed out"}]


def test_missing_receipts_are_an_error_and_counted(tmp_path):
    orchestrator = orchestrate(tmp_path, UnconfirmedProducer(FlushTimeoutError(20, 1.0)))
    with pytest.raises(FlushTimeoutError):
        orchestrator.generate_all()
    assert (orchestrator.stats.events_published, orchestrator.stats.events_unsettled) == (900, 20)
    assert json.loads((tmp_path / STATISTICS_FILE).read_text())["events_unsettled"] == 20


def test_broker_that_goes_away_is_an_error_and_the_statistics_say_how_far_it_came(tmp_path):
    report = PublishReport(failed=2, failures=[PublishFailure("event-1", "entity-1", "timed out")])
    orchestrator = orchestrate(tmp_path, UnconfirmedProducer(EventsNotPublishedError(report), away_from=50))
    with pytest.raises(BrokerUnavailableError):
        orchestrator.generate_all()
    statistics = json.loads((tmp_path / STATISTICS_FILE).read_text())
    assert (statistics["events_published"], statistics["events_failed"]) == (48, 2)
    assert len((tmp_path / EVENTS_FILE).read_bytes().splitlines()) == 50


INTERRUPTED = """
import sys
from pathlib import Path
from banking.streaming import StreamingConfig, StreamingOrchestrator
config = StreamingConfig(transaction_count=1_000_000, streaming_enabled=False, output_dir=Path(sys.argv[1]))
with StreamingOrchestrator(config) as orchestrator:
    orchestrator.generate_all()
"""


def test_ctrl_c_stops_between_two_events_and_says_how_far_it_came(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(tmp_path)], stderr=subprocess.PIPE, text=True)
    events = tmp_path / EVENTS_FILE
    deadline = time.monotonic() + 20
    while not (events.exists() and events.stat().st_size > 100_000):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in {-signal.SIGINT, 130}
    assert "interrupted: 0 events published" in stderr
    statistics = json.loads((tmp_path / STATISTICS_FILE).read_text())
    assert statistics["interrupted"] is True
    lines = events.read_bytes().splitlines()
    assert 100 < len(lines) == statistics["events_generated"] < 1_000_000
    decode_event(lines[-1])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_terminals_only():
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        progress = Progress(1_000, stream)
        progress.show(1)
        progress.end(500)
    assert file.getvalue() == ""
    assert "500 of 1,000 events" in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")


def test_package_stays_light_without_the_generators():
    code = (
        "import sys, banking.streaming, banking.streaming.streaming_orchestrator;"
        "sys.exit('mimesis' in sys.modules or 'banking.data_generators' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
