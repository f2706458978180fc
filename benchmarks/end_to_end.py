"""The whole fleet, end to end, beside what the stores alone can do and what most people write first.

    make bench
    .venv/bin/python benchmarks/end_to_end.py [--events 40000] [--rounds 3] [--seconds 30] [--replicas 1]

Brings up a stack of its own, warms it up and removes it again. In each round, in a drawn order, with new entities:

- fleet: mixed events are published as fast as it goes while both legs run; ends when both have settled the last one
- naive: one loop that receives one event, writes it to both stores by one request each, and acknowledges it
- graph ceiling, vector ceiling: prepared requests, without Pulsar and decoding, as many in flight as the legs have

and once, at 200 events a second, the time from publishing to reading, in each store.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import latency
import naive
from datasets import mixed
from draining import stack as bare_stack
from graph_leg import ceiling as graph_ceiling
from machine import Meter, describe
from rich.console import Console
from rich.table import Table
from vector_leg import by_curl, settings_of

from banking.streaming.producer import AsyncEntityProducer
from banking.streaming.topics import ENTITY_TOPICS, LEG_SUBSCRIPTIONS, NAMESPACE
from fleet.comparison import Expectation, wait_until_equal
from fleet.stores import GraphReader, VectorReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from machine import Usage

    from banking.streaming.events import EntityEvent
    from fleet.compose import Stack

LEGS = ("graph_consumer", "vector_consumer")
RESULTS = Path(__file__).with_name("results")
NAIVE_EVENTS = 600
EVENTS_PER_SECOND = 200
_LIMIT_SECONDS = 1800.0
# To ask costs the broker processor time that the fleet then lacks: seldom, until the end is near.
_POLL_SECONDS = 2.0
_LAST_POLL_SECONDS = 0.1
_LAST_BATCHES = 300


def drain(stack: Stack, events: Sequence[EntityEvent]) -> tuple[float, Usage]:
    """Events per second from the first that is published to the last that both legs have settled, and what it took."""
    meter = Meter(stack)
    started = time.perf_counter()
    asyncio.run(_publish(stack, events))
    while unsettled := _unsettled(stack):
        if time.perf_counter() - started > _LIMIT_SECONDS:
            raise SystemExit(f"not drained after {_LIMIT_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS if unsettled > _LAST_BATCHES else _LAST_POLL_SECONDS)
    rate, usage = len(events) / (time.perf_counter() - started), meter.read()
    asyncio.run(_check(stack, events))
    return rate, usage


async def _publish(stack: Stack, events: Sequence[EntityEvent]) -> None:
    async with AsyncEntityProducer(stack.addresses.pulsar_url) as producer:
        report = await producer.send_many(events)
    if report.published != len(events):
        raise SystemExit(f"publishing: {report}")


def _unsettled(stack: Stack) -> int:
    """The backlog of both legs, in batches of messages."""
    backlog = 0
    for topic in ENTITY_TOPICS.values():
        url = f"{stack.addresses.pulsar_admin_url}/admin/v2/persistent/{NAMESPACE}/{topic}/stats"
        with urllib.request.urlopen(url, timeout=30) as answer:
            subscriptions = json.load(answer)["subscriptions"]
        backlog += sum(subscriptions[name]["msgBacklog"] for name in LEG_SUBSCRIPTIONS.values())
    return backlog


async def _check(stack: Stack, events: Sequence[EntityEvent]) -> None:
    expectation = Expectation()
    expectation.add_all(events)
    for reader in (GraphReader(stack.addresses.graph_settings()), VectorReader(stack.addresses.vector_settings())):
        comparison = await wait_until_equal(reader, expectation, 1.0)
        await reader.close()
        if comparison.different:
            raise SystemExit(f"settled, and not stored: {comparison.differences}")


class Bench:
    """One run.

    Args:
        stack: The fleet.
        events: How many are published a round.
    """

    def __init__(self, stack: Stack, events: int) -> None:
        self._stack = stack
        self._events = events
        self._seed = int(time.time())
        self.rates: dict[str, list[float]] = {}
        self.usages: list[Usage] = []

    def round(self, number: int, draw: random.Random) -> None:
        """Measure everything once; round 0 warms up and does not count."""
        parts: dict[str, Callable[[], float]] = {
            "fleet": self._fleet,
            "naive": lambda: naive.drain(self._stack, self._mixed(NAIVE_EVENTS)),
            "graph ceiling": self._graph_ceiling,
            "vector ceiling": self._vector_ceiling,
        }
        for name in draw.sample(sorted(parts), len(parts)):
            rate = parts[name]()
            print(f"round {number}: {name:16} {rate:8,.0f}/s", file=sys.stderr)
            if number:
                self.rates.setdefault(name, []).append(rate)
        if not number:
            self.usages.clear()

    def latencies(self, seconds: float) -> dict[str, dict[str, float]]:
        """Quantiles of the time until an event is read, in milliseconds, by place."""
        found = asyncio.run(latency.measure(self._stack, EVENTS_PER_SECOND, seconds))
        return {place: quantiles(values) for place, values in found.items()}

    def _mixed(self, number: int) -> list[EntityEvent]:
        self._seed += 1
        return list(mixed(number, self._seed))

    def _fleet(self) -> float:
        rate, usage = drain(self._stack, self._mixed(self._events))
        self.usages.append(usage)
        return rate

    def _graph_ceiling(self) -> float:
        url = f"ws://127.0.0.1:{self._stack.addresses.janusgraph}/gremlin"
        return asyncio.run(graph_ceiling(url, self._mixed(self._events)))

    def _vector_ceiling(self) -> float:
        settings = settings_of(self._stack, f"ceiling-{self._seed}")
        return by_curl(settings, self._mixed(self._events))


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """In milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50": cuts[49] * 1000, "p95": cuts[94] * 1000, "p99": cuts[98] * 1000}


