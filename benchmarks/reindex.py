"""Building an index anew with `vector_consumer reindex`, beside the server's own `_reindex`, and how long writes wait.

    OPENSEARCH_PORT=9200 .venv/bin/python benchmarks/reindex.py [--documents 20000] [--rounds 3]

In each round the same communications with 256-d vectors are copied into new indices of the same mapping: by the
server's `_reindex`, which reads no changes and changes no mapping, by the job with the vectors kept, and by the job
while a sink writes up to 400 updates a second. The last tells how long the writes waited. All indices are removed
afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import re
import statistics
import time
import uuid
from typing import TYPE_CHECKING

import structlog

from banking.streaming.entities import EntityType
from banking.streaming.events import create_communication_event
from vector_consumer.client import connect
from vector_consumer.reindex import OldIndex, Reindexer
from vector_consumer.settings import VectorSettings
from vector_consumer.sink import VectorSink

if TYPE_CHECKING:
    from opensearchpy import AsyncOpenSearch

    from banking.streaming.events import EntityEvent

BATCH = 500
LIVE_BATCH = 100
LIVE_PAUSE_SECONDS = 0.25
TYPES = [EntityType.COMMUNICATION]
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


def message(number: int, version: int) -> EntityEvent:
    words = " ".join(WORDS[(number * step + version) % len(WORDS)] for step in range(3, 23))
    payload = {"body": f"{number} {version} {words}", "channel": "email"}
    return create_communication_event(f"c-{number}", payload, "benchmark", version=version)


async def fill(settings: VectorSettings, documents: int) -> None:
    sink = VectorSink(settings)
    await sink.open()
    for start in range(0, documents, BATCH):
        await sink.write([message(number, 1) for number in range(start, min(documents, start + BATCH))])
    await sink.close()


async def copy_by_server(client: AsyncOpenSearch, settings: VectorSettings) -> float:
    """Seconds of the server's own reindex."""
    prefix = f"{settings.index_prefix}-communications"
    await client.indices.create(index=f"{prefix}-v900", body={"settings": {"index": {"refresh_interval": "-1"}}})
    await client.indices.refresh(index=f"{prefix}-v1")
    started = time.perf_counter()
    body = {"source": {"index": f"{prefix}-v1"}, "dest": {"index": f"{prefix}-v900", "version_type": "external"}}
    await client.reindex(body=body, params={"refresh": "true"}, request_timeout=3600)
    seconds = time.perf_counter() - started
    await client.indices.delete(index=f"{prefix}-v900")
    return seconds


async def copy_by_job(settings: VectorSettings) -> tuple[float, float]:
    """Seconds of the job, and for how many of them writes waited."""
    said: list[str] = []
    async with Reindexer(settings, say=said.append) as reindexer:
        started = time.perf_counter()
        await reindexer.run(TYPES, OldIndex.DROP)
        seconds = time.perf_counter() - started
    waited = next(match[1] for line in said if (match := re.search(r"writes waited for ([0-9.]+) s", line)))
    return seconds, float(waited)


async def keep_writing(settings: VectorSettings, documents: int) -> None:
    sink = VectorSink(settings)
    await sink.open()
    version = 1
    try:
        while True:
            version += 1
            for start in range(0, documents, LIVE_BATCH):
                stop = min(documents, start + LIVE_BATCH)
                await sink.write([message(number, version) for number in range(start, stop)])
                await asyncio.sleep(LIVE_PAUSE_SECONDS)
    finally:
        await sink.close()


async def measure(documents: int, rounds: int) -> None:
    settings = VectorSettings(opensearch_use_ssl=False, index_prefix=f"benchmark-{uuid.uuid4().hex[:8]}")
    every = f"{settings.index_prefix}-*"
    ratios, waits = [], []
    async with connect(settings) as client:
        try:
            for number in range(rounds):
                await fill(settings, documents)
                server = await copy_by_server(client, settings)
                job, quiet_wait = await copy_by_job(settings)
                writer = asyncio.create_task(keep_writing(settings, documents))
                await asyncio.sleep(1)
                live, wait = await copy_by_job(settings)
                writer.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await writer
                ratios.append(server / job)
                waits.append(wait)
                print(
                    f"round {number + 1}: server {documents / server:,.0f} documents/s, job {documents / job:,.0f}, "
                    f"job under writes {documents / live:,.0f}; writes waited {quiet_wait:.1f} s and {wait:.1f} s"
                )
                await client.indices.delete(index=every)
        finally:
            await client.indices.delete(index=every)
            await client.indices.delete_index_template(name=every)
    print(f"job / server: {statistics.median(ratios):.2f}; writes waited: {statistics.median(waits):.1f} s")


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    asyncio.run(measure(options.documents, options.rounds))
