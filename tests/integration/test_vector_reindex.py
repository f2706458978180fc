"""Building indices anew under a live leg, against a real OpenSearch: nothing lost, nothing older, nothing half done."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
import sys
import uuid
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from opensearchpy import AsyncOpenSearch

from banking.streaming.consumer import PAUSED, BatchConsumer, ConsumerOptions
from banking.streaming.entities import EntityType
from banking.streaming.events import EntityEvent, EventType, create_event
from banking.streaming.health import Health
from banking.streaming.sink import IncompatibleStoreError, SinkUnavailableError, Status
from banking.streaming.testing import InMemoryDeadLetters, InMemorySource
from fleet.compose import ROOT
from vector_consumer import reindex
from vector_consumer.documents import encode_document
from vector_consumer.embedder import make_embedder, unit_vector
from vector_consumer.mappings import define_indices
from vector_consumer.reindex import OldIndex, Reindexer, ReindexError
from vector_consumer.settings import VectorSettings
from vector_consumer.sink import VectorSink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from banking.streaming.broker import Delivery
    from fleet.compose import Stack
    from vector_consumer.embedder import Embedder, Vector

TYPES = (EntityType.PERSON, EntityType.COMMUNICATION)
PERSONS = [EntityType.PERSON]
PLURALS = {EntityType.PERSON: "persons", EntityType.COMMUNICATION: "communications"}
LIMIT_SECONDS = 300.0


class HashEmbedder:
    """Any text has a vector, equal ones have the same, and another model's are others."""

    def __init__(self, name: str = "hash-a", dimension: int = 8) -> None:
        self.name = name
        self.dimension = dimension

    async def open(self) -> None: ...

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector | None]:
        await asyncio.sleep(0)
        return [self.vector(text) for text in texts]

    async def close(self) -> None: ...

    def vector(self, text: str) -> Vector | None:
        seed = int.from_bytes(hashlib.blake2b((self.name + text).encode(), digest_size=8).digest(), "big")
        return unit_vector(np.random.default_rng(seed).normal(size=self.dimension).astype(np.float32))


ONE = HashEmbedder()
OTHER = HashEmbedder("hash-b", 12)


@pytest.fixture
def settings(opensearch_address: tuple[str, int]) -> VectorSettings:
    host, port = opensearch_address
    return VectorSettings(
        opensearch_host=host,
        opensearch_port=port,
        opensearch_use_ssl=False,
        opensearch_refresh_interval_seconds=0.2,
        index_prefix=f"test-{uuid.uuid4().hex[:12]}",
    )


@pytest.fixture
async def client(settings: VectorSettings) -> AsyncIterator[AsyncOpenSearch]:
    async with AsyncOpenSearch(
        hosts=[{"host": settings.opensearch_host, "port": settings.opensearch_port}], timeout=60
    ) as client:
        yield client
        every = f"{settings.index_prefix}-*"
        await client.indices.put_settings(
            index=every, body={"index.blocks.read_only_allow_delete": None, "index.blocks.write": None}
        )
        await client.indices.delete(index=every)
        await client.indices.delete_index_template(name=every, params={"ignore": 404})


@pytest.fixture
async def sink(settings: VectorSettings, client: AsyncOpenSearch) -> AsyncIterator[VectorSink]:
    sink = VectorSink(settings, ONE)
    await sink.open()
    yield sink
    await sink.close()


