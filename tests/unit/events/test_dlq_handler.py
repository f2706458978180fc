"""The dead-letter loop: what is retried, archived or handled, and that nothing is acknowledged before it is stored."""

from __future__ import annotations

import asyncio
import random
import resource
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from banking.streaming import create_person_event
from banking.streaming.archive import NOT_A_LETTER, ArchivedLetter, ArchiveUnavailableError, DeadLetterArchive
from banking.streaming.broker import BrokerError, PublishError
from banking.streaming.dead_letters import DeadLetter
from banking.streaming.dlq_handler import ARCHIVE, RETRIES, AsyncDLQHandler, DeadLetterLoop, DLQHandler, retry_delays
from banking.streaming.health import Health
from banking.streaming.metrics import StreamingMetrics
from banking.streaming.sink import Leg, RejectionReason
from banking.streaming.testing import InMemorySource

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from banking.streaming.broker import Delivery, Outgoing

FAILED = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
EVENT = create_person_event("p-1", "Ada").to_bytes()


class Retries:
    """A retry topic in memory, away while `problem` is set."""

    def __init__(self) -> None:
        self.stored: list[Outgoing] = []
        self.problem: BrokerError | None = None

    async def publish_all(self, messages: Sequence[Outgoing]) -> None:
        if self.problem is not None:
            raise self.problem
        self.stored.extend(messages)


def letter(number: int = 1, attempt: int = 0, **fields: Any) -> DeadLetter:
    return DeadLetter(
        **(
            {
                "letter_id": f"graph:persons-events:(1,{number},-1,-1)",
                "leg": Leg.GRAPH,
                "topic": "persons-events",
                "key": f"p-{number}",
                "data": EVENT,
                "reason": RejectionReason.INVALID_FIELD,
                "error": "payload.balance: expected a number",
                "attempt": attempt,
                "first_failure": FAILED,
                "last_failure": FAILED,
            }
            | fields
        )
    )


def put(source: InMemorySource, letter: DeadLetter) -> Delivery:
    message = letter.to_dead_letter_message()
    return source.put(message.data, topic="dlq-events", key=letter.key or "", properties=message.properties)


@pytest.fixture
def source() -> InMemorySource:
    return InMemorySource()


@pytest.fixture
def retries() -> Retries:
    return Retries()


@pytest.fixture
def archive(tmp_path: Path) -> DeadLetterArchive:
    return DeadLetterArchive(tmp_path.as_uri())


@pytest.fixture
def metrics() -> StreamingMetrics:
    return StreamingMetrics(CollectorRegistry())


def make_loop(source: InMemorySource, retries: Retries, archive: DeadLetterArchive, **options: Any) -> DeadLetterLoop:
    options.setdefault("metrics", StreamingMetrics(CollectorRegistry()))
    return DeadLetterLoop(source, retries, archive, options.pop("health", Health()), **options)


