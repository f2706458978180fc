"""The purge of tombstones against a real JanusGraph: what goes, what stays, and what writers meet meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import socket
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from banking.streaming.entities import EntityType
from banking.streaming.events import EntityEvent, EventType, create_event, decode_event, encode_event
from banking.streaming.sink import APPLIED, STALE, Outcome, SinkUnavailableError, Status
from fleet.stores import GraphReader
from graph_consumer import purge
from graph_consumer.purge import PAGE_TOMBSTONES
from graph_consumer.servers import connect_all
from graph_consumer.settings import GraphSettings
from graph_consumer.sink import GraphSink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from fleet.compose import Stack
    from tests.integration.graph.conftest import CassandraGraph

ACCOUNT, PERSON, TRANSACTION = EntityType.ACCOUNT, EntityType.PERSON, EntityType.TRANSACTION

FIRST_DAY = datetime(2025, 1, 1, 12, tzinfo=UTC)
_days = itertools.count()


@pytest.fixture
def clock() -> Clock:
    """A day of the past of the test's own: what other tests delete is younger and stays."""
    return Clock(FIRST_DAY + timedelta(days=next(_days)))


@pytest.fixture(autouse=True)
def mend_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several servers are waited for after a removal; only tests whose writers are in its way need that."""
    monkeypatch.setattr(purge, "MEND_AFTER_SECONDS", 0.1)


@pytest.fixture
async def sink(settings: GraphSettings, clock: Clock) -> AsyncIterator[GraphSink]:
    sink = GraphSink(settings, clock)
    await sink.open()
    await sink.purge_tombstones(clock.now)  # what an earlier test, or run, has left
    yield sink
    await sink.close()


@pytest.fixture
async def graph(settings: GraphSettings) -> AsyncIterator[Graph]:
    graph = Graph(GraphReader(settings))
    yield graph
    await graph.reader.close()


class Clock:
    """A time that stands still until it is moved."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


class Graph:
    """What the graph holds of entities, by the index that shows a ghost too: it is not unique."""

    def __init__(self, reader: GraphReader) -> None:
        self.reader = reader

    async def keys(self, *ids: str) -> list[str]:
        """The keys of the vertices with these ids."""
        script = "g.V().has('entity_id', within(ids)).values('entity_key').toList()"
        return sorted(await self.reader.submit(script, {"ids": list(ids)}))

    async def targets(self, *ids: str) -> list[str]:
        """The keys of what the edges of these entities lead to; what is no entity any more has none."""
        script = """
            g.V().has('entity_id', within(ids)).out().coalesce(values('entity_key'), constant('a ghost')).toList()
        """
        return sorted(await self.reader.submit(script, {"ids": list(ids)}))

    async def values(self, entity_type: EntityType, entity_id: str) -> dict[str, Any]:
        script = "g.V().has('entity_key', entityKey).valueMap().by(unfold()).toList()"
        [found] = await self.reader.submit(script, {"entityKey": f"{entity_type}:{entity_id}"})
        values: dict[str, Any] = found
        return values


def event(
    entity_type: EntityType,
    entity_id: str,
    payload: dict[str, Any] | None = None,
    version: int = 1,
    event_type: EventType = EventType.UPDATE,
) -> EntityEvent:
    made = create_event(entity_type, entity_id, payload, version=version, event_type=event_type, source="test")
    return decode_event(encode_event(made))


def deleted(entity_type: EntityType, entity_id: str, version: int = 2) -> EntityEvent:
    return event(entity_type, entity_id, None, version, EventType.DELETE)


def account(account_id: str, owner_id: str | None, version: int = 1) -> EntityEvent:
    owner = {"owner_id": owner_id, "owner_type": "person"} if owner_id else {}
    return event(ACCOUNT, account_id, {"status": "active", **owner}, version)


