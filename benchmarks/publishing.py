"""How fast events are published, beside a bare loop over the broker's client that sends the same bytes.

Needs a running broker (`make up`):

    .venv/bin/python benchmarks/publishing.py [--events 50000] [--rounds 5]

The bare loop knows no events: it sends prepared bytes under prepared keys, by the same batching settings, and counts
receipts. The ways take turns, so that what else the machine does falls on all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import subprocess
import sys
import threading
import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pulsar
import uvloop
from datasets import mixed

from banking.streaming import AsyncEntityProducer, EntityProducer
from banking.streaming.broker import BrokerOptions, connect, open_producer
from banking.streaming.events import encode_event
from banking.streaming.topics import ENTITY_TOPICS, TopicProvisioner, ordering_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from banking.streaming import EntityEvent

MAX_IN_FLIGHT = 5000
HTTP_PORT = 24657


async def provision(admin_url: str) -> None:
    """Make the topics, as the first service would."""
    provisioner = TopicProvisioner(admin_url)
    await provisioner.ensure()
    await provisioner.close()


def bare_loop(url: str, events: Sequence[EntityEvent]) -> float:
    """Seconds that the client alone takes."""
    messages = [
        (ENTITY_TOPICS[event.entity_type], encode_event(event), event.entity_id, ordering_key(event.entity_id))
        for event in events
    ]
    options = BrokerOptions(url)
    client = connect(options)
    producers = {topic: open_producer(client, options, topic, MAX_IN_FLIGHT + 1) for topic in ENTITY_TOPICS.values()}
    stored = 0
    done = threading.Event()

    def receipt(result: object, _message_id: object) -> None:
        nonlocal stored
        stored += result == pulsar.Result.Ok
        if stored == len(messages):
            done.set()

    started = time.perf_counter()
    for number, (topic, data, key, bucket) in enumerate(messages):
        while number - stored >= MAX_IN_FLIGHT:
            time.sleep(0.001)
        producers[topic].send_async(data, receipt, partition_key=key, ordering_key=bucket)
    if not done.wait(60):
        raise SystemExit(f"bare loop: {len(messages) - stored} of {len(messages)} messages were not stored")
    seconds = time.perf_counter() - started
    client.close()
    return seconds


def asynchronous(url: str, events: Sequence[EntityEvent]) -> float:
    """Seconds that `AsyncEntityProducer.send_many` takes."""

    async def publish() -> float:
        async with AsyncEntityProducer(url, max_in_flight=MAX_IN_FLIGHT) as producer:
            await producer.open()
            started = time.perf_counter()
            report = await producer.send_many(events)
            seconds = time.perf_counter() - started
        if report.published != len(events):
            raise SystemExit(f"send_many: {report}")
        return seconds

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(publish())


def synchronous(url: str, events: Sequence[EntityEvent]) -> float:
    """Seconds that `EntityProducer.send` with a final `flush` takes."""
    with EntityProducer(url, max_in_flight=MAX_IN_FLIGHT) as producer:
        producer.send_many(events[:5])  # opens the producers
        started = time.perf_counter()
        for event in events:
            producer.send(event)
        producer.flush(120)
        return time.perf_counter() - started


def over_http(url: str, events: Sequence[EntityEvent]) -> float:
    """Seconds that one NDJSON request takes, sent to a producer service of this benchmark's own."""
    lines = [encode_event(event) + b"\n" for event in events]
    environment = {
        **os.environ,
        "PULSAR_URL": url,
        "PROVISION_TOPICS": "false",
        "API_AUTHENTICATION": "false",
        "HTTP_PORT": str(HTTP_PORT),
        "LOG_LEVEL": "ERROR",
    }
    service = subprocess.Popen([Path(sys.executable).with_name("producer"), "serve"], env=environment)
    try:
        return asyncio.run(_post(f"http://127.0.0.1:{HTTP_PORT}", lines))
    finally:
        service.terminate()
        service.wait(60)


async def _post(url: str, lines: Sequence[bytes]) -> float:
    async def body() -> AsyncIterator[bytes]:
        for start in range(0, len(lines), 100):
            yield b"".join(lines[start : start + 100])

    async with aiohttp.ClientSession() as session:
        async with asyncio.timeout(60):
            while not await _ready(session, url):
                await asyncio.sleep(0.2)
        started = time.perf_counter()
        headers = {"content-type": "application/x-ndjson"}
        async with session.post(f"{url}/v1/events", data=body(), headers=headers) as answer:
            summary = await answer.json()
        seconds = time.perf_counter() - started
    if summary.get("accepted") != len(lines):
        raise SystemExit(f"POST /v1/events: {summary}")
    return seconds


async def _ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/health/ready") as answer:
            return answer.status == HTTPStatus.OK
    except aiohttp.ClientError:
        return False


WAYS: dict[str, Callable[[str, Sequence[EntityEvent]], float]] = {
    "bare send_async loop": bare_loop,
    "AsyncEntityProducer.send_many": asynchronous,
    "EntityProducer.send": synchronous,
    "POST /v1/events, NDJSON": over_http,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pulsar-url", default="pulsar://localhost:6650")
    parser.add_argument("--pulsar-admin-url", default="http://localhost:8080")
    arguments = parser.parse_args()
    asyncio.run(provision(arguments.pulsar_admin_url))
    events = list(mixed(arguments.events, 1))
    # The data set stays in memory only here: collections of garbage that walk through it are nobody's cost.
    gc.collect()
    gc.freeze()
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(arguments.rounds + 1):
        for name, run in WAYS.items():
            rate = len(events) / run(arguments.pulsar_url, events)
            if number:  # the first round warms the broker up
                rates[name].append(rate)
    baseline = statistics.median(rates["bare send_async loop"])
    print(f"{len(events):,} events, median of {arguments.rounds} rounds")
    for name, measured in rates.items():
        rate = statistics.median(measured)
        print(
            f"{name:32} {rate:9,.0f}/s   {rate / baseline:5.2f} of the bare loop   (all: {[int(m) for m in measured]})"
        )


if __name__ == "__main__":
    main()
