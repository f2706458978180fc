"""Lanes: topics of a test's own for events, dead letters and retries, with workers and legs in processes of their own.

So neither the running fleet nor other tests meddle, and a process can be killed where a test wants it to be.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import boto3
import pytest
from msgspec.structs import replace
from opensearchpy import AsyncOpenSearch

from banking.streaming import create_person_event, dead_letters, dlq_handler
from banking.streaming.archive import DeadLetterArchive
from banking.streaming.broker import BrokerOptions, Delivery, Outgoing, Publisher, Subscription, SubscriptionOptions
from banking.streaming.dead_letters import DeadLetter, retried_letter
from banking.streaming.dlq_handler import DeadLetterLoop, dead_letter_subscription
from banking.streaming.entities import EntityType
from banking.streaming.health import Health
from banking.streaming.sink import Leg, RejectionReason
from banking.streaming.topics import LEG_SUBSCRIPTIONS, NAMESPACE, TopicProvisioner
from dlq_worker import waiting
from dlq_worker.inventory import Selection, find
from fleet.stores import StoreReader, VectorReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from banking.streaming.events import EntityEvent
    from fleet.compose import Stack

LEGS = tuple(LEG_SUBSCRIPTIONS.values())


@dataclass(frozen=True)
class Lane:
    """The topics of one test: events for a leg, its dead letters, its retries."""

    events: str
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

    async def make(self) -> None:
        earliest = {"ledgerId": -1, "entryId": -1, "partitionIndex": -1}
        for topic, subscriptions in (
            (self.events, LEGS),
            (self.letters, ("dlq-worker",)),
            (self.retries, ("leg", *LEGS)),
        ):
            await self.request("PUT", topic)
            for subscription in subscriptions:
                await self.request("PUT", f"{topic}/subscription/{subscription}", earliest)

    async def remove(self) -> None:
        for topic in (self.events, self.letters, self.retries):
            await self.request("DELETE", f"{topic}?force=true")

    async def state(self, topic: str, subscription: str) -> dict[str, Any]:
        """What the broker says of a subscription."""
        stats = await self.request("GET", f"{topic}/stats")
        state: dict[str, Any] = stats["subscriptions"][subscription]
        return state

    async def backlog(self) -> int:
        """Letters that are not acknowledged, counted in the entries that the broker stored them in."""
        return int((await self.state(self.letters, "dlq-worker"))["msgBacklog"])

    async def until_settled(self, seconds: float = 120) -> None:
        await until(self._is_settled, seconds)

    async def _is_settled(self) -> bool:
        return await self.backlog() == 0

    def subscription(self, topic: str, name: str) -> Subscription:
        options = SubscriptionOptions([topic], name, key_shared=False, batch_wait_seconds=0.1)
        return Subscription(BrokerOptions(self.pulsar_url), options)

    async def send(self, publisher: Publisher, *letters: DeadLetter) -> None:
        """Put letters into the dead-letter topic, as a leg does."""
        await publisher.publish_all(
            [replace(letter.to_dead_letter_message(), topic=self.letters) for letter in letters]
        )


@pytest.fixture
async def make_lane(pulsar_url: str, pulsar_admin_url: str) -> AsyncIterator[Callable[[], Awaitable[Lane]]]:
    async with TopicProvisioner(pulsar_admin_url) as provisioner:
        await provisioner.ensure()
    lanes: list[Lane] = []

    async def make() -> Lane:
        mark = uuid.uuid4().hex[:12]
        lane = Lane(f"events-{mark}", f"dlq-{mark}", f"retry-{mark}", pulsar_url, pulsar_admin_url)
        await lane.make()
        lanes.append(lane)
        return lane

    yield make
    for lane in lanes:
        await lane.remove()


@pytest.fixture
async def lane(make_lane: Callable[[], Awaitable[Lane]], monkeypatch: pytest.MonkeyPatch) -> Lane:
    """A lane that this process's own loops and counters use too."""
    lane = await make_lane()
    monkeypatch.setattr(dead_letters, "RETRY_TOPICS", dict.fromkeys(Leg, lane.retries))
    monkeypatch.setattr(dlq_handler, "DLQ_TOPIC", lane.letters)
    monkeypatch.setattr(waiting, "DLQ_TOPIC", lane.letters)
    monkeypatch.setattr(waiting, "RETRY_TOPICS", {Leg.GRAPH: lane.retries})
    monkeypatch.setattr(waiting, "LEG_SUBSCRIPTIONS", {Leg.GRAPH: "leg"})
    return lane


