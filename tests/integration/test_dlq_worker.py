"""Dead letters through a real broker: on schedule to the retry topic, then to a real archive, whatever is killed when.

Each test has a dead-letter topic and a retry topic of its own, so that neither a running worker nor other tests meddle.
"""

from __future__ import annotations

import ast
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import boto3
import pytest
from moto.server import ThreadedMotoServer
from typer.testing import CliRunner

from banking.streaming import DLQHandler, create_person_event, dead_letters, dlq_handler
from banking.streaming.archive import NOT_A_LETTER, DeadLetterArchive
from banking.streaming.broker import BrokerOptions, Delivery, Outgoing, Publisher, Subscription, SubscriptionOptions
from banking.streaming.dead_letters import DeadLetter, rejected_letter, retried_letter
from banking.streaming.dlq_handler import ARCHIVE, DeadLetterLoop, dead_letter_subscription
from banking.streaming.health import Health
from banking.streaming.sink import Leg, RejectionReason
from banking.streaming.topics import NAMESPACE, TopicProvisioner
from dlq_worker.cli import main
from dlq_worker.inventory import Selection, State, find

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Lane:
    """A dead-letter topic and a retry topic of one test."""

    letters: str
    retries: str
    pulsar_url: str
    admin_url: str

    async def request(self, method: str, path: str, body: object = None) -> Any:
        url = f"{self.admin_url}/admin/v2/persistent/{NAMESPACE}/{path}"
        headers = {"Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, headers=headers, data=None if body is None else json.dumps(body)) as response,
        ):
            response.raise_for_status()
            return await response.json() if response.content_type == "application/json" else None

    async def backlog(self) -> int:
        """Letters that are not acknowledged."""
        stats = await self.request("GET", f"{self.letters}/stats")
        return int(stats["subscriptions"]["dlq-worker"]["msgBacklog"])

    async def until_settled(self) -> None:
        await until(self._is_settled)

    async def _is_settled(self) -> bool:
        return await self.backlog() == 0

    def subscription(self, topic: str, name: str) -> Subscription:
        options = SubscriptionOptions([topic], name, key_shared=False, batch_wait_seconds=0.1)
        return Subscription(BrokerOptions(self.pulsar_url), options)


@pytest.fixture
async def lane(pulsar_url: str, pulsar_admin_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lane]:
    mark = uuid.uuid4().hex[:12]
    lane = Lane(f"dlq-{mark}", f"retry-{mark}", pulsar_url, pulsar_admin_url)
    async with TopicProvisioner(pulsar_admin_url) as provisioner:
        await provisioner.ensure()
    earliest = {"ledgerId": -1, "entryId": -1, "partitionIndex": -1}
    for topic, subscription in ((lane.letters, "dlq-worker"), (lane.retries, "leg")):
        await lane.request("PUT", topic)
        await lane.request("PUT", f"{topic}/subscription/{subscription}", earliest)
    monkeypatch.setattr(dead_letters, "DLQ_TOPIC", lane.letters)
    monkeypatch.setattr(dead_letters, "RETRY_TOPICS", dict.fromkeys(Leg, lane.retries))
    monkeypatch.setattr(dlq_handler, "DLQ_TOPIC", lane.letters)
    yield lane
    for topic in (lane.letters, lane.retries):
        await lane.request("DELETE", f"{topic}?force=true")


@pytest.fixture
async def publisher(pulsar_url: str) -> AsyncIterator[Publisher]:
    publisher = Publisher(BrokerOptions(pulsar_url))
    yield publisher
    await publisher.close()


@pytest.fixture
def archive(tmp_path: Path) -> DeadLetterArchive:
    return DeadLetterArchive((tmp_path / "archive").as_uri())


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


