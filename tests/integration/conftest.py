"""A stack of the tests' own: real servers under their own project name, ports and volumes, removed at the end."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from fleet.compose import Stack
from fleet.stores import GraphReader, VectorReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

PROJECT = "banking-test"
ENVIRONMENT = {
    "PULSAR_PORT": "26650",
    "PULSAR_ADMIN_PORT": "28080",
    "JANUSGRAPH_HOST_PORT": "28182",
    "OPENSEARCH_PORT": "29200",
    "PROMETHEUS_PORT": "29090",
    "PRODUCER_PORT": "28000",
    "DLQ_RETRY_DELAYS_SECONDS": "1,2,3",
}


def _interrupt(_number, _frame):
    """End as by Ctrl-C, so that what was started is taken down."""
    raise KeyboardInterrupt


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The whole fleet, ready. A start that fails fails every test that needs it, with the server's last log lines."""
    terminal = request.config.get_terminal_writer()
    stack = Stack(PROJECT, ENVIRONMENT, say=lambda line: terminal.line(f"[stack] {line}"))
    keep = request.config.getoption("--keep-stack")
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        if not keep:
            stack.down(volumes=True)
        stack.up()
        yield stack
    finally:
        signal.signal(signal.SIGTERM, previous)
        if not keep:
            stack.down(volumes=True)


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
