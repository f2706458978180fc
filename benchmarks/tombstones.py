"""What the index of tombstones costs a delete, and what it spares the purge.

    .venv/bin/python benchmarks/tombstones.py [--port 8182] [--entities 5000] [--rounds 5]

Takes a running JanusGraph of the fleet at `--port`, or brings up a stack of its own. In each round:

- deletes: entities that are there are deleted, once with the day that the index holds and once without it
- purge: the tombstones with a day are removed by the graph leg's purge; those without stay in the graph, as it grows
- index, scan: a page of tombstones found by the index, and all of them counted by reading the whole graph
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import stamina
from draining import stack

from banking.streaming.entities import EntityType
from banking.streaming.events import EventType, create_event, create_person_event
from graph_consumer.failures import is_contention
from graph_consumer.gremlin import GremlinClient
from graph_consumer.model import build_model
from graph_consumer.purge import PAGE_TOMBSTONES
from graph_consumer.rows import Row, to_row
from graph_consumer.settings import GraphSettings
from graph_consumer.sink import GraphSink

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

BATCH_ROWS, IN_FLIGHT = 500, 3
DAY = datetime(2025, 3, 1, tzinfo=UTC)
BEFORE = DAY + timedelta(days=1)
FIND = msgspec.json.encode(
    {"before": int(BEFORE.timestamp() * 1000), "day": None, "skip": 0, "limit": PAGE_TOMBSTONES}
).decode()
SCAN = "g.V().has('deleted', true).count()"


async def write(client: GremlinClient, rows: Sequence[Row]) -> None:
    waiting = iter(range(0, len(rows), BATCH_ROWS))

    async def send() -> None:
        for start in waiting:
            batch = {"model": build_model()["fingerprint"], "rows": rows[start : start + BATCH_ROWS]}
            bindings = {"batch": msgspec.json.encode(batch).decode()}
            async for attempt in stamina.retry_context(on=is_contention, attempts=10, wait_initial=0.05, wait_max=1.0):
                with attempt:
                    [answer] = await client.submit("writer.write(batch)", bindings)
            if answer.count('"applied"') != len(batch["rows"]):
                raise SystemExit(answer[:200])

    await asyncio.gather(*(send() for _ in range(IN_FLIGHT)))


async def seconds(work: Awaitable[object]) -> float:
    started = time.perf_counter()
    await work
    return time.perf_counter() - started


async def measure(port: int, entities: int, rounds: int) -> dict[str, list[float]]:
    client = GremlinClient(f"ws://127.0.0.1:{port}/gremlin", request_timeout_seconds=600)
    sink = GraphSink(GraphSettings(janusgraph_host="127.0.0.1", janusgraph_port=port))
    figures: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        order = ["with", "without"] if number % 2 else ["without", "with"]
        for kind in order:
            ids = [f"{uuid.uuid4()}" for _ in range(entities)]
            here = [create_person_event(name, f"Ann {name}", source="benchmark", version=1) for name in ids]
            await write(client, [to_row(event, DAY) for event in here])
            delete = {"source": "benchmark", "version": 2, "event_type": EventType.DELETE}
            gone = [create_event(EntityType.PERSON, name, **delete) for name in ids]
            rows = [to_row(event, DAY) for event in gone]
            if kind == "without":
                for row in rows:
                    del row.state["deleted_on"]
            took = {f"deletes/s {kind} the day": entities / await seconds(write(client, rows))}
            if kind == "with":
                took["index, s"] = await seconds(client.submit("purge.find(query)", {"query": FIND}))
                took["scan, s"] = await seconds(client.submit(SCAN))
                took["purged/s"] = entities / await seconds(sink.purge_tombstones(BEFORE))
            if number:  # the first round warms up
                for name, value in took.items():
                    figures.setdefault(name, []).append(value)
    await sink.close()
    await client.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int)
    parser.add_argument("--entities", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with contextlib.ExitStack() as exits:
        port = options.port or exits.enter_context(stack()).addresses.janusgraph
        figures = asyncio.run(measure(port, options.entities, options.rounds))
    for name, values in figures.items():
        print(f"{name}: median {statistics.median(values):,.4g}, from {min(values):,.4g} to {max(values):,.4g}")
    pairs = zip(*(figures[f"deletes/s {kind} the day"] for kind in ("with", "without")), strict=True)
    ratios = sorted(one / other for one, other in pairs)
    print(f"with / without the day: median {statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f}")


if __name__ == "__main__":
    main()
