"""How long the vector leg holds its event loop, and what memory it takes, while it drains events into OpenSearch.

    OPENSEARCH_PORT=9200 .venv/bin/python benchmarks/vector_sink_hold.py [--events 100000] [--batch 500]

The real loop and the real sink, wordllama included, write generated communications and persons of a source in memory
to indices of their own, which are removed afterwards. How late the event loop goes on is counted without the time in
which its thread could run and had no processor. Memory is the process's resident set, the source's messages included.
Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import time
import uuid
from pathlib import Path

import uvloop

from banking.streaming.broker import Delivery
from banking.streaming.consumer import BatchConsumer
from banking.streaming.events import EntityEvent, create_communication_event, create_person_event
from banking.streaming.health import Health
from banking.streaming.testing import InMemoryDeadLetters, InMemoryMessage
from vector_consumer.client import connect
from vector_consumer.settings import VectorSettings
from vector_consumer.sink import VectorSink

SAMPLE_SECONDS = 0.001
LIMIT_SECONDS = 0.020
SCHEDULER_FILE = Path("/proc/thread-self/schedstat")
WARM_UP_SHARE = 0.1
WORDS = (
    "wire",
    "transfer",
    "shell",
    "invoice",
    "offshore",
    "account",
    "lunch",
    "friday",
    "quarterly",
    "owner",
    "branch",
)


class Prepared:
    """A source of messages that were made before.

    Args:
        events: How many there are.
        batch: How many come at a time.
    """

    def __init__(self, events: int, batch: int) -> None:
        self._messages = [event(number).to_bytes() for number in range(events)]
        self._batch = batch
        self._given = 0
        self.settled = 0
        self.memory: list[tuple[int, int]] = []

    async def receive(self) -> list[Delivery]:
        await asyncio.sleep(0.001)
        first, self._given = self._given, min(len(self._messages), self._given + self._batch)
        messages = enumerate(self._messages[first : self._given], first)
        return [Delivery(InMemoryMessage(data, "t", "", number, {})) for number, data in messages]

    async def acknowledge(self, deliveries: list[Delivery]) -> None:
        self.settled += len(deliveries)
        self.memory.append((self.settled, resident_bytes()))


def event(number: int) -> EntityEvent:
    words = " ".join(WORDS[(number * step) % len(WORDS)] for step in range(3, 23))
    if number % 2:
        return create_communication_event(f"c-{number}", {"body": f"{number} {words}", "channel": "email"}, "benchmark")
    return create_person_event(
        f"p-{number}", f"Ann {number}", {"occupation": words, "tags": {"n": number}}, "benchmark"
    )


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def processor_wait() -> float:
    """For how long this thread has been ready to run without a processor to run on, in seconds since it began."""
    return int(SCHEDULER_FILE.read_text().split()[1]) / 1e9


async def sample(held: list[tuple[float, float]]) -> None:
    """Note how much later than asked for the loop goes on, and how long its thread worked meanwhile."""
    while True:
        waited, wanted, worked = processor_wait(), time.perf_counter() + SAMPLE_SECONDS, time.thread_time()
        await asyncio.sleep(SAMPLE_SECONDS)
        late = time.perf_counter() - wanted
        held.append((max(0.0, late - (processor_wait() - waited)), time.thread_time() - worked))


async def main(events: int, batch: int) -> None:
    settings = VectorSettings(opensearch_use_ssl=False, index_prefix=f"benchmark-{uuid.uuid4().hex[:8]}")
    source, letters, stop, held = Prepared(events, batch), InMemoryDeadLetters(), asyncio.Event(), []
    consumer = BatchConsumer(VectorSink(settings), [source], letters, Health(), settings.consumer_options())
    work = asyncio.create_task(consumer.run(stop))
    sampler: asyncio.Task[None] | None = None
    try:
        while source.settled < events:
            if sampler is None and source.settled > events * WARM_UP_SHARE:
                sampler, started, first = asyncio.create_task(sample(held)), time.perf_counter(), source.settled
            await asyncio.sleep(0.01)
        rate = (events - first) / (time.perf_counter() - started)
        stop.set()
        await work
    finally:
        async with connect(settings) as client:
            every = f"{settings.index_prefix}-*"
            await client.indices.delete(index=every)
            await client.indices.delete_index_template(name=every)
    print(f"{events:,} events, {rate:,.0f} a second, {len(letters.letters)} dead letters")
    for what, times in (
        ("event loop late by", sorted(late for late, _ in held)),
        ("of it its own work", sorted(work for _, work in held)),
    ):
        over = sum(seconds > LIMIT_SECONDS for seconds in times)
        print(
            f"{what}: 99.9 % {times[int(len(times) * 0.999)] * 1e3:.1f} ms, longest {times[-1] * 1e3:.1f} ms, "
            f"over {LIMIT_SECONDS * 1e3:.0f} ms: {over} of {len(times):,}"
        )
    warm = [(settled, size) for settled, size in source.memory if settled > events * WARM_UP_SHARE]
    middle = events * (1 + WARM_UP_SHARE) / 2
    early, late = (max(size for settled, size in warm if (settled > middle) is half) for half in (False, True))
    print(f"memory: {early / 2**20:.0f} MiB at most in the first half, {late / 2**20:.0f} MiB in the second")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=500)
    options = parser.parse_args()
    gc.freeze()  # as a service does
    uvloop.run(main(options.events, options.batch))
