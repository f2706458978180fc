"""The graph leg draining a topic, beside what JanusGraph itself can write and beside plain gremlinpython.

    .venv/bin/python benchmarks/graph_leg.py [--events 20000] [--rounds 3]

Brings up a stack of its own and removes it again. In each round, all with new entities of the same kinds:

- ceiling: prepared batches of rows sent to the server's batch writer, as many in flight as the service has
- service: `graph_consumer` draining a topic of as many events
- upserts: gremlinpython, one traversal an event that finds its vertex or makes it and sets every property, one and
  eight in flight, without version guard and edges
- adds: the same without looking first, so that a second delivery would make a second vertex

Entities are persons and accounts without references; then transactions with two edges each.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from datasets import entities, payments
from draining import Leg, Rounds, stack
from gremlin_python.driver.driver_remote_connection import DriverRemoteConnection
from gremlin_python.process.anonymous_traversal import traversal
from gremlin_python.process.graph_traversal import __
from gremlin_python.statics import long
from janusgraph_python.driver.serializer import JanusGraphBinarySerializersV1

from graph_consumer.gremlin import GremlinClient
from graph_consumer.model import build_model
from graph_consumer.rows import Row, encode_row, to_row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from banking.streaming.events import EntityEvent

BATCH_ROWS = 500
IN_FLIGHT = 3
SETTINGS = {"BATCH_MAX_EVENTS": str(BATCH_ROWS), "MAX_IN_FLIGHT_BATCHES": str(IN_FLIGHT)}
TRAVERSALS = 2_000


async def ceiling(url: str, events: Sequence[EntityEvent]) -> float:
    """Rows per second of prepared batches."""
    fingerprint = build_model()["fingerprint"].encode()
    rows = [encode_row(to_row(event, datetime.now(UTC))) for event in events]
    batches = [
        (b'{"model":"%b","rows":[%b]}' % (fingerprint, b",".join(rows[start : start + BATCH_ROWS]))).decode()
        for start in range(0, len(rows), BATCH_ROWS)
    ]
    waiting: Iterator[str] = iter(batches)
    client = GremlinClient(url)

    async def send() -> None:
        for batch in waiting:
            [answer] = await client.submit("writer.write(batch)", {"batch": batch})
            if answer.count('"applied"') != batch.count('"content_hash"'):
                raise SystemExit(f"ceiling: {answer[:200]}")

    try:
        await client.submit("writer.check()")
        started = time.perf_counter()
        await asyncio.gather(*(send() for _ in range(IN_FLIGHT)))
        return len(events) / (time.perf_counter() - started)
    finally:
        await client.close()


def traversals(url: str, events: Sequence[EntityEvent], in_flight: int, *, look: bool) -> float:
    """Events per second of one traversal an event."""
    connection = DriverRemoteConnection(
        url, "g", pool_size=in_flight, max_workers=in_flight, message_serializer=JanusGraphBinarySerializersV1()
    )
    g = traversal().with_remote(connection)
    rows = [to_row(event, datetime.now(UTC)) for event in events]
    dates = {name for name, kind in build_model()["properties"].items() if kind == "Date"}
    longs = {name for name, kind in build_model()["properties"].items() if kind == "Long"}

    def write(row: Row) -> None:
        key = f"{row.entity_type.value}:{row.entity_id}"
        if look:
            made = __.add_v(row.entity_type.value).property("entity_key", key)
            step = g.V().has("entity_key", key).fold().coalesce(__.unfold(), made)
        else:
            step = g.add_v(row.entity_type.value).property("entity_key", key)
        step = step.property("entity_id", row.entity_id).property("entity_type", row.entity_type.value)
        for name, value in row.state.items():
            if name in dates:
                step = step.property(name, datetime.fromtimestamp(value / 1000, UTC))
            else:
                step = step.property(name, long(value) if name in longs else value)
        step.iterate()

    write(rows.pop())
    started = time.perf_counter()
    with ThreadPoolExecutor(in_flight) as pool:
        list(pool.map(write, rows))
    seconds = time.perf_counter() - started
    connection.close()
    return len(rows) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rounds, peak = Rounds(arguments.rounds), 0
    with stack() as servers:
        url = f"ws://127.0.0.1:{servers.addresses.janusgraph}/gremlin"
        for number in rounds:
            leg = Leg("graph_consumer", servers, SETTINGS)
            one, two = entities(arguments.events, f"c{number}"), entities(arguments.events, f"s{number}")
            rounds.measure("entities: ceiling", lambda one=one: asyncio.run(ceiling(url, one)))
            rounds.measure("entities: service", lambda two=two, leg=leg: leg.drain(two))
            for kind, look in (("upserts", True), ("adds", False)):
                for at_once in (1, 8):
                    few = entities(TRAVERSALS, f"{kind}{at_once}-{number}")
                    rounds.measure(
                        f"entities: {kind}, {at_once} in flight",
                        lambda few=few, at_once=at_once, look=look: traversals(url, few, at_once, look=look),
                    )
            paid = payments(arguments.events, f"p{number}", one)
            again = payments(arguments.events, f"q{number}", two)
            rounds.measure("payments: ceiling", lambda paid=paid: asyncio.run(ceiling(url, paid)))
            rounds.measure("payments: service", lambda again=again, leg=leg: leg.drain(again))
            peak = max(peak, leg.peak_bytes)
    rounds.show(f"{arguments.events:,} events", "service", peak)


if __name__ == "__main__":
    main()