async def test_a_tombstone_goes_when_its_time_is_over_and_not_before(
    sink: GraphSink, graph: Graph, clock: Clock, unique: str
) -> None:
    p, q = unique + "p", unique + "q"
    await sink.write([event(PERSON, p, {"name": "Ann"}), event(PERSON, q, {"name": "Bob"})])
    await sink.write([deleted(PERSON, p)])
    assert await sink.purge_tombstones(clock.now) == 0
    assert await graph.keys(p, q) == [f"person:{p}", f"person:{q}"]
    assert await sink.purge_tombstones(clock.now + timedelta(milliseconds=1)) == 1
    assert await graph.keys(p, q) == [f"person:{q}"]
    assert await sink.purge_tombstones(clock.now + timedelta(days=1)) == 0


async def test_days_later_it_goes_as_well(sink: GraphSink, graph: Graph, clock: Clock, unique: str) -> None:
    await sink.write([deleted(PERSON, unique + "p")])
    assert await sink.purge_tombstones(clock.now + timedelta(days=40)) == 1
    assert await graph.keys(unique + "p") == []


async def test_it_stays_while_an_edge_of_another_entity_leads_to_it(
    sink: GraphSink, graph: Graph, clock: Clock, unique: str
) -> None:
    a, p = unique + "a", unique + "p"
    due = clock.now + timedelta(hours=1)
    await sink.write([account(a, p), event(PERSON, p, {"name": "Ann"})])
    await sink.write([deleted(PERSON, p)])
    assert await sink.purge_tombstones(due) == 0
    assert await graph.targets(a) == [f"person:{p}"]

    await sink.write([account(a, None, version=2)])
    assert await sink.purge_tombstones(due) == 1
    assert await graph.keys(a, p) == [f"account:{a}"]


async def test_tombstones_that_led_to_each_other_go(sink: GraphSink, graph: Graph, clock: Clock, unique: str) -> None:
    a, p, t = unique + "a", unique + "p", unique + "t"
    payment = {"from_account_id": a, "to_account_id": a, "amount": "1.00"}
    await sink.write([account(a, p), event(TRANSACTION, t, payment)])
    await sink.write([deleted(TRANSACTION, t), deleted(ACCOUNT, a), deleted(PERSON, p)])
    assert await sink.purge_tombstones(clock.now + timedelta(hours=1)) == 3
    assert await graph.keys(a, p, t) == []


async def test_the_living_and_those_that_have_not_arrived_stay(
    sink: GraphSink, graph: Graph, clock: Clock, unique: str
) -> None:
    a, p, q, absent = (unique + name for name in ("a", "p", "q", "x"))
    await sink.write([account(a, absent)])
    await sink.write([deleted(PERSON, p), event(PERSON, q, {"name": "Bob"})])
    await sink.write([event(PERSON, p, {"name": "Ann"}, version=3)])
    assert await sink.purge_tombstones(clock.now + timedelta(hours=1)) == 0
    assert await graph.keys(a, p, q, absent) == [f"account:{a}", f"person:{p}", f"person:{q}", f"person:{absent}"]
    assert not (await graph.values(PERSON, p)).keys() & {"deleted", "deleted_at", "deleted_on"}


async def test_what_comes_after_the_purge_is_new(sink: GraphSink, graph: Graph, clock: Clock, unique: str) -> None:
    due = clock.now + timedelta(hours=1)
    again, late, gone, named = (unique + name for name in ("again", "late", "gone", "named"))
    await sink.write([deleted(PERSON, entity_id, version=5) for entity_id in (again, late, gone, named)])
    assert await sink.purge_tombstones(due) == 4

    events = [
        event(PERSON, again, {"name": "Ann"}, version=6),
        event(PERSON, late, {"name": "Bob"}, version=4),
        deleted(PERSON, gone, version=5),
        account(unique + "a", named),
    ]
    assert await sink.write(events) == [APPLIED] * 4
    assert (await graph.values(PERSON, again))["version"] == 6
    assert (await graph.values(PERSON, late))["version"] == 4  # what guarded against it went with the tombstone
    assert (await graph.values(PERSON, gone))["deleted"]
    assert (await graph.values(PERSON, named)).keys() == {"entity_key", "entity_id", "entity_type"}
    assert await sink.write([deleted(PERSON, gone, version=5)]) == [STALE]
    assert await sink.purge_tombstones(due) == 1