@pytest.fixture
async def publisher(pulsar_url: str) -> AsyncIterator[Publisher]:
    publisher = Publisher(BrokerOptions(pulsar_url))
    yield publisher
    await publisher.close()


@pytest.fixture
def archive(tmp_path: Path) -> DeadLetterArchive:
    return DeadLetterArchive((tmp_path / "archive").as_uri())


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert server.poll() is None
            signal.sigtimedwait([], 0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait(30)


S3_ACCESS = {"access_key_id": "key", "secret_access_key": "secret", "region": "us-east-1"}


def make_bucket(endpoint: str, name: str) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=S3_ACCESS["access_key_id"],
        aws_secret_access_key=S3_ACCESS["secret_access_key"],
        region_name=S3_ACCESS["region"],
    )
    client.create_bucket(Bucket=name)


@pytest.fixture(scope="session")
def graph_store(janusgraph_address: tuple[str, int]) -> dict[str, str]:
    """What a graph leg of a lane reads from its environment."""
    host, port = janusgraph_address
    return {"LEG": "graph", "JANUSGRAPH_HOST": host, "JANUSGRAPH_PORT": str(port)}


@pytest.fixture(scope="session")
def vector_store(opensearch_address: tuple[str, int]) -> Iterator[dict[str, str]]:
    """What a vector leg of a lane reads from its environment: it has indices of its own."""
    host, port = opensearch_address
    prefix = f"letters-{uuid.uuid4().hex[:12]}"
    yield {
        "LEG": "vector",
        "OPENSEARCH_HOST": host,
        "OPENSEARCH_PORT": str(port),
        "OPENSEARCH_USE_SSL": "false",
        "INDEX_PREFIX": prefix,
    }

    async def remove() -> None:
        async with AsyncOpenSearch(hosts=[{"host": host, "port": port}], timeout=60) as client:
            await client.indices.delete(index=f"{prefix}-*")
            await client.indices.delete_index_template(name=f"{prefix}-*", params={"ignore": 404})

    asyncio.run(remove())


@pytest.fixture
async def client(opensearch_address: tuple[str, int]) -> AsyncIterator[AsyncOpenSearch]:
    host, port = opensearch_address
    async with AsyncOpenSearch(hosts=[{"host": host, "port": port}], timeout=60) as client:
        yield client


@pytest.fixture
async def reader(stack: Stack, vector_store: dict[str, str]) -> AsyncIterator[VectorReader]:
    """What stands in the lanes' indices."""
    settings = stack.addresses.vector_settings().model_copy(update={"index_prefix": vector_store["INDEX_PREFIX"]})
    reader = VectorReader(settings)
    yield reader
    await reader.close()


@contextlib.asynccontextmanager
async def refusing(client: AsyncOpenSearch, index: str) -> AsyncIterator[None]:
    """Meanwhile an index refuses every document: somebody has set a pipeline for it that is not there."""
    await client.indices.put_settings(index=index, body={"index.default_pipeline": "audit"})
    try:
        yield
    finally:
        await client.indices.put_settings(index=index, body={"index.default_pipeline": None})


async def until(true: Callable[[], Awaitable[bool]], seconds: float = 120) -> None:
    async with asyncio.timeout(seconds):
        while not await true():
            await asyncio.sleep(0.1)