def report(bench: Bench, events: int, latencies: dict[str, dict[str, float]], peaks: dict[str, int]) -> dict[str, Any]:
    """Everything that was measured, as JSON has it."""
    medians = {name: statistics.median(rates) for name, rates in bench.rates.items()}
    services = bench.usages[0].cpu_seconds
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        "events": events,
        "rounds": bench.rates,
        "events_per_second": medians,
        "fleet_to": {name: medians["fleet"] / rate for name, rate in medians.items() if name != "fleet"},
        "cpu_us_per_event": {
            name: statistics.median(usage.cpu_seconds[name] for usage in bench.usages) / events * 1e6
            for name in services
        },
        "cpu_share": {name: statistics.median(usage.share(name) for usage in bench.usages) for name in services},
        "peak_memory_mb": {name: peak / 1e6 for name, peak in peaks.items()},
        "latency_ms": latencies,
    }


def show(found: dict[str, Any], console: Console) -> None:
    """The same as tables."""
    rates = Table("what", "events/s", "fleet / this")
    for name, rate in found["events_per_second"].items():
        ratio = found["fleet_to"].get(name)
        rates.add_row(name, f"{rate:,.0f}", "" if ratio is None else f"{ratio:.2f}")
    used = Table("process", "CPU µs/event", "of the machine", "peak MB")
    for name, micros in sorted(found["cpu_us_per_event"].items(), key=lambda pair: -pair[1]):
        peak = found["peak_memory_mb"].get(name)
        used.add_row(name, f"{micros:,.0f}", f"{found['cpu_share'][name]:.0%}", "" if peak is None else f"{peak:,.0f}")
    times = Table(f"at {EVENTS_PER_SECOND} events/s, in", "p50, ms", "p95", "p99")
    for place, values in found["latency_ms"].items():
        times.add_row(place, *(f"{value:,.0f}" for value in values.values()))
    for table in (rates, used, times):
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0, help="for latency")
    parser.add_argument("--replicas", type=int, default=1, help="of each leg")
    arguments = parser.parse_args()
    with bare_stack() as stack:
        for leg in LEGS:
            stack.scale(leg, arguments.replicas)
        bench = Bench(stack, arguments.events)
        draw = random.Random(arguments.events)
        for number in range(arguments.rounds + 1):
            bench.round(number, draw)
        found = report(bench, arguments.events, bench.latencies(arguments.seconds), Meter(stack).peak_bytes())
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "end_to_end.json").write_text(json.dumps(found, indent=1) + os.linesep, encoding="utf-8")
    show(found, Console(width=100))


if __name__ == "__main__":
    main()