class Bank:
    """Events of a few hundred entities, out of order and repeated, and what the stores must hold in the end."""

    def __init__(self, entities: int = 300, seed: int = 7, types: Sequence[EntityType] = TYPES) -> None:
        self.types = types
        self._random = random.Random(seed)
        self._entities = entities
        self._version = 0
        self.newest: dict[tuple[EntityType, str], EntityEvent] = {}
        self._late: list[EntityEvent] = []

    def events(self, number: int) -> list[EntityEvent]:
        """The next ones; some of them come late, and some twice."""
        made = [self._event() for _ in range(number)]
        self._random.shuffle(made)
        held_back, made = made[: number // 10], made[number // 10 :]
        late, self._late = self._late, held_back
        return made + late + made[:3]

    def late(self) -> list[EntityEvent]:
        """Those that are not given out yet."""
        late, self._late = self._late, []
        return late

    def _event(self) -> EntityEvent:
        self._version += 1
        entity_type = self._random.choice(self.types)
        entity_id = f"e-{self._random.randrange(self._entities)}"
        if self._random.random() < 0.2:
            event = create_event(
                entity_type, entity_id, source="test", event_type=EventType.DELETE, version=self._version
            )
        else:
            payload: dict[str, Any] = {"n": self._version, "nested": {"rate": 0.1 + self._version}}
            if entity_type is EntityType.PERSON:
                payload |= {"name": f"Person {self._version}", "date_of_birth": "1980-02-29"}
            if self._random.random() < 0.02:
                payload["note"] = "x" * 40_000  # longer than a term may be
            text = f"text {self._version} é" if self._random.random() < 0.8 else ""
            event = create_event(
                entity_type, entity_id, payload, source="test", version=self._version, text_for_embedding=text
            )
        self.newest[event.key] = event
        return event


class Leg:
    """The real consumer loop on the real sink, fed from memory."""

    def __init__(self, settings: VectorSettings, embedder: Embedder) -> None:
        self.sink = VectorSink(settings, embedder)
        self.source = InMemorySource(batch_messages=50)
        self.letters = InMemoryDeadLetters()
        self.health = Health()
        self._given: list[Delivery] = []
        options = ConsumerOptions(retry_base_seconds=0.02, retry_max_seconds=0.2, drain_seconds=5)
        self._consumer = BatchConsumer(self.sink, [self.source], self.letters, self.health, options)
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def send(self, events: Iterable[EntityEvent]) -> None:
        self.resend(event.to_bytes() for event in events)

    def resend(self, messages: Iterable[bytes]) -> None:
        self._given.extend(self.source.put(data) for data in messages)

    @property
    def backlog(self) -> int:
        return len(self._given) - len(self.source.acknowledged)

    async def settled(self) -> None:
        async with asyncio.timeout(LIMIT_SECONDS):
            while self.backlog:
                assert self._task is not None
                assert not self._task.done()
                await asyncio.sleep(0.02)

    async def until_paused(self, words: str) -> None:
        async with asyncio.timeout(LIMIT_SECONDS):
            while words not in self.health.problems.get(PAUSED, ""):
                await asyncio.sleep(0.02)

    def start(self) -> None:
        self._task = asyncio.create_task(self._consumer.run(self._stop))

    async def stop(self) -> list[bytes]:
        """End it as SIGTERM would; what it did not acknowledge, which the broker would deliver again."""
        self._stop.set()
        if self._task is not None:
            await self._task
        acknowledged = {delivery.message_id for delivery in self.source.acknowledged}
        return [delivery.data for delivery in self._given if delivery.message_id not in acknowledged]


@asynccontextmanager
async def running(settings: VectorSettings, embedder: Embedder) -> AsyncIterator[Leg]:
    leg = Leg(settings, embedder)
    leg.start()
    try:
        yield leg
    finally:
        await leg.stop()


@asynccontextmanager
async def traffic(leg: Leg, bank: Bank) -> AsyncIterator[None]:
    """Events all the time, until the body is done."""

    async def send() -> None:
        while True:
            if leg.backlog < 400:
                leg.send(bank.events(20))
            await asyncio.sleep(0.05)

    task = asyncio.create_task(send())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def serving(client: AsyncOpenSearch, settings: VectorSettings, plural: str) -> str:
    """The one index behind an alias."""
    ((name, _),) = (await client.indices.get_alias(name=f"{settings.index_prefix}-{plural}")).items()
    return str(name)


async def documents(client: AsyncOpenSearch, index: str) -> dict[str, dict[str, Any]]:
    """All that an index holds, tombstones too, without the time of their writing."""
    await client.indices.refresh(index=index)
    answer = await client.search(index=index, body={"query": {"match_all": {}}, "size": 10_000, "version": True})
    held = {}
    for hit in answer["hits"]["hits"]:
        source = hit["_source"]
        assert hit["_version"] == source["version"]
        source.pop("deleted_at", None)
        held[hit["_id"]] = source
    assert answer["hits"]["total"]["value"] == len(held)
    return held


async def written(event: EntityEvent, embedder: Embedder) -> dict[str, Any]:
    """The document of an event as a leg makes it."""
    (vector,) = await embedder.embed([event.text_for_embedding]) if event.text_for_embedding else [None]
    lines = encode_document(event, "", vector, datetime.now(UTC))
    document: dict[str, Any] = json.loads(lines.splitlines()[1])
    document.pop("deleted_at", None)
    return document


async def assert_newest(
    client: AsyncOpenSearch, settings: VectorSettings, bank: Bank, embedder: Embedder, version: str
) -> None:
    """The indices of that version serve and hold the newest version of every entity, and nothing else."""
    for entity_type in bank.types:
        plural = PLURALS[entity_type]
        name = await serving(client, settings, plural)
        assert name == f"{settings.index_prefix}-{plural}-{version}"
        held = await documents(client, name)
        newest = [event for event in bank.newest.values() if event.entity_type is entity_type]
        assert held.keys() == {event.entity_id for event in newest}
        for event in newest:
            expected, found = await written(event, embedder), held[event.entity_id]
            vector, held_vector = expected.pop("embedding", None), found.pop("embedding", None)
            assert found == expected
            assert held_vector == (None if vector is None else pytest.approx(vector, abs=1e-6))
        live = {event.entity_id for event in newest if event.event_type is not EventType.DELETE}
        behind_alias = await documents(client, f"{settings.index_prefix}-{plural}")
        assert behind_alias.keys() == live
        assert live


class TestUnderALiveLeg:
    async def test_the_same_model(self, settings: VectorSettings, client: AsyncOpenSearch) -> None:
        bank = Bank()
        async with running(settings, ONE) as leg:
            leg.send(bank.events(1500))
            await leg.settled()
            async with traffic(leg, bank):
                async with Reindexer(settings, ONE) as reindexer, asyncio.timeout(LIMIT_SECONDS):
                    rebuilt = await reindexer.run(TYPES)
                await asyncio.sleep(0.5)
            leg.send(bank.late())
            await leg.settled()
            assert leg.letters.letters == []
        await assert_newest(client, settings, bank, ONE, "v2")
        prefix = settings.index_prefix
        assert [(index.old, index.new) for index in rebuilt] == [
            (f"{prefix}-{plural}-v1", f"{prefix}-{plural}-v2") for plural in PLURALS.values()
        ]

    async def test_another_model(self, settings: VectorSettings, client: AsyncOpenSearch) -> None:
        bank = Bank(seed=8)
        async with running(settings, ONE) as leg:
            leg.send(bank.events(1000))
            await leg.settled()
            async with traffic(leg, bank):
                async with Reindexer(settings, OTHER) as reindexer, asyncio.timeout(LIMIT_SECONDS):
                    await reindexer.run(list(EntityType), OldIndex.DROP)
                # The leg of the old model waits; it neither writes its vectors nor gives anything up.
                await leg.until_paused("hash-b")
                with pytest.raises(SinkUnavailableError, match="hash-b"):
                    await leg.sink.check()
            unsettled = await leg.stop()
            assert leg.letters.letters == []
        assert unsettled
        again = VectorSink(settings, ONE)
        with pytest.raises(IncompatibleStoreError, match="vector_consumer reindex"):
            await again.open()
        await again.close()

        async with running(settings, OTHER) as leg:
            leg.resend(unsettled)
            leg.send(bank.late())
            await leg.settled()
            assert leg.letters.letters == []
        await assert_newest(client, settings, bank, OTHER, "v2")
        assert len(await client.indices.get(index=f"{settings.index_prefix}-*")) == len(EntityType)

    async def test_killed_again_and_again(self, settings: VectorSettings, client: AsyncOpenSearch) -> None:
        settings = settings.model_copy(update={"index_shards": 2})
        bank = Bank(seed=9)
        model = make_embedder(settings)
        chance = random.Random(5)
        async with running(settings, model) as leg:
            leg.send(bank.events(1500))
            await leg.settled()
            async with traffic(leg, bank):
                for _ in range(2):
                    process = await start_reindex(settings, "--rate", "200")
                    assert process.stdout is not None
                    line = b""
                    while b"documents" not in line:
                        line = await asyncio.wait_for(process.stdout.readline(), LIMIT_SECONDS)
                        assert line
                    await asyncio.sleep(chance.uniform(0, 1.5))
                    process.kill()
                    await process.communicate()
                process = await start_reindex(settings)
                output, _ = await asyncio.wait_for(process.communicate(), LIMIT_SECONDS)
                assert process.returncode == 0, output
            leg.send(bank.late())
            await leg.settled()
            assert leg.letters.letters == []
        assert b"going on where it was left" in output
        assert f"{settings.index_prefix}-persons-v2 serves".encode() in output
        await assert_newest(client, settings, bank, model, "v2")

    async def test_a_full_disk(self, settings: VectorSettings, client: AsyncOpenSearch) -> None:
        """What the server does to every index at the flood stage pauses leg and reindex; both go on by themselves."""
        bank = Bank(seed=10)
        async with running(settings, ONE) as leg:
            leg.send(bank.events(500))
            await leg.settled()
            said: list[str] = []
            async with traffic(leg, bank), Reindexer(settings, ONE, say=said.append, rate=300) as reindexer:
                work = asyncio.create_task(reindexer.run(TYPES))
                every = f"{settings.index_prefix}-*"
                async with asyncio.timeout(LIMIT_SECONDS):
                    while len(await client.indices.get(index=f"{settings.index_prefix}-*-v2")) < len(TYPES):
                        await asyncio.sleep(0.02)
                await client.indices.put_settings(index=every, body={"index.blocks.read_only_allow_delete": True})
                await leg.until_paused("cluster_block_exception")
                async with asyncio.timeout(LIMIT_SECONDS):
                    while not any("cluster_block_exception" in sentence for sentence in said):
                        await asyncio.sleep(0.02)
                await client.indices.put_settings(index=every, body={"index.blocks.read_only_allow_delete": None})
                await asyncio.wait_for(work, LIMIT_SECONDS)
            leg.send(bank.late())
            await leg.settled()
            assert leg.letters.letters == []
        await assert_newest(client, settings, bank, ONE, "v2")


async def start_reindex(settings: VectorSettings, *options: str) -> asyncio.subprocess.Process:
    """The command in a process of its own."""
    return await asyncio.create_subprocess_exec(
        str(Path(sys.prefix) / "bin" / "vector_consumer"),
        "reindex",
        *options,
        *(f"--type={entity_type.value}" for entity_type in TYPES),
        env=os.environ
        | {
            "OPENSEARCH_HOST": settings.opensearch_host,
            "OPENSEARCH_PORT": str(settings.opensearch_port),
            "OPENSEARCH_USE_SSL": "false",
            "OPENSEARCH_REFRESH_INTERVAL_SECONDS": str(settings.opensearch_refresh_interval_seconds),
            "INDEX_PREFIX": settings.index_prefix,
            "INDEX_SHARDS": str(settings.index_shards),
            "PYTHONUNBUFFERED": "1",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


class Crash(BaseException):
    """The end of the job at one point, after which it reaches the store no more: as by `kill -9`."""


def crash_at(reindexer: Reindexer, number: int, *, answered: bool) -> None:
    """Let the job end at its request of that number, before the store gets it or before its answer comes."""
    transport = reindexer._client.transport
    perform = transport.perform_request
    count = 0

    async def perform_request(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == number and answered:
            await perform(*arguments, **options)
        if count >= number:
            raise Crash
        return await perform(*arguments, **options)

    transport.perform_request = perform_request


class TestEveryPointOfTheJob:
    @pytest.mark.parametrize("answered", [False, True])
    async def test_it_goes_on_after_an_end_at_any_request(
        self, settings: VectorSettings, client: AsyncOpenSearch, sink: VectorSink, answered: bool
    ) -> None:
        bank = Bank(entities=40, seed=11, types=PERSONS)
        await write(sink, bank.events(100))
        rebuilt, waiting = [], []
        for number in range(1, 100):
            # While the writes are stopped, events wait as they do in the leg.
            waiting = await write(sink, waiting + bank.events(5))
            async with Reindexer(settings, ONE) as reindexer:
                crash_at(reindexer, number, answered=answered)
                with suppress(Crash):
                    rebuilt = await reindexer.run(PERSONS, OldIndex.DROP)
                    break
        assert number > 20
        assert await write(sink, waiting + bank.late()) == []
        (index,) = rebuilt
        await assert_newest(client, settings, bank, ONE, index.new.rsplit("-", 1)[1])
        held = await client.indices.get(index=f"{settings.index_prefix}-persons-*")
        assert list(held) == [index.new]
        assert "reindex" not in held[index.new]["mappings"]["_meta"]

    async def test_it_is_stopped_while_writes_wait(
        self, settings: VectorSettings, client: AsyncOpenSearch, sink: VectorSink
    ) -> None:
        bank = Bank(entities=40, seed=12, types=PERSONS)
        await write(sink, bank.events(100))
        said: list[str] = []
        async with Reindexer(settings, ONE, say=said.append) as reindexer:
            work = asyncio.create_task(reindexer.run(PERSONS))

            async def stop(move: object) -> None:
                work.cancel()
                await asyncio.sleep(0)

            reindexer._compare = stop  # type: ignore[method-assign]  # the last step before the exchange
            with pytest.raises(asyncio.CancelledError):
                await work
        assert said[-1] == "the old indices take writes again"
        assert await serving(client, settings, "persons") == f"{settings.index_prefix}-persons-v1"
        assert await write(sink, bank.events(50) + bank.late()) == []

        async with Reindexer(settings, ONE) as reindexer:
            await reindexer.run(PERSONS)
        await assert_newest(client, settings, bank, ONE, "v2")


async def write(sink: VectorSink, events: Iterable[EntityEvent]) -> list[EntityEvent]:
    """Write the newest of each entity as the loop does, once; what has to wait."""
    newest: dict[tuple[EntityType, str], EntityEvent] = {}
    for event in events:
        if event.key not in newest or newest[event.key].version < event.version:
            newest[event.key] = event
    outcomes = await sink.write(list(newest.values()))
    assert {outcome.status for outcome in outcomes} <= {Status.APPLIED, Status.STALE, Status.RETRY}
    return [event for event, outcome in zip(newest.values(), outcomes, strict=True) if outcome.status is Status.RETRY]


class TestWhatStopsIt:
    async def test_a_document_that_no_longer_fits(
        self, settings: VectorSettings, client: AsyncOpenSearch, sink: VectorSink
    ) -> None:
        """An older mapping took what the new one refuses: it is named, and what serves stays."""
        name = f"{settings.index_prefix}-persons-v1"
        await sink.write([person("p-1", 1), person("p-2", 1)])
        await client.indices.delete(index=name)
        loose = define_indices(settings, ONE)[EntityType.PERSON].body
        loose["mappings"]["properties"]["date_of_birth"] = {"type": "keyword"}
        await client.indices.create(index=name, body=loose | {"aliases": {f"{settings.index_prefix}-persons": {}}})
        await sink.write([person("p-1", 1)])
        document = await written(person("p-2", 3), ONE) | {"date_of_birth": "unknown"}
        document["payload"]["date_of_birth"] = "unknown"
        await client.index(index=name, id="p-2", body=document, params={"version": 3, "version_type": "external"})

        async with Reindexer(settings, ONE) as reindexer:
            with pytest.raises(ReindexError, match=r"p-2: payload\.date_of_birth: expected a calendar day") as refusal:
                await reindexer.run(PERSONS)
        assert "unknown" not in str(refusal.value)
        assert "p-1" not in str(refusal.value)
        assert await serving(client, settings, "persons") == name
        assert await write(sink, [person("p-3", 1), person("p-2", 4)]) == []

        async with Reindexer(settings, ONE) as reindexer:
            (rebuilt,) = await reindexer.run(PERSONS)
        assert (rebuilt.new, rebuilt.documents) == (f"{settings.index_prefix}-persons-v2", 3)

    async def test_what_was_begun_otherwise_has_to_be_given_up(
        self, settings: VectorSettings, client: AsyncOpenSearch, sink: VectorSink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reindex, "_QUIET_SECONDS", 0.2)
        bank = Bank(entities=40, seed=13, types=PERSONS)
        await write(sink, bank.events(100))
        prefix = settings.index_prefix
        await client.indices.add_block(index=f"{prefix}-persons-v1", block="write")  # as a killed run leaves it
        async with Reindexer(settings, OTHER) as reindexer, Reindexer(settings, ONE) as mine:
            crash_at(mine, 8, answered=True)
            with pytest.raises(Crash):
                await mine.run(PERSONS)
            with pytest.raises(ReindexError, match=r"persons-v2: it was begun with other settings.*--abandon"):
                await reindexer.run(PERSONS)
            assert await reindexer.abandon(PERSONS) == [f"{prefix}-persons-v2"]
            assert await reindexer.abandon(PERSONS) == []
        assert await write(sink, bank.events(20)) == []
        assert list(await client.indices.get(index=f"{prefix}-persons-*")) == [f"{prefix}-persons-v1"]

    async def test_a_run_under_way_is_not_given_up(
        self, settings: VectorSettings, client: AsyncOpenSearch, sink: VectorSink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reindex, "_NOTE_SECONDS", 0.2)
        monkeypatch.setattr(reindex, "_QUIET_SECONDS", 3.0)
        bank = Bank(entities=400, seed=14, types=PERSONS)
        await write(sink, bank.events(500))
        async with Reindexer(settings, ONE, rate=5) as mine, Reindexer(settings, ONE) as other:
            work = asyncio.create_task(mine.run(PERSONS))
            async with asyncio.timeout(LIMIT_SECONDS):
                while not await client.indices.exists(index=f"{settings.index_prefix}-persons-v2"):
                    await asyncio.sleep(0.02)
            with pytest.raises(ReindexError, match="a run is under way"):
                await other.abandon(PERSONS)
            assert not work.done()
            assert await client.indices.exists(index=f"{settings.index_prefix}-persons-v2")
            work.cancel()
            await asyncio.wait([work])

    async def test_an_index_that_is_another_one_by_now(
        self, settings: VectorSettings, client: AsyncOpenSearch, sink: VectorSink
    ) -> None:
        await sink.write([person("p-1", 1)])
        name = f"{settings.index_prefix}-persons-v1"
        async with Reindexer(settings, ONE) as mine:
            crash_at(mine, 8, answered=True)
            with pytest.raises(Crash):
                await mine.run(PERSONS)
        await client.indices.delete(index=name)
        await sink.check()  # makes it again, empty
        async with Reindexer(settings, ONE) as reindexer:
            with pytest.raises(ReindexError, match="begun with other settings or from another index"):
                await reindexer.run(PERSONS)

    async def test_nothing_to_build(self, settings: VectorSettings) -> None:
        async with Reindexer(settings, ONE) as reindexer:
            with pytest.raises(ReindexError, match="there is no index to build anew"):
                await reindexer.run(PERSONS)


async def test_tombstones_are_kept_while_an_index_is_built(settings: VectorSettings, client: AsyncOpenSearch) -> None:
    """The new index may hold the state from before the delete, and learns of the delete from the tombstone alone."""
    then = VectorSink(settings, ONE, now=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    await then.open()
    gone = create_event(EntityType.PERSON, "p-1", source="test", event_type=EventType.DELETE, version=2)
    await then.write([gone])
    await client.indices.refresh(index=f"{settings.index_prefix}-persons-v1")
    async with Reindexer(settings, ONE) as reindexer:
        crash_at(reindexer, 4, answered=True)
        with pytest.raises(Crash):
            await reindexer.run(PERSONS)

    assert await then.purge_tombstones(datetime(2026, 2, 1, tzinfo=UTC)) == 0
    async with Reindexer(settings, ONE) as reindexer:
        (rebuilt,) = await reindexer.run(PERSONS)
    assert (rebuilt.documents, rebuilt.tombstones) == (0, 1)
    await then.check()
    assert await then.purge_tombstones(datetime(2026, 2, 1, tzinfo=UTC)) == 1
    await then.close()


async def test_the_commands_of_the_document_run_as_written(
    stack: Stack, settings: VectorSettings, client: AsyncOpenSearch
) -> None:
    leg = VectorSink(settings)
    await leg.open()
    await leg.write([person("p-1", 1)])
    text = (ROOT / "docs" / "reindexing.md").read_text(encoding="utf-8")
    scripts = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert len(scripts) >= 4
    for script in scripts:
        here = script.replace("janusgraph-demo", stack.project).replace(
            "podman exec", f"podman exec -e INDEX_PREFIX={settings.index_prefix}"
        )
        process = await asyncio.create_subprocess_exec(
            "bash", "-euc", here, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await asyncio.wait_for(process.communicate(), LIMIT_SECONDS)
        assert process.returncode == 0, output
    await leg.check()
    assert await write(leg, [person("p-1", 2)]) == []
    # Built three times: kept, dropped, kept.
    held = set(await client.indices.get(index=f"{settings.index_prefix}-persons-*"))
    assert held == {f"{settings.index_prefix}-persons-v{number}" for number in (1, 3, 4)}
    assert (await client.get(index=f"{settings.index_prefix}-persons-v4", id="p-1"))["_version"] == 2
    await leg.close()


def person(entity_id: str, version: int) -> EntityEvent:
    payload = {"name": "Ann Smith", "date_of_birth": "1980-02-29"}
    return create_event(EntityType.PERSON, entity_id, payload, source="test", version=version)
