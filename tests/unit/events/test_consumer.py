"""The batch loop against an in-memory store and source: what is written, what is settled, and what waits."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from banking.streaming.broker import BrokerUnavailableError
from banking.streaming.consumer import PAUSED, REJECTIONS, BatchConsumer, ConsumerOptions, RejectionLimit
from banking.streaming.events import create_person_event
from banking.streaming.health import Health
from banking.streaming.metrics import PauseReason, StreamingMetrics
from banking.streaming.sink import BatchFailedError, RejectionReason, Status, rejected, retry
from banking.streaming.testing import InMemoryDeadLetters, InMemorySink, InMemorySource

FAST = ConsumerOptions(retry_base_seconds=0.001, retry_max_seconds=0.002, drain_seconds=1.0, write_timeout_seconds=0.5)


class Rig:
    """A loop with all its surroundings in memory."""

    def __init__(self, options=FAST, batch_messages=100):
        self.sink = InMemorySink()
        self.source = InMemorySource(batch_messages)
        self.dead = InMemoryDeadLetters()
        self.health = Health()
        self.metrics = StreamingMetrics(CollectorRegistry())
        self.stop = asyncio.Event()
        self.options = options

    def put(self, entity_id="p-1", version=1, **options):
        event = create_person_event(entity_id, "Ann", source="test", version=version, **options)
        return self.source.put(event.to_bytes(), key=entity_id)

    @asynccontextmanager
    async def running(self):
        consumer = BatchConsumer(self.sink, [self.source], self.dead, self.health, self.options, metrics=self.metrics)
        task = asyncio.create_task(consumer.run(self.stop))
        try:
            yield task
        finally:
            self.stop.set()
            await asyncio.wait_for(task, 5)

    async def until(self, condition, seconds=3.0):
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.001)

    def outcomes(self, status):
        return self.metrics.outcomes.labels("graph", "person", status.value)._value.get()

    def paused(self):
        """Whether the leg is shown as paused, and for what."""
        sample = self.metrics.registry.get_sample_value
        return sample("streaming_paused", {"consumer_type": "graph"}), [
            reason.value
            for reason in PauseReason
            if sample("streaming_paused_reason", {"consumer_type": "graph", "reason": reason.value})
        ]


async def test_events_are_written_and_then_acknowledged():
    rig = Rig()
    deliveries = [rig.put(f"p-{number}") for number in range(250)]
    async with rig.running():
        await rig.until(lambda: len(rig.source.acknowledged) == 250)
    assert set(rig.source.acknowledged) == set(deliveries)
    assert len(rig.sink.stored) == 250
    assert rig.outcomes(Status.APPLIED) == 250
    assert rig.sink.closed == 1
    assert rig.dead.letters == []


async def test_only_the_newest_of_an_entity_is_written_and_the_older_are_settled_with_it():
    rig = Rig()
    for version in (2, 5, 3):
        rig.put(version=version)
    async with rig.running():
        await rig.until(lambda: len(rig.source.acknowledged) == 3)
    assert [[event.version for event in write] for write in rig.sink.writes] == [[5]]
    assert rig.outcomes(Status.STALE) == 2


async def test_where_the_newest_is_rejected_the_next_older_is_written_in_its_place():
    rig = Rig()
    for version in (1, 2, 3):
        rig.put(version=version)
    refusal = rejected(RejectionReason.INVALID_FIELD, "balance: no number")
    rig.sink.judge = lambda event: refusal if event.version >= 2 else None
    async with rig.running():
        await rig.until(lambda: len(rig.source.acknowledged) == 3)
    assert [event.version for event in rig.sink.stored.values()] == [1]
    assert [letter.error for letter in rig.dead.letters] == ["balance: no number"] * 2
    assert {letter.reason for letter in rig.dead.letters} == {RejectionReason.INVALID_FIELD}


async def test_the_backlog_s_age_is_that_of_the_oldest_event_in_flight():
    rig = Rig(batch_messages=1)

    def age():
        return rig.metrics.registry.get_sample_value("streaming_backlog_age_seconds", {"consumer_type": "graph"})

    data = create_person_event("p-1", "Ann", source="test").to_bytes()
    async with rig.running():
        await rig.until(lambda: rig.sink.opened)
        assert age() == 0
        rig.sink.away = "connection refused"
        rig.source.put(data, published_seconds=time.time() - 100)
        rig.source.put(data, published_seconds=time.time() - 500)
        rig.source.put(data, topic="graph-retry-events", published_seconds=time.time() - 900)
        await rig.until(lambda: age() >= 500)
        assert 500 <= age() < 600
        rig.sink.away = None
        await rig.until(lambda: len(rig.source.acknowledged) == 3)
        await rig.until(lambda: age() == 0)


async def test_a_store_that_is_away_pauses_the_loop_and_nothing_is_lost_or_dead():
    rig = Rig()
    rig.sink.away = "connection refused"
    rig.put()
    async with rig.running():
        await rig.until(lambda: rig.health.problems.get(PAUSED) == "connection refused")
        assert rig.source.acknowledged == []
        rig.sink.away = None
        await rig.until(lambda: len(rig.source.acknowledged) == 1)
        await rig.until(lambda: rig.health.ready)
        rig.sink.away = "gone again"
        rig.put("p-2")
        await rig.until(lambda: not rig.health.ready)
        rig.sink.away = None
        await rig.until(lambda: len(rig.source.acknowledged) == 2)
        assert rig.health.ready
    assert rig.dead.letters == []


async def test_what_a_leg_waits_for_is_shown_beside_that_it_waits():
    rig = Rig()
    rig.sink.away = "connection refused"
    keep_letters = rig.dead.write

    async def refuse_letters(_letters):
        raise BrokerUnavailableError("not confirmed")

    rig.dead.write = refuse_letters
    async with rig.running():
        await rig.until(lambda: rig.paused() == (1, ["store_away"]))
        rig.sink.away = None
        await rig.until(lambda: rig.paused() == (0, []))
        rig.sink.judge = lambda _event: retry("429")
        rig.put()
        await rig.until(lambda: rig.paused() == (1, ["store_busy"]))
        rig.sink.judge = lambda _event: rejected(RejectionReason.INVALID_FIELD, "wrong")
        await rig.until(lambda: rig.paused() == (1, ["broker"]))
        rig.dead.write = keep_letters
        await rig.until(lambda: rig.paused() == (0, []))


async def test_a_leg_that_stopped_at_the_rejection_limit_says_so_until_it_is_restarted():
    rig = Rig(replace(FAST, rejection_run=3))
    rig.sink.judge = lambda _event: rejected(RejectionReason.INVALID_FIELD, "wrong")
    for number in range(3):
        rig.put(f"p-{number}")
    async with rig.running():
        await rig.until(lambda: rig.paused() == (1, ["rejection_limit"]))


async def test_the_bytes_of_a_batch_are_those_of_its_messages():
    rig = Rig()
    deliveries = [rig.put(f"p-{number}") for number in range(3)]
    async with rig.running():
        await rig.until(lambda: len(rig.source.acknowledged) == 3)
    labels = {"consumer_type": "graph"}
    observed = rig.metrics.registry.get_sample_value("streaming_batch_bytes_sum", labels)
    assert observed == sum(len(delivery.data) for delivery in deliveries) > 300
    assert rig.metrics.registry.get_sample_value("streaming_batch_bytes_count", labels) == 1


async def test_only_the_events_that_the_store_was_too_busy_for_are_written_again():
    rig = Rig()
    for number in range(4):
        rig.put(f"p-{number}")
    refusals = {"p-2": 2}

    def busy(event):
        if refusals.get(event.entity_id, 0) > 0:
            refusals[event.entity_id] -= 1
            return retry("429")
        return None

    rig.sink.judge = busy
    async with rig.running():
        await rig.until(lambda: len(rig.source.acknowledged) == 4)
    assert [[event.entity_id for event in write] for write in rig.sink.writes] == [
        ["p-0", "p-1", "p-2", "p-3"],
        ["p-2"],
        ["p-2"],
    ]


async def test_a_batch_that_fails_as_a_whole_is_halved_down_to_the_one_to_blame():
    rig = Rig()
    for number in range(7):
        rig.put(f"p-{number}")

    def poison(event):
        if event.entity_id == "p-4":
            raise BatchFailedError("script error")

    rig.sink.judge = poison
    async with rig.running():
        await rig.until(lambda: len(rig.source.acknowledged) == 7)
    assert {entity_id for _, entity_id in rig.sink.stored} == {f"p-{number}" for number in range(7) if number != 4}
    assert [(letter.reason, letter.error) for letter in rig.dead.letters] == [
        (RejectionReason.REFUSED_BY_STORE, "script error")
    ]


async def test_retries_are_counted_by_their_results_and_other_events_are_not():
    def retries(result):
        return rig.metrics.registry.get_sample_value(
            "streaming_dlq_retries_total", {"consumer_type": "graph", "result": result}
        )

    rig = Rig(batch_messages=5)
    rig.sink.judge = lambda event: (
        rejected(RejectionReason.INVALID_FIELD, "wrong") if event.entity_id == "bad" else None
    )
    rig.put("held", version=9)
    for number in range(4):
        rig.put(f"p-{number}")
    retried = (("held", 8), ("new", 1), ("new", 2), ("bad", 1))
    for entity_id, version in retried:
        event = create_person_event(entity_id, "Ann", source="test", version=version)
        rig.source.put(event.to_bytes(), topic="graph-retry-events", key=entity_id)
    rig.source.put(b"no event", topic="graph-retry-events")
    async with rig.running():
        await rig.until(lambda: len(rig.source.acknowledged) == 10)
    assert {result: retries(result) for result in ("applied", "stale", "rejected")} == {
        "applied": 1,
        "stale": 2,
        "rejected": 2,
    }


async def test_bytes_that_are_no_event_become_letters_with_the_same_bytes():
    rig = Rig()
    rig.source.put(b"\xff\x00 no event", key="k", topic="persistent://public/banking/accounts-events")
    rig.put()
    async with rig.running():
        await rig.until(lambda: len(rig.source.acknowledged) == 2)
    (letter,) = rig.dead.letters
    assert letter.data == b"\xff\x00 no event"
    assert (letter.key, letter.topic, letter.attempt) == ("k", "accounts-events", 0)
    assert letter.letter_id.startswith("graph:accounts-events:1:")
    assert len(rig.sink.stored) == 1


async def test_a_version_from_the_future_is_rejected_and_does_not_hide_the_one_before():
    rig = Rig()
    rig.put(version=1)
    rig.put(version=4_000_000_000_000_000)
    async with rig.running():
        await rig.until(lambda: len(rig.source.acknowledged) == 2)
    assert [letter.reason for letter in rig.dead.letters] == [RejectionReason.CLOCK_SKEW]
    assert [event.version for event in rig.sink.stored.values()] == [1]


async def test_a_letter_is_stored_before_its_event_is_acknowledged():
    rig = Rig()
    order = []
    rig.source.put(b"no event")
    write, acknowledge = rig.dead.write, rig.source.acknowledge
    failures = 2

    async def failing_write(letters):
        nonlocal failures
        if failures:
            failures -= 1
            raise BrokerUnavailableError("away")
        order.append("letter")
        await write(letters)

    async def noting_acknowledge(deliveries):
        order.append("acknowledged")
        await acknowledge(deliveries)

    rig.dead.write, rig.source.acknowledge = failing_write, noting_acknowledge
    async with rig.running():
        await rig.until(lambda: len(rig.source.acknowledged) == 1)
    assert order == ["letter", "acknowledged"]


async def test_a_flood_of_rejections_stops_the_leg_before_it_drains_the_topic():
    rig = Rig(ConsumerOptions(rejection_run=20, rejection_window=1000, drain_seconds=0.2), batch_messages=10)
    for _ in range(1000):
        rig.source.put(b"no event")
    async with rig.running():
        await rig.until(lambda: REJECTIONS in rig.health.problems)
        await asyncio.sleep(0.05)
        assert len(rig.source.acknowledged) < 20
        assert len(rig.dead.letters) < 20
        assert "20 events in a row were rejected" in rig.health.problems[REJECTIONS]
    # What it held when it stopped has become no dead letter.
    counted = rig.metrics.registry.get_sample_value(
        "streaming_dlq_messages_total", {"entity_type": "unknown", "failure_reason": "undecodable"}
    )
    assert counted == len(rig.dead.letters) == len(rig.source.acknowledged) > 0


async def test_a_stop_while_the_store_is_away_gives_the_batch_back():
    rig = Rig(ConsumerOptions(retry_base_seconds=30, retry_max_seconds=30, drain_seconds=1))
    rig.put()
    async with rig.running() as task:
        await rig.until(lambda: len(rig.source.acknowledged) == 1)
        rig.sink.away = "away"
        rig.put("p-2")
        await rig.until(lambda: PAUSED in rig.health.problems)
        rig.stop.set()
        await asyncio.wait_for(task, 5)
    assert len(rig.source.acknowledged) == 1


async def test_a_stop_finishes_what_is_in_flight():
    rig = Rig()
    release = asyncio.Event()
    write = rig.sink.write

    async def slow_write(events):
        await release.wait()
        return await write(events)

    rig.sink.write = slow_write
    rig.put()
    async with rig.running() as task:
        await rig.until(lambda: rig.metrics.in_flight.labels("graph")._value.get() == 1)
        rig.stop.set()
        await asyncio.sleep(0.02)
        assert not task.done()
        release.set()
        await asyncio.wait_for(task, 1)
    assert len(rig.source.acknowledged) == 1


async def test_a_write_without_an_answer_counts_as_a_store_that_is_away():
    rig = Rig(ConsumerOptions(write_timeout_seconds=0.02, retry_base_seconds=0.001, retry_max_seconds=0.001))
    write, hang = rig.sink.write, [True]

    async def hanging_write(events):
        if hang:
            hang.pop()
            await asyncio.sleep(60)
        return await write(events)

    rig.sink.write = hanging_write
    rig.put()
    async with rig.running():
        await rig.until(lambda: len(rig.source.acknowledged) == 1)
    assert rig.dead.letters == []


async def test_the_number_of_batches_in_flight_is_bounded():
    rig = Rig(ConsumerOptions(max_in_flight=2, drain_seconds=0.1), batch_messages=1)
    for number in range(10):
        rig.put(f"p-{number}")
    running = []

    async def hanging_write(events):
        running.append(events)
        await asyncio.sleep(60)

    rig.sink.write = hanging_write
    async with rig.running():
        await asyncio.sleep(0.05)
        assert len(running) == 2


async def test_an_undeclared_error_of_a_sink_ends_the_service_rather_than_losing_the_batch():
    rig = Rig()
    rig.put()

    def bug(_event):
        raise KeyError("bug")

    rig.sink.judge = bug
    consumer = BatchConsumer(rig.sink, [rig.source], rig.dead, rig.health, FAST, metrics=rig.metrics)
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(consumer.run(rig.stop), 2)
    assert rig.source.acknowledged == []


@pytest.mark.parametrize(
    ("batches", "stops"),
    [
        ([(9, 0)], False),
        ([(9, 0), (1, 0)], True),
        ([(9, 0), (9, 1), (9, 0)], False),
        ([(5, 5)] * 20, False),
        ([(6, 4)] * 20, True),
    ],
)
def test_the_rejection_limit_counts_runs_and_shares(batches, stops):
    limit = RejectionLimit(window=100, share=0.5, run=10)
    problems = [limit.count(rejected=bad, stored=good) for bad, good in batches]
    assert (problems[-1] is not None) is stops