async def until(true: Callable[[], Awaitable[bool]], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not await true():
            await asyncio.sleep(0.1)


async def paused_for(loop: DeadLetterLoop, name: str) -> bool:
    return loop.waiting_for == name


def letter(number: int, attempt: int = 0, data: bytes | None = None, topic: str = "persons-events") -> DeadLetter:
    now = datetime.now(UTC)
    key = f"p-{number}-{uuid.uuid4()}"
    return DeadLetter(
        letter_id=f"graph:{topic}:(1,{number},-1,-1)",
        leg=Leg.GRAPH,
        topic=topic,
        key=key,
        data=create_person_event(key, f"Ada {number}").to_bytes() if data is None else data,
        reason=RejectionReason.INVALID_FIELD,
        error="payload.balance: expected a number",
        attempt=attempt,
        first_failure=now - timedelta(minutes=8),
        last_failure=now,
    )


async def send(publisher: Publisher, *letters: DeadLetter) -> None:
    await publisher.publish_all([letter.to_dead_letter_message() for letter in letters])


class Running:
    """A loop at work on a lane."""

    def __init__(self, lane: Lane, archive: DeadLetterArchive, **options: Any) -> None:
        broker = BrokerOptions(lane.pulsar_url)
        self.health = Health()
        self.loop = DeadLetterLoop(
            Subscription(broker, dead_letter_subscription(batch_wait_seconds=0.2)),
            Publisher(broker),
            archive,
            self.health,
            **options,
        )
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Running:
        self._task = asyncio.create_task(self.loop.run(self._stop))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await self._task
        await self.loop._publisher.close()  # type: ignore[attr-defined]
        await self.loop._source.close()  # type: ignore[attr-defined]


async def collect(lane: Lane, enough: Callable[[list[Delivery]], bool], seconds: float = 30) -> list[Delivery]:
    """What comes by the retry topic, acknowledged."""
    subscription = lane.subscription(lane.retries, "leg")
    got: list[Delivery] = []
    try:
        async with asyncio.timeout(seconds):
            while not enough(got):
                batch = await subscription.receive()
                await subscription.acknowledge(batch)
                got += batch
    finally:
        await subscription.close()
    return got


async def test_letters_are_retried_on_schedule_with_their_bytes_unchanged(
    lane: Lane, publisher: Publisher, archive: DeadLetterArchive
) -> None:
    letters = [letter(attempt, attempt, data=b"\xff\x00 no event %d" % attempt) for attempt in range(3)]
    delays = (1.0, 3.0, 5.0)
    arrivals: dict[str, float] = {}
    subscription = lane.subscription(lane.retries, "leg")
    async with Running(lane, archive, delays=delays):
        sent_at = time.monotonic()
        await send(publisher, *letters)
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
                    await send(publisher, again)
            await leg.acknowledge(batch)

    async with Running(lane, archive, delays=(0.3, 0.3, 0.3)):
        rejecting = asyncio.create_task(reject_poison())
        await send(publisher, poison, curable)

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


async def test_an_absent_bucket_pauses_and_s3_reads_like_files(
    lane: Lane, publisher: Publisher, archive: DeadLetterArchive, s3_endpoint: str
) -> None:
    bucket = f"archive-{uuid.uuid4().hex}"
    access = {"access_key_id": "key", "secret_access_key": "secret", "region": "us-east-1"}
    on_s3 = DeadLetterArchive(f"s3://{bucket}/dead", {"endpoint": s3_endpoint, "allow_http": True, **access})
    letters = [letter(number, 3, data) for number, data in enumerate((b"text", b"\xff\x00", "Ω\n".encode()))]
    letters.append(letter(9, 3, b"", topic="companies-events"))
    await send(publisher, *letters)
    waiting = await lane.backlog()  # counts stored batches of messages, and is read while none is acknowledged
    assert waiting > 0
    async with Running(lane, on_s3) as running:
        await until(lambda: paused_for(running.loop, ARCHIVE))
        assert bucket in running.health.problems[ARCHIVE]
        assert await lane.backlog() == waiting
        await asyncio.to_thread(make_bucket, s3_endpoint, bucket)
        await lane.until_settled()
        assert running.health.ready
    assert {found.record.letter_id for found in await find(on_s3, Selection())} == {sent.letter_id for sent in letters}

    for place in await on_s3.places():
        await archive.write(await on_s3.letters(place))
    assert await contents(archive) == await contents(on_s3)
    assert sorted(data for data, _ in await contents(on_s3)) == sorted(sent.data for sent in letters)


def make_bucket(endpoint: str, name: str) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=name)


async def contents(archive: DeadLetterArchive) -> list[tuple[bytes, Any]]:
    letters = [kept for place in await archive.places() for kept in await archive.letters(place)]
    return sorted(((kept.data, kept) for kept in letters), key=lambda pair: pair[1].letter_id)