def value(metrics: StreamingMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


async def archived(archive: DeadLetterArchive) -> list[ArchivedLetter]:
    return [letter for place in await archive.places() for letter in await archive.letters(place)]


def test_the_schedule_of_the_defaults_is_that_of_the_service() -> None:
    assert retry_delays() == (60, 120, 300)
    assert retry_delays(5, 2) == (2, 4, 10, 20, 40)
    assert retry_delays(0, 60) == ()
    with pytest.raises(ValueError, match="negative"):
        retry_delays(-1)


@pytest.mark.parametrize(("attempt", "delay"), [(0, 60), (1, 120), (2, 300)])
async def test_a_letter_is_retried_unchanged_after_the_delay_of_its_attempt(
    source: InMemorySource, retries: Retries, archive: DeadLetterArchive, attempt: int, delay: int
) -> None:
    sent = letter(attempt=attempt, data=b"\xff\x00 no event")
    delivery = put(source, sent)
    report = await make_loop(source, retries, archive).run(asyncio.Event(), max_letters=1)
    (message,) = retries.stored
    assert message == sent.to_retry_message(timedelta(seconds=delay))
    assert (message.topic, message.key, message.data) == ("graph-retry-events", "p-1", b"\xff\x00 no event")
    assert source.acknowledged == [delivery]
    assert (report.retried, report.archived, await archived(archive)) == (1, 0, [])


async def test_a_letter_that_comes_again_is_recognised_and_not_retried_twice(
    source: InMemorySource, retries: Retries, archive: DeadLetterArchive, metrics: StreamingMetrics
) -> None:
    sent, corrected = letter(1), letter(1, data=b"the same letter's id, other bytes")
    deliveries = [put(source, one) for one in (sent, sent, corrected, letter(1, attempt=1), letter(2))]
    loop = make_loop(source, retries, archive, metrics=metrics)
    report = await loop.run(asyncio.Event(), max_letters=5)
    deliveries.append(put(source, sent))
    again = await loop.run(asyncio.Event(), max_letters=1)
    assert (report.retried, report.repeated, again.retried, again.repeated) == (4, 1, 0, 1)
    assert [(message.data, message.key, (message.properties or {})["dlq-attempt"]) for message in retries.stored] == [
        (EVENT, "p-1", "1"),
        (corrected.data, "p-1", "1"),
        (EVENT, "p-1", "2"),
        (EVENT, "p-2", "1"),
    ]
    assert source.acknowledged == deliveries
    assert value(metrics, "streaming_dlq_repeats_total", consumer_type="graph") == 2
    assert value(metrics, "streaming_dlq_scheduled_total", consumer_type="graph", attempt="1") == 3
    assert value(metrics, "streaming_dlq_scheduled_total", consumer_type="graph", attempt="2") == 1


async def test_a_retry_that_was_not_stored_is_not_taken_for_one_that_was(
    source: InMemorySource, retries: Retries, archive: DeadLetterArchive
) -> None:
    put(source, letter())
    retries.problem = PublishError("not confirmed")
    loop = make_loop(source, retries, archive, patience_seconds=0)
    with pytest.raises(PublishError):
        await loop.run(asyncio.Event())
    retries.problem = None
    put(source, letter())
    assert (await loop.run(asyncio.Event(), max_letters=1)).retried == 1
    assert len(retries.stored) == 1


async def test_no_more_than_a_fixed_number_of_letters_is_remembered(
    retries: Retries, archive: DeadLetterArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("banking.streaming.dlq_handler._REMEMBERED_RETRIES", 3)
    source = InMemorySource(batch_messages=1)
    loop = make_loop(source, retries, archive)
    for number in (1, 2, 3, 4, 4, 1):
        put(source, letter(number))
    report = await loop.run(asyncio.Event(), max_letters=6)
    assert (report.retried, report.repeated) == (5, 1)
    assert [message.key for message in retries.stored] == ["p-1", "p-2", "p-3", "p-4", "p-1"]


async def test_a_letter_without_retries_left_is_archived_with_its_bytes(
    source: InMemorySource, retries: Retries, archive: DeadLetterArchive, metrics: StreamingMetrics
) -> None:
    delivery = put(source, letter(attempt=3, data=b"\xff\x00 no event"))
    report = await make_loop(source, retries, archive, metrics=metrics).run(asyncio.Event(), max_letters=1)
    (kept,) = await archived(archive)
    assert kept.data == b"\xff\x00 no event"
    assert (kept.leg, kept.key, kept.topic, kept.entity_type) == ("graph", "p-1", "persons-events", "person")
    assert (kept.reason, kept.attempt, kept.first_failure) == ("invalid_field", 3, FAILED)
    assert source.acknowledged == [delivery]
    assert retries.stored == []
    assert report.archived == 1
    assert value(metrics, "streaming_dlq_archived_total", consumer_type="graph", failure_reason="invalid_field") == 1


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"dlq-letter-id": "x"},
        {**letter().to_dead_letter_message().properties, "dlq-attempt": "-1"},
        {**letter().to_dead_letter_message().properties, "dlq-attempt": "9" * 100},
        {**letter().to_dead_letter_message().properties, "dlq-leg": "ghost"},
        {**letter().to_dead_letter_message().properties, "dlq-first-failure": "2026-03-01T10:00:00"},
        {**letter().to_dead_letter_message().properties, "dlq-first-failure": "0001-01-01T00:00:00+05:00"},
        {**letter().to_dead_letter_message().properties, "dlq-reason": "because"},
    ],
)
async def test_what_is_no_dead_letter_is_archived_too(
    source: InMemorySource, retries: Retries, archive: DeadLetterArchive, properties: dict[str, str]
) -> None:
    delivery = source.put(b"\x80stray", topic="dlq-events", key="k", properties=properties)
    await make_loop(source, retries, archive).run(asyncio.Event(), max_letters=1)
    (kept,) = await archived(archive)
    assert (kept.data, kept.key, kept.reason, kept.leg) == (b"\x80stray", "k", NOT_A_LETTER, None)
    assert kept.properties == properties
    assert "no dead letter" in kept.error or "is not a valid" in kept.error or "invalid literal" in kept.error
    assert source.acknowledged == [delivery]


