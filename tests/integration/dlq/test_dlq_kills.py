"""`kill -9` of the worker, a leg and the broker at every stage of a letter: all arrives, and nothing counts twice."""

from __future__ import annotations

import asyncio
import signal
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from banking.streaming.archive import DeadLetterArchive
from banking.streaming.dlq_handler import ARCHIVE
from dlq_worker.inventory import Selection, State, find
from tests.integration.dlq.conftest import (
    LEG_STAGES,
    WORKER_STAGES,
    LegProcess,
    Worker,
    collect,
    has_archived,
    id_of,
    letter,
    person,
    raw_event,
    readiness,
    refused,
    stands,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from banking.streaming.broker import Publisher
    from banking.streaming.dead_letters import DeadLetter
    from banking.streaming.events import EntityEvent
    from fleet.compose import Stack
    from fleet.stores import GraphReader
    from tests.integration.dlq.conftest import Lane


@pytest.mark.parametrize("stage", WORKER_STAGES)
async def test_a_worker_killed_at_any_stage_loses_nothing(
    lane: Lane, publisher: Publisher, archive: DeadLetterArchive, stage: str
) -> None:
    to_retry = [letter(number) for number in range(40)]
    to_archive = [letter(100 + number, 3) for number in range(40)]
    await lane.send(publisher, *to_retry, *to_archive)
    async with Worker(lane, archive, stage) as worker:
        assert await worker.ended() == -signal.SIGKILL
    async with Worker(lane, archive) as worker:
        await lane.until_settled()
        expected = {sent.letter_id for sent in to_retry}
        retried = await collect(lane, lambda got: {id_of(delivery) for delivery in got} >= expected)
        assert await worker.stop() == 0
    assert {id_of(delivery) for delivery in retried} == expected
    found = await find(archive, Selection())
    assert {kept.record.letter_id for kept in found} == {sent.letter_id for sent in to_archive}
    assert all(kept.state is State.WAITING for kept in found)
    # What was archived and not acknowledged is archived again: recognised by its id and counted once.
    assert max(kept.copies for kept in found) == (2 if stage in {"manifest written", "archived"} else 1)
    assert bool(await archive.unlisted_places()) == (stage == "object written")


async def test_a_leg_killed_at_every_stage_in_turn_loses_nothing(
    lane: Lane,
    publisher: Publisher,
    archive: DeadLetterArchive,
    graph: GraphReader,
    graph_store: dict[str, str],
) -> None:
    good: list[EntityEvent] = []
    poison: dict[str, bytes] = {}

    async def publish() -> None:
        fresh, again = ([person(source=source) for _ in range(10)] for source in ("test", "retried"))
        bad = {str(uuid.uuid4()): b"\xff no event %d" % number for number in range(10)}
        await publisher.publish_all([raw_event(lane, event.entity_id, event.to_bytes()) for event in fresh])
        await publisher.publish_all([raw_event(lane, key, data) for key, data in bad.items()])
        await lane.send(publisher, *(refused(event) for event in again))
        good.extend((*fresh, *again))
        poison.update(bad)

    async with Worker(lane, archive):
        for stage in LEG_STAGES:
            await publish()
            async with LegProcess(lane, graph_store, stage) as leg:
                assert await leg.ended() == -signal.SIGKILL
        async with LegProcess(lane, graph_store):
            await until(lambda: has_archived(archive, len(poison)))
            await until(lambda: stands(graph, good))
            await until(lambda: is_read(lane, lane.events, "graph-consumer"))
            await until(lambda: is_read(lane, lane.retries, "graph-consumer"))
            await lane.until_settled()
    found = await find(archive, Selection())
    assert {one.record.key: one.record.attempt for one in found} == dict.fromkeys(poison, 3)
    kept = [content for place in await archive.places() for content in await archive.letters(place)]
    assert {content.key: content.data for content in kept} == poison
    await stand_once(graph, good)


async def test_a_broker_killed_with_letters_at_every_stage_loses_nothing(
    stack: Stack,
    make_lane: Callable[[], Awaitable[Lane]],
    publisher: Publisher,
    graph: GraphReader,
    graph_store: dict[str, str],
    tmp_path: Path,
) -> None:
    """A lane for each stage: letters stored, retries with their delay running, retries delivered, archive away."""
    stored, delayed, delivered, archiving = [await make_lane() for _ in range(4)]
    archives = {lane: DeadLetterArchive((tmp_path / lane.letters).as_uri()) for lane in (stored, delayed, archiving)}
    letters = {lane: [letter(number) for number in range(20)] for lane in (stored, delayed)}
    letters[archiving] = [letter(number, 3) for number in range(20)]
    events = [person(source="retried") for _ in range(20)]
    (tmp_path / archiving.letters).write_text("a file where the folder should be")

    async with (
        Worker(delayed, archives[delayed], DLQ_RETRY_DELAYS_SECONDS="20"),
        Worker(delivered, DeadLetterArchive((tmp_path / "unused").as_uri())),
        Worker(archiving, archives[archiving]) as archiver,
        LegProcess(delivered, graph_store) as leg,
    ):
        # Each lane is brought to its stage.
        await readiness(await leg.address(), lambda missing: not missing)
        await asyncio.to_thread(stack.pause, "janusgraph")
        try:
            await delivered.send(publisher, *(refused(event) for event in events))
            for lane in (stored, delayed, archiving):
                await lane.send(publisher, *letters[lane])
            await delayed.until_settled()
            await until(lambda: is_held(delivered))
            await readiness(await archiver.address(), lambda missing: ARCHIVE in missing)
            assert (await delayed.state(delayed.retries, "leg"))["msgBacklog"] == 20
            assert await stored.backlog() > 0

            await asyncio.to_thread(stack.kill_process, "pulsar")
            await asyncio.to_thread(stack.wait_ready, 120, ["pulsar"])
        finally:
            await asyncio.to_thread(stack.unpause, "janusgraph")
        (tmp_path / archiving.letters).unlink()
        async with Worker(stored, archives[stored]):
            for lane in (stored, delayed):
                retried = await collect(lane, holds_all(letters[lane]))
                assert {raw_id(delivery) for delivery in retried} == {sent.letter_id for sent in letters[lane]}
            await until(lambda: stands(graph, events))
            await until(lambda: is_read(delivered, delivered.retries, "graph-consumer"))
            await archiving.until_settled()
            for lane in (stored, delayed, delivered, archiving):
                await lane.until_settled()
    await stand_once(graph, events)
    found = await find(archives[archiving], Selection())
    assert {one.record.letter_id for one in found} == {sent.letter_id for sent in letters[archiving]}


async def stand_once(graph: GraphReader, events: list[EntityEvent]) -> None:
    """No ghost vertices: what has these ids, is there once."""
    ids = sorted(event.entity_id for event in events)
    found = await graph.submit("g.V().has('entity_id', within(wanted)).values('entity_id')", {"wanted": ids})
    assert sorted(found) == ids


def raw_id(delivery: Any) -> str:
    """The id of the letter in a retry of any lane."""
    return str(delivery.properties["dlq-letter-id"])


def holds_all(letters: list[DeadLetter]) -> Callable[[list[Any]], bool]:
    expected = {sent.letter_id for sent in letters}
    return lambda got: {raw_id(delivery) for delivery in got} >= expected


async def is_read(lane: Lane, topic: str, subscription: str) -> bool:
    return bool((await lane.state(topic, subscription))["msgBacklog"] == 0)


async def is_held(lane: Lane) -> bool:
    """Whether the leg has all that waits for it, and has acknowledged none."""
    state = await lane.state(lane.retries, "graph-consumer")
    return bool(state["unackedMessages"] == state["msgBacklog"] == 20)