async def test_more_than_a_page_with_some_that_stay(sink: GraphSink, graph: Graph, clock: Clock, unique: str) -> None:
    number = 2 * PAGE_TOMBSTONES + 7
    ids = [f"{unique}p{index:04d}" for index in range(number)]
    kept = ids[::3]
    for start in range(0, number, 250):
        await sink.write([deleted(PERSON, entity_id) for entity_id in ids[start : start + 250]])
    await sink.write([account(f"{entity_id}-a", entity_id) for entity_id in kept])
    due = clock.now + timedelta(hours=1)
    assert await sink.purge_tombstones(due) == number - len(kept)
    assert await graph.keys(*ids) == [f"person:{entity_id}" for entity_id in kept]
    assert await sink.purge_tombstones(due) == 0


async def test_purges_and_writers_do_not_get_into_each_others_way(
    sink: GraphSink, settings: GraphSettings, graph: Graph, clock: Clock, unique: str
) -> None:
    """Eight writers delete, revive and point to a few persons while two replicas purge all the time."""
    ids = [f"{unique}p{index:02d}" for index in range(12)]
    due = clock.now + timedelta(hours=1)
    other = GraphSink(settings, clock)
    version = itertools.count(1)
    purged = 0
    writing = True

    async def write(writer: int) -> None:
        for number in range(12):
            person = ids[(writer * 5 + number * 7) % len(ids)]
            pointing = f"{unique}a{writer}"
            await settle(sink, [deleted(PERSON, person, next(version))])
            await settle(sink, [account(pointing, person, next(version))])
            revived = event(PERSON, person, {"name": f"writer {writer}"}, next(version))
            await settle(sink, [revived, account(pointing, None, next(version))])
            await settle(sink, [deleted(PERSON, person, next(version))])

    async def purge(purger: GraphSink) -> None:
        nonlocal purged
        while writing:
            purged += await purger.purge_tombstones(due)

    async with asyncio.timeout(180), asyncio.TaskGroup() as tasks:
        for purger in (sink, other):
            tasks.create_task(purge(purger))
        async with asyncio.TaskGroup() as writers:
            for writer in range(8):
                writers.create_task(write(writer))
        writing = False
    await other.close()
    assert purged > 0

    newest = next(version)
    last = [event(PERSON, person, {"name": "last"}, newest) for person in ids[:6]]
    gone = [deleted(PERSON, person, newest) for person in ids[6:]]
    pointing = [f"{unique}b{index}" for index in range(len(ids))]
    ties = [account(account_id, person) for account_id, person in zip(pointing, ids, strict=True)]
    assert await settle(sink, last + gone + ties) == [APPLIED] * 24
    assert await sink.purge_tombstones(due) == 0
    persons = [f"person:{person}" for person in ids]
    assert await graph.keys(*ids) == persons  # each once
    assert await graph.targets(*pointing) == persons


