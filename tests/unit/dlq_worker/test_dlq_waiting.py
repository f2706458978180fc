"""Which entries a subscription has not settled, and how the letters that wait are shown as metrics."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry

from banking.streaming.broker import BrokerUnavailableError
from banking.streaming.dead_letters import DeadLetter
from banking.streaming.metrics import StreamingMetrics
from banking.streaming.sink import Leg, RejectionReason
from banking.streaming.testing import InMemorySource
from dlq_worker.settings import DlqWorkerSettings
from dlq_worker.waiting import ARCHIVE, Unsettled, Waiting, WaitingCounter, _show

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def unsettled(before: str, last: str, settled: str = "[]") -> Unsettled:
    cursor = {"markDeletePosition": before, "individuallyDeletedMessages": settled}
    return Unsettled({"cursors": {"leg": cursor}, "lastConfirmedEntry": last}, "leg")


def test_what_lies_beyond_the_mark_and_outside_the_settled_ranges_is_unsettled() -> None:
    entries = unsettled("27:0", "28:5", "[(27:1..27:2],(27:3..27:6],(28:-1..28:3]]")
    assert not entries.empty
    positions = [(ledger, entry) for ledger in (26, 27, 28, 29) for entry in range(8)]
    assert [position for position in positions if entries.holds(position)] == [
        (27, 1),
        (27, 3),
        (27, 7),
        (28, 4),
        (28, 5),
    ]


@pytest.mark.parametrize(
    ("before", "last", "empty"), [("23:-1", "23:-1", True), ("27:4", "27:4", True), ("27:4", "28:0", False)]
)
def test_a_topic_without_unsettled_entries_is_known_without_reading_it(before: str, last: str, empty: bool) -> None:
    assert unsettled(before, last).empty is empty


def test_letters_are_shown_by_leg_and_retry_with_the_age_of_the_oldest() -> None:
    metrics = StreamingMetrics(CollectorRegistry())
    waiting = Waiting()
    waiting.add("graph", "2", NOW - timedelta(seconds=90))
    waiting.add("graph", "2", NOW - timedelta(seconds=200))
    waiting.add("vector", ARCHIVE, NOW - timedelta(seconds=500))

    def shown(name: str) -> dict[tuple[str, ...], float]:
        (family,) = (one for one in metrics.registry.collect() if one.name == name)
        return {tuple(sample.labels.values()): sample.value for sample in family.samples if sample.value}

    _show(waiting, 3, metrics, NOW)
    assert shown("streaming_dlq_waiting") == {("graph", "2"): 2, ("vector", ARCHIVE): 1}
    assert shown("streaming_dlq_oldest_seconds") == {("graph",): 200, ("vector",): 500}
    _show(Waiting(), 3, metrics, NOW)
    assert shown("streaming_dlq_waiting") == {}
    assert shown("streaming_dlq_oldest_seconds") == {}
    zero = {"consumer_type": "vector", "attempt": "3"}
    assert metrics.registry.get_sample_value("streaming_dlq_waiting", zero) == 0


async def test_a_broker_that_cannot_be_asked_is_an_error_that_names_the_address() -> None:
    settings = DlqWorkerSettings(pulsar_admin_url="http://127.0.0.1:9")
    async with WaitingCounter(settings) as counter:
        with pytest.raises(BrokerUnavailableError, match=r"http://127\.0\.0\.1:9/admin"):
            await counter.count()


def test_a_retry_beyond_the_schedule_is_counted_with_its_last_one() -> None:
    waiting = Waiting()
    counter = WaitingCounter(DlqWorkerSettings(dlq_retry_delays_seconds=(1, 2)))
    for attempt in (1, 2, 3, 1_000_000):
        letter = DeadLetter(
            letter_id="graph:persons-events:1:0",
            leg=Leg.GRAPH,
            topic="persons-events",
            key="p-1",
            data=b"{}",
            reason=RejectionReason.INVALID_FIELD,
            error="wrong",
            attempt=attempt,
            first_failure=NOW,
            last_failure=NOW,
        )
        message = letter.to_dead_letter_message()
        counter._add_retry(waiting, InMemorySource().put(message.data, key="p-1", properties=message.properties))
    assert waiting.counts == {("graph", "1"): 1, ("graph", "2"): 3}
