"""A stack of the tests' own: real servers under their own project name, ports and volumes, removed at the end."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import signal
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from banking.streaming.sink import Status
from fleet.comparison import wait_until_equal
from fleet.compose import Stack
from fleet.stores import GraphReader, VectorReader
from graph_consumer.sink import GraphSink
from producer.mapping import RowMapping, find_mapping
from producer.records import CsvRows
from tests.replay import vertices_by_scan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from banking.streaming.events import EntityEvent
    from fleet.comparison import Expectation
    from fleet.stores import StoreReader
    from graph_consumer.settings import GraphSettings

# Two test runs on one machine take a project and ports of their own each.
PROJECT = os.environ.get("BANKING_TEST_PROJECT", "banking-test")
_FIRST_PORT = int(os.environ.get("BANKING_TEST_PORT_BASE", "26650"))
_PUBLISHED = (
    "PULSAR_PORT",
    "PULSAR_ADMIN_PORT",
    "JANUSGRAPH_HOST_PORT",
    "OPENSEARCH_PORT",
    "PROMETHEUS_PORT",
    "PRODUCER_PORT",
)
ENVIRONMENT = {
    **{variable: str(_FIRST_PORT + offset) for offset, variable in enumerate(_PUBLISHED)},
    "DLQ_RETRY_DELAYS_SECONDS": "1,2,3",
    "AUDIT_INTERVAL_SECONDS": "86400",  # one at the start; a test's own audits are not disturbed by another
    "TOMBSTONE_RETENTION_DAYS": "3650",  # tests of the purge write tombstones of the past
}


def _interrupt(_number, _frame):
    """End as by Ctrl-C, so that what was started is taken down."""
    raise KeyboardInterrupt


@contextmanager
def running(stack: Stack, *, keep: bool = False, timeout_seconds: float = 300.0) -> Iterator[None]:
    """The stack, ready, and anew unless it is kept; taken down afterwards, with its data, however this process ends."""
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        if not keep:
            stack.down(volumes=True)
        stack.up(timeout_seconds)
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        if not keep:
            stack.down(volumes=True)


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The whole fleet, ready. A start that fails fails every test that needs it, with the server's last log lines."""
    terminal = request.config.get_terminal_writer()
    stack = Stack(PROJECT, ENVIRONMENT, say=lambda line: terminal.line(f"[stack] {line}"))
    with running(stack, keep=request.config.getoption("--keep-stack")):
        yield stack


def archived_letters(stack: Stack) -> list[dict[str, Any]]:
    """All letters in the archive of a stack, as `dlq_worker list` tells of them."""
    command = ("dlq_worker", "list", "--format", "json", "--limit", "1000000")
    return [json.loads(line) for line in stack.exec("dlq_worker", *command, timeout_seconds=120).splitlines()]


def metrics_of(stack: Stack, service: str) -> str:
    """What a service's /metrics says, asked from inside its container."""
    port = 8000 if service == "producer" else 8001
    program = f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:{port}/metrics').read().decode())"
    return stack.exec(service, "python", "-c", program)


async def assert_in_both(readers: Sequence[StoreReader], expectation: Expectation, seconds: float = 240.0) -> None:
    """Both stores come to hold everything that is expected within that time, entity by entity."""
    for comparison in await asyncio.gather(*(wait_until_equal(reader, expectation, seconds) for reader in readers)):
        assert comparison.differences == []
        assert comparison.equal == expectation.count()


def assert_confined(stack: Stack) -> None:
    """Every container runs as an ordinary user who can gain nothing, on a read-only disk, with bounded memory."""
    containers = [container for container in stack.containers() if container.state == "running"]
    assert len(containers) > 8
    for container in containers:
        [inspected] = json.loads(stack.podman("inspect", container.name))
        host = inspected["HostConfig"]
        assert host["ReadonlyRootfs"], container.name
        assert inspected["EffectiveCaps"] in (None, []), container.name
        assert any("no-new-privileges" in option for option in host["SecurityOpt"]), container.name
        assert not host["Privileged"], container.name
        assert 0 < host["Memory"] < 4 * 1024**3, container.name
        bindings = [each for port in (host["PortBindings"] or {}).values() for each in port or ()]
        assert {each["HostIp"] for each in bindings} <= {"127.0.0.1"}, container.name
        status = stack.podman("exec", container.name, "cat", "/proc/1/status")
        ids = re.search(r"^Uid:\s+(.+)$", status, re.MULTILINE)
        assert ids is not None
        assert "0" not in ids[1].split(), container.name
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE), container.name
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE), container.name