# A worker on a lane, as a process of its own. It kills itself at the stage that its fifth argument names.
WORKER = """
import os, signal, sys
from banking.streaming import archive, dead_letters, dlq_handler
from banking.streaming.broker import Publisher, Subscription
from banking.streaming.sink import Leg
from dlq_worker.settings import DlqWorkerSettings
from dlq_worker.worker import serve

letters, retries, stage = sys.argv[1:]
dead_letters.DLQ_TOPIC = dlq_handler.DLQ_TOPIC = letters
dead_letters.RETRY_TOPICS = dict.fromkeys(Leg, retries)

def die_after(owner, name, when=lambda result, *arguments: True):
    original = getattr(owner, name)
    async def dying(self, *arguments):
        result = await original(self, *arguments)
        if when(result, *arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, dying)

stages = {
    "nowhere": lambda: None,
    "received": lambda: die_after(Subscription, "receive", lambda result: len(result) > 0),
    "retries stored": lambda: die_after(Publisher, "publish_all"),
    "retries acknowledged": lambda: die_after(Subscription, "acknowledge", lambda _, deliveries: len(deliveries) > 0),
    "object written": lambda: die_after(archive.DeadLetterArchive, "_write", lambda r, path, *_: "v1/letters" in path),
    "manifest written": lambda: die_after(archive.DeadLetterArchive, "_write", lambda r, path, *_: "manifest" in path),
    "archived": lambda: die_after(archive.DeadLetterArchive, "write"),
}
stages[stage]()
serve(DlqWorkerSettings())
"""


