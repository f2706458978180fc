"""A leg's service that drains what is published, timed: what the benchmarks of both legs share.

The service runs as a process of its own, with a broker and a store of a stack of the benchmark's own, in which no other
replica of it runs.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from banking.streaming.producer import AsyncEntityProducer
from fleet.compose import AUDIT, Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from banking.streaming.events import EntityEvent

PROJECT = "banking-benchmark"
PORTS = {
    "PULSAR_PORT": "24650",
    "PULSAR_ADMIN_PORT": "24651",
    "JANUSGRAPH_HOST_PORT": "24652",
    "OPENSEARCH_PORT": "24653",
    "PROMETHEUS_PORT": "24654",
    "PRODUCER_PORT": "24655",
}
_HTTP_PORT = 24656
_LIMIT_SECONDS = 600.0
# To ask costs the service some milliseconds each time, which would count as its work.
_POLL_SECONDS = 0.2
_SETTLED = re.compile(rb'^streaming_outcomes_total\{[^}]*status="(\w+)"[^}]*\} ([0-9.e+]+)$', re.MULTILINE)


@contextmanager
def stack() -> Iterator[Stack]:
    """Broker and stores, without consumers. What it holds is removed in the end."""
    stack = Stack(PROJECT, PORTS, say=lambda line: print(line, file=sys.stderr))
    stack.down(volumes=True)
    try:
        stack.up()
        for service in ("graph_consumer", "vector_consumer", "dlq_worker"):
            stack.scale(service, 0)
        stack.podman("stop", stack.container(AUDIT))  # it would read everything while others are measured
        yield stack
    finally:
        stack.down(volumes=True)


def environment_of(stack: Stack) -> dict[str, str]:
    """This process's variables, and those that lead to a stack's broker and stores."""
    addresses = stack.addresses
    return {
        **os.environ,
        "PULSAR_URL": addresses.pulsar_url,
        "PULSAR_ADMIN_URL": addresses.pulsar_admin_url,
        "JANUSGRAPH_HOST": "127.0.0.1",
        "JANUSGRAPH_PORT": str(addresses.janusgraph),
        "OPENSEARCH_HOST": "127.0.0.1",
        "OPENSEARCH_PORT": str(addresses.opensearch),
        "OPENSEARCH_USE_SSL": "false",
    }


class Rounds:
    """What is measured round after round, to be compared by its medians. The first round warms up and does not count.

    Args:
        rounds: How many count.
    """

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._number = 0
        self._rates: dict[str, list[float]] = {}

    def __iter__(self) -> Iterator[int]:
        """The rounds, from 0, which is the warm-up."""
        for number in range(self._rounds + 1):
            self._number = number
            yield number

    def measure(self, name: str, run: Callable[[], float]) -> None:
        """Measure one thing, named `what: how`, once in this round; `run` gives its rate."""
        rate = run()
        print(f"round {self._number}: {name:36} {rate:8,.0f}/s", file=sys.stderr)
        if self._number:
            self._rates.setdefault(name, []).append(rate)

    def show(self, what: str, base: str, peak_bytes: int) -> None:
        """Print the medians, and how many times as fast as each of them the `base` of the same kind is."""
        medians = {name: statistics.median(found) for name, found in self._rates.items()}
        print(f"{what}, median of {self._rounds} rounds; service's peak memory {peak_bytes / 1e6:,.0f} MB")
        for name, rate in medians.items():
            ratio = medians[f"{name.partition(':')[0]}: {base}"] / rate
            print(f"{name:36} {rate:8,.0f}/s   {base} / this: {ratio:6.2f}")


class Leg:
    """A consumer service as a process.

    Args:
        service: Its command.
        stack: Where its broker and store are.
        settings: Its settings beside their addresses.
    """

    def __init__(self, service: str, stack: Stack, settings: Mapping[str, str]) -> None:
        self._service = service
        self._stack = stack
        self._environment = {
            **environment_of(stack),
            "HTTP_PORT": str(_HTTP_PORT),
            "LOG_LEVEL": "WARNING",
            **settings,
        }
        self.peak_bytes = 0

    def drain(self, events: Sequence[EntityEvent], *, published: bool = False) -> float:
        """Publish events unless they are, then start the service; events settled a second, from the first to the last.

        The first second of settling is left out: the service's start is no part of its speed.
        """
        if not published:
            asyncio.run(_publish(self._stack.addresses.pulsar_url, events))
        process = subprocess.Popen([Path(sys.executable).with_name(self._service)], env=self._environment)
        try:
            return self._watch(process, len(events))
        finally:
            process.terminate()
            process.wait(60)

    def _watch(self, process: subprocess.Popen[bytes], wanted: int) -> float:
        deadline = time.monotonic() + _LIMIT_SECONDS
        first: tuple[float, float] | None = None
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise SystemExit(f"{self._service} ended with {process.returncode}")
            settled, rejected = _settled()
            now = time.perf_counter()
            if rejected:
                raise SystemExit(f"{self._service}: {rejected:.0f} events were rejected")
            if settled and (first is None or (settled < wanted / 4 and now - first[0] < 1)):
                first = (now, settled)
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            self.peak_bytes = int(status.split("VmHWM:")[1].split()[0]) * 1024
            if first is not None and settled >= wanted:
                return (settled - first[1]) / (now - first[0])
            time.sleep(_POLL_SECONDS)
        raise SystemExit(f"{self._service} settled {settled:.0f} of {wanted} events in {_LIMIT_SECONDS:.0f} s")


async def _publish(url: str, events: Sequence[EntityEvent]) -> None:
    async with AsyncEntityProducer(url) as producer:
        report = await producer.send_many(events)
    if report.published != len(events):
        raise SystemExit(f"publishing: {report}")


def _settled() -> tuple[float, float]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{_HTTP_PORT}/metrics", timeout=10) as answer:
            counts = _SETTLED.findall(answer.read())
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return 0.0, 0.0
    rejected = sum(float(count) for status, count in counts if status == b"rejected")
    return sum(float(count) for _, count in counts), rejected