@pytest.fixture(scope="session")
def pulsar_url(stack: Stack) -> str:
    return stack.addresses.pulsar_url


@pytest.fixture(scope="session")
def pulsar_admin_url(stack: Stack) -> str:
    return stack.addresses.pulsar_admin_url


@pytest.fixture(scope="session")
def janusgraph_address(stack: Stack) -> tuple[str, int]:
    return ("127.0.0.1", stack.addresses.janusgraph)


@pytest.fixture(scope="session")
def opensearch_address(stack: Stack) -> tuple[str, int]:
    return ("127.0.0.1", stack.addresses.opensearch)


@pytest.fixture
async def graph(stack: Stack) -> AsyncIterator[GraphReader]:
    reader = GraphReader(stack.addresses.graph_settings())
    yield reader
    await reader.close()


@pytest.fixture
async def vector(stack: Stack) -> AsyncIterator[VectorReader]:
    reader = VectorReader(stack.addresses.vector_settings())
    yield reader
    await reader.close()


@pytest.fixture
def assert_one_vertex_each(stack: Stack) -> Callable[[], Awaitable[None]]:
    """Fails where an entity has a second vertex: by a full scan, since an index would hide it."""

    async def check() -> None:
        counted = await vertices_by_scan(stack.addresses.graph_settings())
        assert [key for key, number in counted.items() if number > 1] == []

    return check


@dataclass
class AmlSim:
    """What the simulated bank of EXTERNAL_DATA holds.

    Attributes:
        accounts: The ids of all accounts.
        labelled: The ids of those that take part in something planted.
        payments: From, to, amount.
    """

    accounts: list[str] = field(default_factory=list)
    labelled: set[str] = field(default_factory=set)
    payments: list[tuple[str, str, float]] = field(default_factory=list)

    def read(self, folder: Path) -> Iterator[EntityEvent]:
        """The events of all rows."""
        for name, mapping in (("nodes", "amlsim-accounts"), ("transactions", "amlsim-payments")):
            with gzip.open(folder / f"{name}.csv.gz") as stream:
                for record in CsvRows(RowMapping.read(find_mapping(mapping)), "AMLSim").read(stream):
                    assert record.event is not None, record.error
                    self._note(record.event)
                    yield record.event

    def _note(self, event: EntityEvent) -> None:
        payload = event.payload
        if event.entity_type == "account":
            self.accounts.append(event.entity_id)
            if payload["risk_level"] == "high":
                self.labelled.add(event.entity_id)
        else:
            self.payments.append((payload["from_account_id"], payload["to_account_id"], float(payload["amount"])))


@pytest.fixture(scope="session")
def amlsim(stack: Stack) -> AmlSim:
    """The simulated bank, all of it in the stack's graph; a full scan takes a minute from then on."""
    bank = AmlSim()
    folder = Path(os.environ["EXTERNAL_DATA"]) / "amlsim"
    asyncio.run(_store(stack.addresses.graph_settings(), bank.read(folder)))
    return bank


async def _store(settings: GraphSettings, events: Iterator[EntityEvent]) -> None:
    """Write events to the graph, as the graph leg does, but older than any that was published: those are left alone."""
    sink = GraphSink(settings)

    async def write() -> None:
        while batch := [msgspec.structs.replace(event, version=1) for event in islice(events, 500)]:
            while not {outcome.status for outcome in await sink.write(batch)} <= {Status.APPLIED, Status.STALE}:
                await asyncio.sleep(0.1)

    async with asyncio.timeout(900), asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(write())
    await sink.close()
