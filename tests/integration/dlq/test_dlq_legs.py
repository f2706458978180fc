"""Letters of the real vector leg and its real store: repaired in time, too late, overtaken, and too many."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from typer.testing import CliRunner

from banking.streaming.consumer import REJECTIONS
from banking.streaming.entities import EntityType
from dlq_worker.cli import main
from dlq_worker.inventory import Selection, State, find
from tests.integration.dlq.conftest import (
    LegProcess,
    Worker,
    has_archived,
    metrics_of,
    person,
    raw_event,
    readiness,
    refusing,
    stands,
    until,
)

if TYPE_CHECKING:
    from opensearchpy import AsyncOpenSearch

    from banking.streaming.archive import DeadLetterArchive
    from banking.streaming.broker import Outgoing, Publisher
    from banking.streaming.events import EntityEvent
    from fleet.stores import VectorReader
    from tests.integration.dlq.conftest import Lane


def published(lane: Lane, *events: EntityEvent) -> list[Outgoing]:
    return [raw_event(lane, event.entity_id, event.to_bytes()) for event in events]


async def retries(address: str) -> dict[str, float]:
    """The leg's retries by their result."""
    found = re.findall(r'streaming_dlq_retries_total\{.*result="(\w+)"\} (\S+)', await metrics_of(address))
    return {result: float(number) for result, number in found if float(number)}


async def has_results(address: str, **results: float) -> bool:
    return await retries(address) == results


async def test_what_is_repaired_before_the_second_retry_stands_in_the_store_once(
    lane: Lane,
    publisher: Publisher,
    archive: DeadLetterArchive,
    client: AsyncOpenSearch,
    reader: VectorReader,
    vector_store: dict[str, str],
) -> None:
    event = person()
    index = f"{vector_store['INDEX_PREFIX']}-persons"
    # The second delay leaves time to repair; a letter that needed the third one would come too late for this test.
    async with (
        Worker(lane, archive, DLQ_RETRY_DELAYS_SECONDS="0.5,5,600") as worker,
        LegProcess(lane, vector_store) as leg,
    ):
        address = await leg.address()
        await readiness(address, lambda missing: not missing)
        async with refusing(client, index):
            await publisher.publish_all(published(lane, event))
            first = await leg.until_logged("event rejected", attempt=0)
            second = await leg.until_logged("event rejected", attempt=1)
            assert await reader.lookup(EntityType.PERSON, [event.entity_id]) == {}
        assert first["reason"] == second["reason"] == "refused_by_store"
        assert first["letter_id"] == second["letter_id"]
        await until(lambda: stands(reader, [event]))
        await until(lambda: has_results(address, rejected=1, applied=1))
        await lane.until_settled()
        await worker.until_logged("retry stored", attempt=2)
    await client.indices.refresh(index=index)
    hits = await client.search(index=index, body={"query": {"term": {"entity_id": event.entity_id}}, "version": True})
    assert [(hit["_id"], hit["_version"]) for hit in hits["hits"]["hits"]] == [(event.entity_id, event.version)]
    assert await archive.places() == []


async def test_what_is_repaired_too_late_comes_back_by_replay_and_what_was_overtaken_stays_so(
    lane: Lane,
    publisher: Publisher,
    archive: DeadLetterArchive,
    client: AsyncOpenSearch,
    reader: VectorReader,
    vector_store: dict[str, str],
) -> None:
    late, overtaken = person(), person()
    newer = person(person_id=overtaken.entity_id, version=overtaken.version + 1)
    async with Worker(lane, archive), LegProcess(lane, vector_store) as leg:
        address = await leg.address()
        await readiness(address, lambda missing: not missing)
        async with refusing(client, f"{vector_store['INDEX_PREFIX']}-persons"):
            await publisher.publish_all(published(lane, late, overtaken))
            await until(lambda: has_archived(archive, 2))
        found = await find(archive, Selection())
        assert {one.record.key: one.record.attempt for one in found} == {late.entity_id: 3, overtaken.entity_id: 3}
        assert await retries(address) == {"rejected": 6}
        await publisher.publish_all(published(lane, newer))
        await until(lambda: stands(reader, [newer]))

        environment = {"ARCHIVE_URL": archive.url, "PULSAR_URL": lane.pulsar_url}
        result = await asyncio.to_thread(CliRunner().invoke, main, ["replay", "--leg", "vector"], env=environment)
        assert "replayed 2 letters" in result.output
        await until(lambda: has_results(address, rejected=6, applied=1, stale=1))
    assert await stands(reader, [late, newer])
    assert {one.state for one in await find(archive, Selection())} == {State.REPLAYED}


async def test_a_flood_of_rejections_stops_the_leg_until_it_is_let_through(
    lane: Lane, publisher: Publisher, archive: DeadLetterArchive, vector_store: dict[str, str]
) -> None:
    flood = [raw_event(lane, f"k-{number}", b"no event") for number in range(300)]
    # So that the limit is met in the first batches, not in a later one.
    async with LegProcess(lane, vector_store, REJECTION_MAX_RUN="100", BATCH_MAX_EVENTS="50") as leg:
        await publisher.publish_all(flood)
        missing = await readiness(await leg.address(), lambda missing: REJECTIONS in missing)
        assert re.match(r"1\d\d events in a row were rejected \(last: ", missing[REJECTIONS])
        assert "mend the cause, then restart this service" in missing[REJECTIONS]
        assert 'streaming_paused{consumer_type="vector"} 1.0' in await metrics_of(await leg.address())
        assert await leg.stop() == 0
    assert await lane.backlog() > 0
    assert (await lane.state(lane.events, "vector-consumer"))["msgBacklog"] > 0
    async with (
        Worker(lane, archive),
        LegProcess(lane, vector_store, REJECTION_MAX_RUN="100000", REJECTION_MAX_SHARE="1"),
    ):
        await until(lambda: has_archived(archive, 300))
    found = await find(archive, Selection())
    assert sorted(str(one.record.key) for one in found) == sorted(str(message.key) for message in flood)
