"""How long an audit of a running fleet takes, and how much memory.

    .venv/bin/python benchmarks/audit.py [--entities 100000] [--project NAME]

Publishes a generated bank through a fleet of its own, or adds it to the stack that `--project` names (its ports by the
variables that the compose file reads), waits until both legs have acknowledged everything, and then measures

- audit: `banking-verify` as a process of its own, with its peak memory
- contents: the same with `--contents`
- count: `g.V().count()`, JanusGraph's own way through all of the graph, which has to end within its `evaluationTimeout`
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import mixed
from draining import PORTS, PROJECT, environment_of

from banking.streaming.entities import EntityType
from banking.streaming.producer import AsyncEntityProducer
from banking.streaming.topics import ENTITY_TOPICS
from dlq_worker.settings import DlqWorkerSettings
from fleet.compose import Stack
from fleet.stores import GraphReader
from verify.topics import EventReader, Topics

if TYPE_CHECKING:
    from collections.abc import Iterator

CATCH_UP_SECONDS = 3600.0


@contextmanager
def running(project: str | None) -> Iterator[Stack]:
    """The stack of that project as it runs, or one of the benchmark's own, which is removed in the end."""
    stack = Stack(project or PROJECT, None if project else PORTS, say=lambda line: print(line, file=sys.stderr))
    if project:
        yield stack
        return
    stack.down(volumes=True)
    try:
        stack.up()
        yield stack
    finally:
        stack.down(volumes=True)


async def load(stack: Stack, entities: int) -> float:
    """Publish, and wait until both legs have acknowledged it; events a second."""
    addresses = stack.addresses
    started = time.perf_counter()
    async with AsyncEntityProducer(addresses.pulsar_url) as producer:
        report = await producer.send_many(mixed(entities, time.time_ns() % 2**32))
    if report.failed:
        raise SystemExit(f"publishing: {report}")
    settings = DlqWorkerSettings(pulsar_url=addresses.pulsar_url, pulsar_admin_url=addresses.pulsar_admin_url)
    async with (
        asyncio.timeout(CATCH_UP_SECONDS),
        Topics(settings) as topics,
        EventReader(topics, settings, [ENTITY_TOPICS[kind] for kind in EntityType]) as reader,
    ):
        while not all(
            unsettled.empty
            for acknowledged in (await reader.acknowledged()).values()
            for unsettled in acknowledged.unsettled.values()
        ):
            await asyncio.sleep(1)
    return report.published / (time.perf_counter() - started)


def audit(stack: Stack, *options: str) -> str:
    environment = environment_of(stack) | {"ARCHIVE_URL": "memory:///"}
    command = [str(Path(sys.executable).with_name("banking-verify")), "--format", "json", *options]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    report = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    entities = sum(report["published"].values())
    return (
        f"{report['status']}; {entities:,} entities, {report['events']:,} events in {report['seconds']:.1f} s: "
        f"{entities / report['seconds']:,.0f} entities/s, {usage.ru_utime + usage.ru_stime:.1f} s of CPU, "
        f"peak {usage.ru_maxrss / 1024:,.0f} MiB"
    )


async def count(stack: Stack) -> str:
    reader = GraphReader(
        stack.addresses.graph_settings().model_copy(update={"janusgraph_request_timeout_seconds": 600})
    )
    started = time.perf_counter()
    [vertices] = await reader.submit("g.V().count()")
    await reader.close()
    return f"{vertices:,} vertices in {time.perf_counter() - started:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--project")
    arguments = parser.parse_args()
    with running(arguments.project) as stack:
        if arguments.entities:
            print(f"loaded at {asyncio.run(load(stack, arguments.entities)):,.0f} events/s", flush=True)
        for name, options in (("audit", ()), ("contents", ("--contents",))):
            print(f"{name}: {audit(stack, *options)}", flush=True)
        print(f"count: {asyncio.run(count(stack))}", flush=True)


if __name__ == "__main__":
    main()