async def test_nothing_is_acknowledged_while_the_retry_topic_is_away(
    source: InMemorySource, retries: Retries, archive: DeadLetterArchive, metrics: StreamingMetrics
) -> None:
    put(source, letter())
    retries.problem = PublishError("not confirmed")
    health, stop = Health(), asyncio.Event()
    loop = make_loop(source, retries, archive, health=health, metrics=metrics)
    assert value(metrics, "streaming_paused", consumer_type="dlq") == 0
    running = asyncio.create_task(loop.run(stop))
    await until(lambda: loop.waiting_for is not None)
    assert health.problems == {RETRIES: "not confirmed"}
    assert value(metrics, "streaming_paused", consumer_type="dlq") == 1
    assert value(metrics, "streaming_paused_reason", consumer_type="dlq", reason="broker") == 1
    assert source.acknowledged == []
    retries.problem = None
    await until(lambda: bool(source.acknowledged))
    assert health.ready
    assert value(metrics, "streaming_paused", consumer_type="dlq") == 0
    stop.set()
    await running
    assert len(retries.stored) == 1


async def test_nothing_is_acknowledged_while_the_archive_is_away(
    source: InMemorySource, retries: Retries, tmp_path: Path
) -> None:
    (tmp_path / "archive").write_text("a file where the folder should be")
    archive = DeadLetterArchive((tmp_path / "archive").as_uri())
    retried, kept = put(source, letter(1)), put(source, letter(2, attempt=3))
    health, stop = Health(), asyncio.Event()
    loop = make_loop(source, retries, archive, health=health)
    running = asyncio.create_task(loop.run(stop))
    await until(lambda: loop.waiting_for == ARCHIVE)
    assert str(tmp_path / "archive") in health.problems[ARCHIVE]
    assert source.acknowledged == [retried]
    (tmp_path / "archive").unlink()
    await until(lambda: kept in source.acknowledged)
    assert health.ready
    stop.set()
    await running
    assert [held.letter_id for held in await archived(archive)] == [letter(2).letter_id]