class Worker:
    """The service in a process of its own."""

    def __init__(self, lane: Lane, archive: DeadLetterArchive, stage: str = "nowhere", **environment: str) -> None:
        variables = {
            "PULSAR_URL": lane.pulsar_url,
            "PULSAR_ADMIN_URL": lane.admin_url,
            "ARCHIVE_URL": archive.url,
            "ARCHIVE_BATCH_WAIT_SECONDS": "0.2",
            "DLQ_RETRY_DELAYS_SECONDS": "0.5,0.5,0.5",
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": "0",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, lane.letters, lane.retries, stage],
            env=os.environ | variables | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []

    async def ended(self) -> int:
        """The exit status."""
        output, _ = await asyncio.to_thread(self.process.communicate, timeout=60)
        self.lines += output.splitlines()
        return self.process.returncode

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def address(self) -> str:
        """Where health and metrics are, from the log."""
        assert self.process.stdout is not None
        while True:
            line = await asyncio.to_thread(self.process.stdout.readline)
            assert line, self.lines
            self.lines.append(line)
            if addresses := json.loads(line).get("addresses"):
                return "http://{}:{}".format(*ast.literal_eval(addresses[0]))


@pytest.mark.parametrize(
    "stage",
    ["received", "retries stored", "retries acknowledged", "object written", "manifest written", "archived"],
)
async def test_a_worker_killed_at_any_stage_loses_nothing(
    lane: Lane, publisher: Publisher, archive: DeadLetterArchive, stage: str
) -> None:
    to_retry = [letter(number) for number in range(40)]
    to_archive = [letter(100 + number, 3) for number in range(40)]
    await send(publisher, *to_retry, *to_archive)
    assert await Worker(lane, archive, stage).ended() == -signal.SIGKILL
    worker = Worker(lane, archive)
    await lane.until_settled()
    expected = {sent.letter_id for sent in to_retry}
    retried = await collect(lane, lambda got: {ids_of(delivery) for delivery in got} >= expected)
    assert await worker.stop() == 0
    assert {ids_of(delivery) for delivery in retried} == expected
    found = await find(archive, Selection())
    assert {kept.record.letter_id for kept in found} == {sent.letter_id for sent in to_archive}
    assert all(kept.state is State.WAITING for kept in found)
    # What was archived and not acknowledged is archived again: recognised by its id and counted once.
    assert max(kept.copies for kept in found) == (2 if stage in {"manifest written", "archived"} else 1)
    assert bool(await archive.unlisted_places()) == (stage == "object written")


def ids_of(delivery: Delivery) -> str:
    held = retried_letter(delivery)
    assert held is not None
    return held.letter_id


async def test_ten_thousand_letters_at_once(lane: Lane, publisher: Publisher, archive: DeadLetterArchive) -> None:
    half = 5_000
    retried = {f"graph:persons-events:(1,{number},-1,-1)" for number in range(half)}
    kept = {f"graph:persons-events:(1,{number},-1,-1)" for number in range(half, 2 * half)}
    for first in range(0, half, 1000):
        await send(
            publisher,
            *(letter(number) for number in range(first, first + 1000)),
            *(letter(half + number, 3) for number in range(first, first + 1000)),
        )
    worker = Worker(lane, archive)
    await worker.address()
    reading = asyncio.create_task(asyncio.to_thread(worker.lines.extend, iter(worker.process.stdout)))  # type: ignore[arg-type]
    got = await collect(lane, lambda got: len(got) >= half, seconds=120)
    await lane.until_settled()
    status = await asyncio.to_thread(resident_megabytes, worker.process.pid)
    worker.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(worker.process.wait, 30) == 0
    await reading
    assert sorted(ids_of(delivery) for delivery in got) == sorted(retried)
    found = await find(archive, Selection())
    assert {one.record.letter_id for one in found} == kept
    assert sum(one.copies for one in found) == half
    assert status < 250, f"{status} MB"


def resident_megabytes(pid: int) -> float:
    """The most memory that a process has had."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:  # noqa: PTH123 - proc
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))


async def test_the_service_says_what_is_missing_and_stops_when_told(
    lane: Lane, publisher: Publisher, tmp_path: Path
) -> None:
    (tmp_path / "archive").write_text("a file where the folder should be")
    archive = DeadLetterArchive((tmp_path / "archive").as_uri())
    sent = letter(1, 3)
    await send(publisher, sent)
    worker = Worker(lane, archive)
    address = await worker.address()
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{address}/health/live") as live:
            assert live.status == 200
        missing = await readiness(session, address, lambda missing: set(missing) == {ARCHIVE})
        assert archive.url in missing[ARCHIVE]
        assert await lane.backlog() == 1
        (tmp_path / "archive").unlink()
        await readiness(session, address, lambda missing: not missing)
        await lane.until_settled()
        async with session.get(f"{address}/metrics") as metrics:
            assert (
                'streaming_dlq_archived_total{consumer_type="graph",failure_reason="invalid_field"} 1.0'
                in await metrics.text()
            )
    assert await worker.stop() == 0
    assert not any(sent.data.decode() in line for line in worker.lines)
    assert [found.record.letter_id for found in await find(archive, Selection())] == [sent.letter_id]


async def readiness(
    session: aiohttp.ClientSession, address: str, enough: Callable[[dict[str, str]], bool]
) -> dict[str, str]:
    async with asyncio.timeout(60):
        while True:
            async with session.get(f"{address}/health/ready") as response:
                missing: dict[str, str] = (await response.json()).get("missing", {})
                assert (response.status == 200) == (not missing)
            if enough(missing):
                return missing
            await asyncio.sleep(0.1)


async def test_a_handler_takes_the_services_place(
    lane: Lane, publisher: Publisher, archive: DeadLetterArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHIVE_URL", archive.url)
    taken, refused, last = letter(1), letter(2), letter(3, 3)
    await send(publisher, taken, refused, last)
    seen: list[str] = []

    def my_custom_handler(event: Any) -> bool:
        seen.append(event.entity_id)
        if event.entity_id == last.key:
            raise RuntimeError("no")
        return bool(event.entity_id == taken.key)

    def as_written() -> Any:
        dlq = DLQHandler(pulsar_url=lane.pulsar_url, max_retries=3, retry_delay_seconds=1)
        return dlq.process_with_retry(handler_func=my_custom_handler, batch_size=100)

    report = await asyncio.to_thread(as_written)
    assert sorted(seen) == sorted(str(one.key) for one in (taken, refused, last))
    assert (report.handled, report.retried, report.archived) == (1, 1, 1)
    await lane.until_settled()
    (delivery,) = await collect(lane, lambda got: len(got) == 1)
    assert delivery.data == refused.data
    assert [found.record.letter_id for found in await find(archive, Selection())] == [last.letter_id]


async def test_an_archived_letter_comes_back_by_replay(
    lane: Lane, publisher: Publisher, archive: DeadLetterArchive
) -> None:
    letters = [letter(number, 3) for number in range(30)]
    await send(publisher, *letters)
    async with Running(lane, archive):
        await lane.until_settled()
    environment = {"ARCHIVE_URL": archive.url, "PULSAR_URL": lane.pulsar_url}

    def replay(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["replay", *arguments], env=environment)
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "would replay 30 letters" in await asyncio.to_thread(replay, "--dry-run")
    assert "replayed 10 letters" in await asyncio.to_thread(replay, "--limit", "10", "--rate", "100")
    assert "replayed 20 letters" in await asyncio.to_thread(replay)
    assert "replayed 0 letters" in await asyncio.to_thread(replay)
    got = await collect(lane, lambda got: len(got) >= 30)
    assert sorted((ids_of(one), one.data) for one in got) == sorted((sent.letter_id, sent.data) for sent in letters)
    assert {retried_letter(one).attempt for one in got} == {4}  # type: ignore[union-attr]
