"""Two JanusGraph servers over one Cassandra: one vertex an entity, one writer an entity, whatever is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import string
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from banking.streaming.events import content_hash
from banking.streaming.sink import APPLIED, STALE, RejectionReason, SinkUnavailableError, Status
from banking.streaming.topics import ORDERING_BUCKETS, ordering_key
from graph_consumer.servers import make_client
from graph_consumer.sink import GraphSink
from tests.integration.graph.conftest import ACCOUNT, COMPANY, PERSON, Graph, Rivals, deleted, event

if TYPE_CHECKING:
    from graph_consumer.gremlin import GremlinClient
    from graph_consumer.settings import GraphSettings
    from tests.integration.graph.conftest import CassandraGraph

LEASE_SECONDS = 45
"""As in BucketLeases.groovy."""

PUNCTUATION = string.punctuation
NASTY_IDS = [
    PUNCTUATION,
    *(f"a{character}b" for character in PUNCTUATION),
    *PUNCTUATION,
    *("x" * length for length in (1, 2, 3, 4, 255, 256)),  # JanusGraph keeps keys of eight bytes for ids of its own
    "person:1",
    "~" * 256,
    "%7E",
    "4-abc-2dx-8",
]


@pytest.fixture(scope="package")
def settings(cassandra_graph: CassandraGraph) -> GraphSettings:
    return cassandra_graph.settings(0, 1)


async def until_written(sink: GraphSink, events: list[Any], timeout_seconds: float) -> None:
    """Write events as the consumer loop does, until they are in."""
    async with asyncio.timeout(timeout_seconds):
        while True:
            try:
                outcomes = await sink.write(events)
            except SinkUnavailableError:
                await asyncio.sleep(0.5)
                with contextlib.suppress(SinkUnavailableError):
                    await sink.check()
            else:
                assert {outcome.status for outcome in outcomes} <= {Status.APPLIED, Status.STALE}
                return


async def writers_of(graph: Graph, prefix: str) -> set[int]:
    """The servers, 0 and 1, that have written entities whose ids start so."""
    arrived = [key.partition(":")[2] for key, version, *_ in await graph.scan(prefix) if version is not None]
    return {int(ordering_key(entity_id)) % 2 for entity_id in arrived}


async def test_a_vertexs_id_is_its_entitys_key_whatever_characters_that_holds(
    sink: GraphSink, graph: Graph, client: GremlinClient
) -> None:
    events = [event(PERSON, entity_id, {"name": entity_id, "employer_id": entity_id}) for entity_id in NASTY_IDS]
    assert await sink.write(events) in ([APPLIED] * len(events), [STALE] * len(events))
    for made in events:
        vertex = await graph.vertex(PERSON, made.entity_id)
        assert vertex is not None
        assert (vertex["name"], vertex["content_hash"]) == (made.entity_id, content_hash(made))
        assert await graph.edges(PERSON, made.entity_id) == [("employed_by", f"company:{made.entity_id}", {})]
        found = await client.submit("g.V(vertex).id().toList()", {"vertex": f"person:{made.entity_id}"})
        assert found == [f"person:{made.entity_id}"]
    keys = [await graph.keys_by_full_scan(entity_id) for entity_id in ("~", "4-abc")]
    assert keys[0] == [f"{kind}:{entity_id}" for kind in ("company", "person") for entity_id in ("~", "~" * 256)]
    assert keys[1] == ["company:4-abc-2dx-8", "person:4-abc-2dx-8"]


async def test_an_edge_is_found_again_by_its_id(sink: GraphSink, client: GremlinClient, unique: str) -> None:
    await sink.write([event(PERSON, unique + "p-~", {"employer_id": unique + "c-~"})])
    [edge] = await client.submit("g.V(vertex).outE().toList()", {"vertex": f"person:{unique}p-~"})
    assert (edge.outV.id, edge.inV.id) == (f"person:{unique}p-~", f"company:{unique}c-~")
    script = "g.V(vertex).outE().id().map{it.get().toString()}.toList()"
    [text] = await client.submit(script, {"vertex": f"person:{unique}p-~"})
    assert await client.submit("g.E(edge).inV().id().toList()", {"edge": text}) == [f"company:{unique}c-~"]


async def test_a_looked_up_text_that_no_index_of_cassandra_holds_is_rejected_by_name(
    sink: GraphSink, graph: Graph, unique: str
) -> None:
    # All kinds of characters, so that they do not compress.
    fits = "".join(chr(0x4E00 + number * 7919 % 20_000) for number in range(20_000))
    outcomes = await sink.write(
        [
            event(PERSON, unique + "p1", {"name": fits}),
            event(PERSON, unique + "p2", {"name": fits + "x"}),
            event(PERSON, unique + "p3", {"street": fits + "x", "undeclared": fits + "x"}),
        ]
    )
    assert [outcome.status for outcome in outcomes] == [Status.APPLIED, Status.REJECTED, Status.APPLIED]
    assert outcomes[1].reason is RejectionReason.INVALID_FIELD
    assert outcomes[1].detail == "name: expected at most 20,000 characters in a looked-up property, got 20,001"
    vertex = await graph.vertex(PERSON, unique + "p1")
    assert vertex is not None
    assert vertex["name"] == fits
    assert await graph.keys_by_full_scan(unique) == [f"person:{unique}p1", f"person:{unique}p3"]


async def test_every_bucket_is_leased_to_one_server(sink: GraphSink, client: GremlinClient, unique: str) -> None:
    persons = [event(PERSON, f"{unique}{number}", {}) for number in range(400)]
    assert {ordering_key(made.entity_id) for made in persons} == {str(bucket) for bucket in range(ORDERING_BUCKETS)}
    await until_written(sink, persons, LEASE_SECONDS + 30)
    script = (
        "graph.backend.storeManager.session.execute('SELECT bucket, server FROM banking.write_leases').all()"
        ".collect{[it.getInt('bucket'), it.getString('server')]}"
    )
    leases = dict(await client.submit(script))
    assert leases == {bucket: ("janusgraph", "janusgraph-2")[bucket % 2] for bucket in range(ORDERING_BUCKETS)}


async def test_a_server_refuses_what_another_one_may_write(
    sink: GraphSink, cassandra_graph: CassandraGraph, graph: Graph, unique: str
) -> None:
    await until_written(sink, [event(PERSON, unique + "p", {"name": "Ann"}, 1)], LEASE_SECONDS + 30)
    owner = int(ordering_key(unique + "p")) % 2
    mistaken = GraphSink(cassandra_graph.settings(1 - owner))
    with pytest.raises(SinkUnavailableError, match="another server still writes"):
        await mistaken.write([event(PERSON, unique + "p", {"name": "Anna"}, 2)])
    vertex = await graph.vertex(PERSON, unique + "p")
    assert vertex is not None
    assert vertex["name"] == "Ann"
    # What it may write can lead there all the same.
    own = next(f"{unique}a{n}" for n in range(99) if int(ordering_key(f"{unique}a{n}")) % 2 != owner)
    await until_written(mistaken, [event(ACCOUNT, own, {"owner_id": unique + "p", "owner_type": "person"})], 60)
    assert await graph.edges(ACCOUNT, own, source="live") == [("owned_by", f"person:{unique}p", {"role": "owner"})]
    await mistaken.close()


async def test_eight_writers_through_two_servers_leave_one_of_each_at_the_highest_version(
    settings: GraphSettings, graph: Graph, unique: str
) -> None:
    rivals = Rivals(unique)
    async with asyncio.timeout(120):
        counted = await rivals.write([settings])
    assert counted.keys() == {Status.APPLIED, Status.STALE}
    assert await graph.scan(unique) == rivals.expected()


async def test_an_endpoint_that_two_servers_make_at_once_is_one_vertex(
    sink: GraphSink, settings: GraphSettings, graph: Graph, unique: str
) -> None:
    """Each person's own event goes to one server while accounts of the other's lead to it for the first time."""
    persons = [event(PERSON, f"{unique}p{number}", {"name": "Ann"}, 7) for number in range(60)]
    accounts = [
        event(ACCOUNT, f"{unique}a{number}-{copy}", {"owner_id": f"{unique}p{number}", "owner_type": "person"})
        for number in range(60)
        for copy in range(4)
    ]
    await until_written(sink, [event(COMPANY, unique + "c", {})], LEASE_SECONDS + 30)
    other = GraphSink(settings)
    for start in range(0, 60, 10):
        pair = sink.write(persons[start : start + 10]), other.write(accounts[start * 4 : start * 4 + 40])
        await asyncio.gather(*pair)
    await other.close()
    assert await graph.keys_by_full_scan(unique) == sorted(
        f"{made.entity_type}:{made.entity_id}" for made in [*persons, *accounts, event(COMPANY, unique + "c", {})]
    )
    for made in persons:
        vertex = await graph.vertex(PERSON, made.entity_id, source="live")
        assert vertex is not None
        assert (vertex["name"], vertex["version"]) == ("Ann", 7)
    edges = [edge for _, _, _, owned in await graph.scan(unique) for edge in owned]
    assert len(edges) == len(accounts)


async def test_a_tombstone_is_purged_by_the_server_that_writes_it(
    sink: GraphSink, graph: Graph, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graph_consumer.purge.MEND_AFTER_SECONDS", 0.1)
    tombstones = [deleted(PERSON, f"{unique}p{number}", 1) for number in range(20)]
    await until_written(sink, tombstones, LEASE_SECONDS + 30)
    assert len(await graph.keys_by_full_scan(unique)) == 20
    assert await sink.purge_tombstones(tombstones[-1].timestamp + timedelta(minutes=1)) >= 20
    assert await graph.keys_by_full_scan(unique) == []


async def test_another_server_takes_over_from_one_that_is_killed(
    cassandra_graph: CassandraGraph, settings: GraphSettings, graph: Graph, client: GremlinClient, unique: str
) -> None:
    """A kill -9 in the middle of eight writers: no ghosts, no lost version, nothing half written; then it is back."""
    stack, second = cassandra_graph.stack, cassandra_graph.stack.container(cassandra_graph.second)
    rivals = Rivals(unique, batches=8)
    try:
        async with asyncio.timeout(2 * LEASE_SECONDS + 90):
            writing = asyncio.ensure_future(rivals.write([settings]))
            while await writers_of(graph, unique) != {0, 1}:
                await asyncio.sleep(0.1)
            await asyncio.to_thread(stack.podman, "kill", "-s", "KILL", second)
            counted = await writing
        assert counted.keys() == {Status.APPLIED, Status.STALE}
        assert await graph.scan(unique) == rivals.expected()
        # What the index says is the same: vertices and index entries are in different rows, and were written whole.
        keys = [key for key, *_ in rivals.expected()]
        script = "g.V().has('entity_key', within(wanted)).values('entity_key')"
        assert sorted(await client.submit(script, {"wanted": keys})) == keys
    finally:
        await asyncio.to_thread(stack.podman, "start", second)
        await asyncio.to_thread(stack.wait_ready, 180.0)
    sink = GraphSink(settings)
    await sink.check()
    # Every bucket is with its own server again, as other tests expect.
    await until_written(sink, [event(PERSON, f"{unique}q{number}", {}) for number in range(400)], LEASE_SECONDS + 60)
    await sink.close()
    # One vertex an entity, seen through the server that came back.
    back = make_client(cassandra_graph.settings(1))
    keys = await Graph(back).keys_by_full_scan(unique + "q")
    await back.close()
    assert len(keys) == len(set(keys)) == 400


async def test_the_graph_is_there_again_after_cassandra_was_killed(
    sink: GraphSink, cassandra_graph: CassandraGraph, graph: Graph, unique: str
) -> None:
    container = cassandra_graph.stack.container("cassandra")
    pid = int(cassandra_graph.stack.podman("inspect", "--format", "{{.State.Pid}}", container))
    written = []
    for part in "abc":
        batch = [event(PERSON, f"{unique}{part}{number}", {"name": "Ann"}) for number in range(100)]
        await until_written(sink, batch, LEASE_SECONDS + 120)
        written += batch
    # At once: what was acknowledged a moment ago is what a server is most likely to lose.
    os.kill(pid, signal.SIGKILL)
    batch = [event(PERSON, f"{unique}d{number}", {"name": "Bob"}) for number in range(100)]
    await until_written(sink, batch, 120)
    written += batch
    async with asyncio.timeout(60):
        keys = await graph.keys_by_full_scan(unique)
    assert keys == sorted(f"person:{made.entity_id}" for made in written)
