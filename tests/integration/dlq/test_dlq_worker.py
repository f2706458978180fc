"""Dead letters through a real broker: retried on schedule, archived, handled, counted; ten thousand of them at once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from banking.streaming import DLQHandler
from banking.streaming.archive import NOT_A_LETTER, DeadLetterArchive
from banking.streaming.broker import Outgoing
from banking.streaming.dead_letters import rejected_letter, retried_letter
from banking.streaming.dlq_handler import ARCHIVE
from banking.streaming.sink import Leg, RejectionReason
from dlq_worker.inventory import Selection, find
from dlq_worker.settings import DlqWorkerSettings
from dlq_worker.waiting import WaitingCounter
from tests.integration.dlq.conftest import (
    Running,
    Worker,
    collect,
    has_archived,
    id_of,
    letter,
    metrics_of,
    readiness,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from banking.streaming.broker import Publisher
    from tests.integration.dlq.conftest import Lane


async def test_letters_are_retried_on_schedule_with_their_bytes_unchanged(
    lane: Lane, publisher: Publisher, archive: DeadLetterArchive
) -> None:
    letters = [letter(attempt, attempt, data=b"\xff\x00 no event %d" % attempt) for attempt in range(3)]
    delays = (1.0, 3.0, 5.0)
    arrivals: dict[str, float] = {}
    subscription = lane.subscription(lane.retries, "leg")
    async with Running(lane, archive, delays=delays):
        sent_at = time.monotonic()
        await lane.send(publisher, *letters)
        async with asyncio.timeout(20):
            while len(arrivals) < 3:
                for delivery in await subscription.receive():
                    held = retried_letter(delivery)
                    assert held is not None
                    original = letters[held.attempt - 1]
                    assert (held.letter_id, held.data, held.key) == (original.letter_id, original.data, original.key)
                    assert held.first_failure == original.first_failure
                    arrivals[held.letter_id] = time.monotonic() - sent_at
        await lane.until_settled()
    await subscription.close()
    for original, delay in zip(letters, delays, strict=True):
        # The broker looks once a second, and hands out what is due within the next one.
        assert delay - 1.1 <= arrivals[original.letter_id] < delay + 4
    assert await archive.places() == []


async def test_a_letter_that_fails_every_retry_ends_in_the_archive(
    lane: Lane, publisher: Publisher, archive: DeadLetterArchive
) -> None:
    poison, curable = letter(1, data=b"poison"), letter(2)
    leg = lane.subscription(lane.retries, "leg")
    attempts: dict[str, list[int]] = {}

    async def reject_poison() -> None:
        """A leg whose cause of one letter is repaired before the second retry."""
        while True:
            batch = await leg.receive()
            for delivery in batch:
                held = retried_letter(delivery)
                assert held is not None
                attempts.setdefault(held.letter_id, []).append(held.attempt)
                if held.data == b"poison" or held.attempt < 2:
                    again = rejected_letter(delivery, Leg.GRAPH, RejectionReason.INVALID_FIELD, "still wrong")
                    await lane.send(publisher, again)
            await leg.acknowledge(batch)

    async with Running(lane, archive, delays=(0.3, 0.3, 0.3)):
        rejecting = asyncio.create_task(reject_poison())
        await lane.send(publisher, poison, curable)

        async def ended() -> bool:
            return len(await archive.places()) > 0 and len(attempts.get(curable.letter_id, [])) == 2

        await until(ended)
        await lane.until_settled()
        rejecting.cancel()
    await leg.close()
    assert attempts == {poison.letter_id: [1, 2, 3], curable.letter_id: [1, 2]}
    (found,) = await find(archive, Selection())
    assert (found.record.letter_id, found.record.attempt, found.copies) == (poison.letter_id, 3, 1)
    assert found.record.error == "still wrong"
    (kept,) = await archive.letters(found.place)
    assert kept.data == b"poison"


async def test_messages_that_are_no_letters_are_kept(
    lane: Lane, publisher: Publisher, archive: DeadLetterArchive
) -> None:
    await publisher.publish_all([Outgoing(lane.letters, b"\x80stray", "k", {"who": "me"})])
    async with Running(lane, archive):
        await lane.until_settled()
    (found,) = await find(archive, Selection())
    (kept,) = await archive.letters(found.place)
    assert (kept.reason, kept.data, kept.key, kept.properties) == (NOT_A_LETTER, b"\x80stray", "k", {"who": "me"})


async def test_ten_thousand_letters_at_once(
    lane: Lane,
    publisher: Publisher,
    archive: DeadLetterArchive,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    half = 5_000
    letters = [letter(number, 3 * (number >= half)) for number in range(2 * half)]
    letters[::2], letters[1::2] = letters[:half], letters[half:]  # of either kind in turn
    for first in range(0, 2 * half, 1000):
        await lane.send(publisher, *letters[first : first + 1000])
    async with Worker(lane, archive) as worker:
        await worker.address()
        collecting = asyncio.create_task(collect(lane, lambda got: len(got) >= half, seconds=120))
        await until(lambda: has_archived(archive, 1000))
        early = memory_megabytes(worker, "VmRSS")
        got = await collecting
        await lane.until_settled()
        most = memory_megabytes(worker, "VmHWM")
        record_testsuite_property("dlq_memory_megabytes", (early, most))
        assert most < early + 40
        assert await worker.stop() == 0
    assert sorted(id_of(delivery) for delivery in got) == sorted(sent.letter_id for sent in letters if not sent.attempt)
    found = await find(archive, Selection())
    assert {one.record.letter_id for one in found} == {sent.letter_id for sent in letters if sent.attempt}
    assert sum(one.copies for one in found) == half


def memory_megabytes(worker: Worker, what: str) -> float:
    """The memory that a process has (`VmRSS`), or the most that it has had (`VmHWM`)."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(what))