async def test_a_full_disk_pauses_until_there_is_room(
    source: InMemorySource, retries: Retries, archive: DeadLetterArchive
) -> None:
    """The process's limit on file sizes stands for the disk: a write stops in the middle of the file."""
    data = random.Random(42).randbytes(100_000)
    kept = put(source, letter(attempt=3, data=data))
    health, stop = Health(), asyncio.Event()
    loop = make_loop(source, retries, archive, health=health)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        running = asyncio.create_task(loop.run(stop))
        await until(lambda: loop.waiting_for == ARCHIVE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "too large" in health.problems[ARCHIVE]
    assert source.acknowledged == []
    assert await archived(archive) == []
    await until(lambda: source.acknowledged == [kept])
    stop.set()
    await running
    assert [held.data for held in await archived(archive)] == [data]


async def test_a_stop_during_a_pause_gives_the_letters_back(
    source: InMemorySource, retries: Retries, archive: DeadLetterArchive
) -> None:
    put(source, letter())
    retries.problem = PublishError("not confirmed")
    stop = asyncio.Event()
    loop = make_loop(source, retries, archive)
    running = asyncio.create_task(loop.run(stop))
    await until(lambda: loop.waiting_for is not None)
    stop.set()
    report = await asyncio.wait_for(running, 5)
    assert (report.total, source.acknowledged) == (0, [])


async def test_the_error_comes_through_when_patience_ends(
    source: InMemorySource, retries: Retries, archive: DeadLetterArchive
) -> None:
    put(source, letter())
    retries.problem = PublishError("not confirmed")
    with pytest.raises(PublishError):
        await make_loop(source, retries, archive, patience_seconds=0).run(asyncio.Event())
    assert source.acknowledged == []


async def test_the_handler_settles_what_it_takes_and_the_rest_goes_its_way(
    source: InMemorySource, retries: Retries, archive: DeadLetterArchive
) -> None:
    def event(name: str) -> bytes:
        return create_person_event(name, name).to_bytes()

    put(source, letter(1, data=event("good")))
    put(source, letter(2, data=event("refused")))
    put(source, letter(3, data=event("raises")))
    put(source, letter(4, data=event("refused-last"), attempt=3))
    put(source, letter(5, data=b"no event"))
    seen: list[str] = []

    def handler(event: Any) -> bool:
        seen.append(event.entity_id)
        if event.entity_id == "raises":
            raise RuntimeError("secret")
        return event.entity_id == "good"

    report = await make_loop(source, retries, archive, handler=handler).run(asyncio.Event(), idle_seconds=0)
    assert seen == ["good", "refused", "raises", "refused-last"]
    assert (report.handled, report.retried, report.archived, report.total) == (1, 3, 1, 5)
    assert [message.key for message in retries.stored] == ["p-2", "p-3", "p-5"]
    assert [kept.key for kept in await archived(archive)] == ["p-4"]
    assert len(source.acknowledged) == 5


async def test_a_handler_may_be_a_coroutine_function(
    source: InMemorySource, retries: Retries, archive: DeadLetterArchive
) -> None:
    put(source, letter())

    async def handler(_event: Any) -> bool:
        await asyncio.sleep(0)
        return True

    report = await make_loop(source, retries, archive, handler=handler).run(asyncio.Event(), idle_seconds=0)
    assert report.handled == 1


async def test_a_stop_from_the_handler_gives_back_what_it_has_not_seen(
    source: InMemorySource, retries: Retries, archive: DeadLetterArchive
) -> None:
    first, _second = put(source, letter(1)), put(source, letter(2))
    stop = asyncio.Event()

    def handler(_event: Any) -> bool:
        stop.set()
        return True

    report = await make_loop(source, retries, archive, handler=handler).run(stop)
    assert (report.total, source.acknowledged) == (1, [first])


def test_handlers_take_what_the_documentation_says_and_use_the_services_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHIVE_URL", tmp_path.as_uri())
    handler = AsyncDLQHandler(pulsar_url="pulsar://localhost:6650", max_retries=3, retry_delay_seconds=60)
    assert handler._archive.url == tmp_path.as_uri()
    with DLQHandler(pulsar_url="pulsar://localhost:6650", max_retries=3, retry_delay_seconds=60) as plain:
        plain.stop()


def test_handlers_read_the_stores_settings_where_the_service_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = tmp_path / "options.json"
    options.write_text('{"endpoint": "http://127.0.0.1:9", "secret_access_key": "hush"}')
    monkeypatch.setenv("ARCHIVE_URL", "s3://bucket/dead")
    monkeypatch.setenv("ARCHIVE_OPTIONS_FILE", str(options))
    assert AsyncDLQHandler()._archive._options["endpoint"] == "http://127.0.0.1:9"
    options.write_text("hush")
    with pytest.raises(ValueError, match="expected a readable file with one JSON object") as error:
        AsyncDLQHandler()
    assert "hush" not in str(error.value)


async def test_an_archive_that_does_not_hold_what_was_written_is_away(tmp_path: Path, monkeypatch: Any) -> None:
    archive = DeadLetterArchive(tmp_path.as_uri())
    monkeypatch.setattr(
        "banking.streaming.archive._flush_to_disk", lambda root, path: (root / path).write_bytes(b"something else")
    )
    with pytest.raises(ArchiveUnavailableError, match="other bytes"):
        await archive.check()