async def test_edges_that_come_while_tombstones_go_lead_to_what_is_there(
    sink: GraphSink, settings: GraphSettings, graph: Graph, clock: Clock, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tombstone gets its first edge about when it is purged: it stays, or becomes one that has not arrived."""
    monkeypatch.setattr(purge, "MEND_AFTER_SECONDS", 5.0)
    due = clock.now + timedelta(hours=1)
    other = GraphSink(settings, clock)
    ids = [f"{unique}p{index:03d}" for index in range(150)]
    async with asyncio.timeout(120):
        await settle(sink, [deleted(PERSON, person) for person in ids])
        pointing = [settle(other, [account(person + "a", person)]) for person in ids]
        purged, *outcomes = await asyncio.gather(sink.purge_tombstones(due), *pointing)
    await other.close()
    assert outcomes == [[APPLIED]] * len(ids)
    persons = [f"person:{person}" for person in ids]
    assert await graph.keys(*ids) == persons
    assert await graph.targets(*(person + "a" for person in ids)) == persons
    tombstones = sum([(await graph.values(PERSON, person)).get("deleted", False) for person in ids])
    assert tombstones == len(ids) - purged


async def test_what_another_server_pointed_to_during_its_removal_is_mended(
    cassandra_graph: CassandraGraph, unique: str
) -> None:
    """No lock keeps two servers apart; here their transactions overlap by hand."""
    settings = cassandra_graph.settings(0, 1)
    sink, graph, servers = GraphSink(settings), Graph(GraphReader(settings)), connect_all(settings)
    a, p = unique + "a", unique + "p"
    await sink.write([account(a, None), deleted(PERSON, p)])
    overlap = """
        def purge = graph.newTransaction(), write = graph.newTransaction()
        purge.getVertex(person).remove()
        write.getVertex(account).addEdge('owned_by', write.getVertex(person))
        purge.commit()
        write.commit()
    """
    await graph.reader.submit(overlap, {"person": f"person:{p}", "account": f"account:{a}"})
    assert await graph.targets(a) == ["a ghost"]
    assert await graph.reader.submit("live.V().has('entity_id', a).out().toList()", {"a": a}) == []
    await purge._mend(servers, [f"person:{p}", f"person:{unique}nobody"])
    assert await graph.targets(a) == [f"person:{p}"]
    assert await graph.keys(p, unique + "nobody") == [f"person:{p}"]
    assert (await graph.values(PERSON, p)).keys() == {"entity_key", "entity_id", "entity_type"}
    await sink.close()
    await graph.reader.close()
    await servers.close()


async def test_a_server_that_is_away_is_an_error_of_the_sink() -> None:
    away = GraphSink(GraphSettings(janusgraph_host="localhost:1"))
    with pytest.raises(SinkUnavailableError, match="cannot purge"):
        await away.purge_tombstones(FIRST_DAY)
    await away.close()


async def test_the_service_purges_by_itself(stack: Stack, clock: Clock, unique: str) -> None:
    settings = stack.addresses.graph_settings()
    sink = GraphSink(settings, clock)
    graph = Graph(GraphReader(settings))
    p = unique + "p"
    await sink.write([deleted(PERSON, p)])
    port = free_port()
    environment = {
        "PULSAR_URL": stack.addresses.pulsar_url,
        "PULSAR_ADMIN_URL": stack.addresses.pulsar_admin_url,
        "JANUSGRAPH_HOST": settings.janusgraph_host,
        "JANUSGRAPH_PORT": str(settings.janusgraph_port),
        "HTTP_PORT": str(port),
        "TOMBSTONE_RETENTION_DAYS": str((datetime.now(UTC) - clock.now).days - 1),
        "TOMBSTONE_PURGE_INTERVAL_SECONDS": "1",
    }
    command = str(Path(sys.prefix) / "bin" / "graph_consumer")
    service = await asyncio.create_subprocess_exec(
        command, env=os.environ | environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as http:
            while await graph.keys(p):
                assert service.returncode is None
                await asyncio.sleep(0.2)
            metrics = ""
            while 'tombstones_purged_total{consumer_type="graph"}' not in metrics:
                async with http.get(f"http://127.0.0.1:{port}/metrics") as response:
                    metrics = await response.text()
            service.terminate()
            assert await service.wait() == 0
    finally:
        if service.returncode is None:
            service.kill()
            await service.wait()
        await graph.reader.close()
        await sink.close()
    [counted] = re.findall(r'tombstones_purged_total{consumer_type="graph"} ([0-9.]+)', metrics)
    assert float(counted) >= 1


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


async def settle(sink: GraphSink, events: list[EntityEvent]) -> Sequence[Outcome]:
    """Write until everything is settled, as the consumer loop does."""
    while True:
        outcomes = await sink.write(events)
        if all(outcome.status is not Status.RETRY for outcome in outcomes):
            return outcomes