async def test_the_service_says_what_is_missing_and_stops_when_told(
    lane: Lane, publisher: Publisher, tmp_path: Path
) -> None:
    (tmp_path / "archive").write_text("a file where the folder should be")
    archive = DeadLetterArchive((tmp_path / "archive").as_uri())
    sent = letter(1, 3)
    await lane.send(publisher, sent)
    async with Worker(lane, archive) as worker:
        address = await worker.address()
        missing = await readiness(address, lambda missing: set(missing) == {ARCHIVE})
        assert archive.url in missing[ARCHIVE]
        assert await lane.backlog() == 1
        assert 'streaming_paused{consumer_type="dlq"} 1.0' in await metrics_of(address)
        (tmp_path / "archive").unlink()
        await readiness(address, lambda missing: not missing)
        await lane.until_settled()
        metrics = await metrics_of(address)
        assert 'streaming_dlq_archived_total{consumer_type="graph",failure_reason="invalid_field"} 1.0' in metrics
        assert 'streaming_paused{consumer_type="dlq"} 0.0' in metrics
        assert await worker.stop() == 0
        lines = worker.lines
    assert not any(sent.data.decode() in line for line in lines)
    assert [found.record.letter_id for found in await find(archive, Selection())] == [sent.letter_id]


async def test_a_handler_takes_the_services_place(
    lane: Lane, publisher: Publisher, archive: DeadLetterArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHIVE_URL", archive.url)
    taken, refused, last = letter(1), letter(2), letter(3, 3)
    await lane.send(publisher, taken, refused, last)
    seen: list[str] = []

    def my_custom_handler(event: Any) -> bool:
        seen.append(event.entity_id)
        if event.entity_id == last.key:
            raise RuntimeError("no")
        return bool(event.entity_id == taken.key)

    def handle() -> Any:
        dlq = DLQHandler(pulsar_url=lane.pulsar_url, max_retries=3, retry_delay_seconds=1)
        return dlq.process_with_retry(handler_func=my_custom_handler, batch_size=100)

    report = await asyncio.to_thread(handle)
    assert sorted(seen) == sorted(str(one.key) for one in (taken, refused, last))
    assert (report.handled, report.retried, report.archived) == (1, 1, 1)
    await lane.until_settled()
    (delivery,) = await collect(lane, lambda got: len(got) == 1)
    assert delivery.data == refused.data
    assert [found.record.letter_id for found in await find(archive, Selection())] == [last.letter_id]


async def test_what_waits_is_counted_from_the_broker_whoever_started_when(
    lane: Lane, publisher: Publisher, archive: DeadLetterArchive
) -> None:
    settings = DlqWorkerSettings(pulsar_url=lane.pulsar_url, pulsar_admin_url=lane.admin_url)
    old = letter(1, 1)
    waiting = [letter(0), letter(2), old, *(letter(number, 3) for number in range(3, 7))]
    async with WaitingCounter(settings) as counter:
        assert (await counter.count()).counts == {}
        await lane.send(publisher, *waiting)
        await publisher.publish_all([Outgoing(lane.letters, b"stray")])
        found = await counter.count()
        assert found.counts == {("graph", "1"): 2, ("graph", "2"): 1, ("graph", ARCHIVE): 4, ("unknown", ARCHIVE): 1}
        assert found.oldest["graph"] == min(one.first_failure for one in waiting)

        async with Worker(lane, archive, DLQ_RETRY_DELAYS_SECONDS="600,600,600"):
            await lane.until_settled()
        assert (await counter.count()).counts == {("graph", "1"): 2, ("graph", "2"): 1}
        # A worker that has seen none of them tells the same.
        async with Worker(lane, archive) as another:
            address = await another.address()
            await until(lambda: shows(address, 'streaming_dlq_waiting{attempt="1",consumer_type="graph"} 2.0'))
            metrics = await metrics_of(address)
        assert 'streaming_dlq_waiting{attempt="2",consumer_type="graph"} 1.0' in metrics
        assert 'streaming_dlq_waiting{attempt="archive",consumer_type="graph"} 0.0' in metrics
        (age,) = (
            line
            for line in metrics.splitlines()
            if line.startswith('streaming_dlq_oldest_seconds{consumer_type="graph"}')
        )
        assert 8 * 60 <= float(age.split()[-1]) < 20 * 60

        # Some of those that are due are settled by the leg, in the midst of others. Like all that have a delay, they
        # stand in an entry each.
        due = timedelta(milliseconds=1)
        await publisher.publish_all([letter(number).to_retry_message(due) for number in range(10, 30)])
        leg = lane.subscription(lane.retries, "leg")
        got = []
        async with asyncio.timeout(30):
            while len(got) < 20:
                got += await leg.receive()
        await leg.acknowledge(got[5:15])

        async def settled() -> bool:
            return (await counter.count()).counts == {("graph", "1"): 12, ("graph", "2"): 1}

        await until(settled)
        await leg.close()


async def shows(address: str, line: str) -> bool:
    return line in await metrics_of(address)


async def test_a_leg_that_repeats_its_letters_causes_one_retry(
    lane: Lane, publisher: Publisher, archive: DeadLetterArchive
) -> None:
    """As after the leg was killed between storing its letters and acknowledging the events."""
    letters = [letter(number) for number in range(50)]
    async with Running(lane, archive, delays=(0.5,)):
        for _ in range(3):
            await lane.send(publisher, *letters)
        await lane.until_settled()
        got = await collect(lane, lambda got: len(got) >= 50)
        await asyncio.sleep(2)
        late = await lane.state(lane.retries, "leg")
    assert Counter(id_of(one) for one in got) == Counter(one.letter_id for one in letters)
    assert late["msgBacklog"] == 0