def letter(number: int, attempt: int = 0, data: bytes | None = None, topic: str = "persons-events") -> DeadLetter:
    now = datetime.now(UTC)
    key = f"p-{number}-{uuid.uuid4()}"
    return DeadLetter(
        letter_id=f"graph:{topic}:(1,{number},-1,-1):0",
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


def person(source: str = "test", **options: Any) -> EntityEvent:
    return create_person_event(options.pop("person_id", None) or str(uuid.uuid4()), "Ann", source=source, **options)


def refused(event: EntityEvent) -> DeadLetter:
    """The letter of an event that its store takes by now."""
    return replace(letter(0, data=event.to_bytes()), letter_id=f"graph:{event.entity_id}", key=event.entity_id)


async def has_archived(archive: DeadLetterArchive, letters: int) -> bool:
    return len(await find(archive, Selection())) >= letters


async def stands(reader: StoreReader, events: list[EntityEvent]) -> bool:
    """Whether the store holds these events, each at its version."""
    held = await reader.lookup(EntityType.PERSON, [event.entity_id for event in events])
    return {key: one.version for key, one in held.items()} == {event.entity_id: event.version for event in events}


class Running:
    """A loop at work on a lane, in this process."""

    def __init__(self, lane: Lane, archive: DeadLetterArchive, **options: Any) -> None:
        broker = BrokerOptions(lane.pulsar_url)
        # Of one length from the start, so that letters that wait are taken by full batches.
        waiting = dataclasses.replace(dead_letter_subscription(batch_wait_seconds=0.2), receiver_queue_bytes=2**40)
        self.health = Health()
        self.loop = DeadLetterLoop(
            Subscription(broker, waiting),
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


async def collect(
    lane: Lane, enough: Callable[[list[Delivery]], bool], seconds: float = 90, subscription: str = "leg"
) -> list[Delivery]:
    """What comes by the retry topic, acknowledged."""
    source = lane.subscription(lane.retries, subscription)
    got: list[Delivery] = []
    try:
        async with asyncio.timeout(seconds):
            while not enough(got):
                batch = await source.receive()
                await source.acknowledge(batch)
                got += batch
    finally:
        await source.close()
    return got


def id_of(delivery: Delivery) -> str:
    """The id of the letter that a retry of this process's lane holds."""
    held = retried_letter(delivery)
    assert held is not None
    return held.letter_id


# What both kinds of process start with: a way to kill oneself where a stage is reached.
_DIE_AFTER = """
import asyncio, os, signal, sys
from banking.streaming import archive, consumer, dead_letters, dlq_handler, leg
from banking.streaming.broker import Publisher, Subscription
from banking.streaming.entities import EntityType
from banking.streaming.sink import Leg

events, letters, retries, stage = sys.argv[1:]
dead_letters.DLQ_TOPIC = dlq_handler.DLQ_TOPIC = letters
dead_letters.RETRY_TOPICS = consumer.RETRY_TOPICS = leg.RETRY_TOPICS = dict.fromkeys(Leg, retries)
leg.ENTITY_TOPICS = {EntityType.PERSON: events}

def die_after(owner, name, when=lambda result, *arguments: True):
    original = getattr(owner, name)
    async def dying(self, *arguments):
        result = await original(self, *arguments)
        if when(result, *arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, dying)
"""

WORKER_PROGRAM = (
    _DIE_AFTER
    + """
from dlq_worker import waiting
from dlq_worker.settings import DlqWorkerSettings
from dlq_worker.worker import serve

waiting.DLQ_TOPIC = letters
waiting.RETRY_TOPICS, waiting.LEG_SUBSCRIPTIONS = {Leg.GRAPH: retries}, {Leg.GRAPH: "leg"}

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
)
WORKER_STAGES = ("received", "retries stored", "retries acknowledged", "object written", "manifest written", "archived")

_LEG = (
    _DIE_AFTER
    + """
kind = os.environ["LEG"]
if kind == "graph":
    from graph_consumer.settings import GraphSettings as Settings
    from graph_consumer.sink import GraphSink as Sink
else:
    from vector_consumer.settings import VectorSettings as Settings
    from vector_consumer.sink import VectorSink as Sink

def is_retry(delivery):
    return delivery.topic == retries

stages = {
    "nowhere": lambda: None,
    "event received": lambda: die_after(Subscription, "receive", lambda result: len(result) > 0),
    "event written": lambda: die_after(Sink, "write"),
    "letter stored": lambda: die_after(leg.PulsarDeadLetterWriter, "write"),
    "event acknowledged": lambda: die_after(Subscription, "acknowledge"),
    "retry received": lambda: die_after(Subscription, "receive", lambda result: any(map(is_retry, result))),
    "retry written": lambda: die_after(
        Sink, "write", lambda _, events: any(event.source == "retried" for event in events)
    ),
    "retry acknowledged": lambda: die_after(
        Subscription, "acknowledge", lambda _, deliveries: any(map(is_retry, deliveries))
    ),
}
stages[stage]()
settings = Settings()
leg.run_leg(f"{kind}_consumer", settings, lambda: Sink(settings))
"""
)
LEG_STAGES = (
    "event received",
    "event written",
    "letter stored",
    "event acknowledged",
    "retry received",
    "retry written",
    "retry acknowledged",
)


class Process:
    """A service on a lane, in a process of its own; it kills itself at the stage that it is told."""

    def __init__(self, program: str, lane: Lane, stage: str, environment: dict[str, str]) -> None:
        variables = {
            "PULSAR_URL": lane.pulsar_url,
            "PULSAR_ADMIN_URL": lane.admin_url,
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": "0",
        }
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe that nobody reads would hold the process up
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, lane.events, lane.letters, lane.retries, stage],
            env=os.environ | variables | environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
        self._log.close()

    @property
    def lines(self) -> list[str]:
        """What it has logged."""
        return os.pread(self._log.fileno(), 1 << 30, 0).decode().splitlines()

    async def ended(self) -> int:
        """The exit status."""
        return await asyncio.to_thread(self.process.wait, 90)

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        self.process.kill()
        await self.ended()

    async def until_logged(self, event: str, seconds: float = 120, **fields: object) -> dict[str, Any]:
        """Wait for a line of the log; the line."""
        async with asyncio.timeout(seconds):
            while True:
                ended = self.process.poll() is not None
                for line in self.lines:
                    entry: dict[str, Any] = json.loads(line) if line.startswith("{") and line.endswith("}") else {}
                    if entry.get("event") == event and fields.items() <= entry.items():
                        return entry
                assert not ended, self.lines
                await asyncio.sleep(0.1)

    async def address(self) -> str:
        """Where health and metrics are, from the log."""
        listening = await self.until_logged("listening")
        return "http://{}:{}".format(*ast.literal_eval(listening["addresses"][0]))


class Worker(Process):
    """The dead-letter worker."""

    def __init__(self, lane: Lane, archive: DeadLetterArchive, stage: str = "nowhere", **environment: str) -> None:
        variables = {
            "ARCHIVE_URL": archive.url,
            "ARCHIVE_BATCH_WAIT_SECONDS": "0.2",
            "DLQ_RETRY_DELAYS_SECONDS": "0.5,0.5,0.5",
        }
        super().__init__(WORKER_PROGRAM, lane, stage, variables | environment)


class LegProcess(Process):
    """A leg with its real store, which is a fixture below."""

    def __init__(self, lane: Lane, store: dict[str, str], stage: str = "nowhere", **environment: str) -> None:
        super().__init__(_LEG, lane, stage, store | environment)


async def readiness(address: str, enough: Callable[[dict[str, str]], bool], seconds: float = 120) -> dict[str, str]:
    """What a service says that it misses, once it is what a test waits for."""
    async with asyncio.timeout(seconds), aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{address}/health/ready") as response:
                missing: dict[str, str] = (await response.json()).get("missing", {})
                assert (response.status == 200) == (not missing)
            if enough(missing):
                return missing
            await asyncio.sleep(0.1)


async def metrics_of(address: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"{address}/metrics") as response:
        return await response.text()


def raw_event(lane: Lane, key: str, data: bytes) -> Outgoing:
    """A message of the lane's event topic, as anybody could publish it."""
    return Outgoing(lane.events, data, key)
