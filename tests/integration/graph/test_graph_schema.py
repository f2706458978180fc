"""The schema of a graph that holds data already: what is declared anew is made, what cannot be changed is said."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from banking.streaming.sink import APPLIED, SinkUnavailableError
from fleet.compose import Stack
from graph_consumer.servers import make_client
from graph_consumer.settings import GraphSettings
from graph_consumer.sink import GraphSink
from tests.integration.conftest import PROJECT
from tests.integration.graph.conftest import (
    CONFIGURATION,
    FIRST_FREE_PORT,
    HOST,
    PERSON,
    CassandraGraph,
    event,
    janusgraph_image,
    remove_containers,
    run_janusgraph,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PORT = FIRST_FREE_PORT + 2
SETTINGS = GraphSettings(janusgraph_host=HOST, janusgraph_port=PORT)


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """A copy of JanusGraph's configuration, for a server to mount."""
    folder = tmp_path / "janusgraph"
    shutil.copytree(CONFIGURATION, folder)
    folder.chmod(0o755)
    return folder


def declare(configuration: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what the configuration declares, and not its fingerprint: to the service it is the same model."""
    file = configuration / "model.json"
    model = json.loads(file.read_text())
    change(model)
    file.write_text(json.dumps(model))


def look_up_cities(model: dict[str, Any]) -> None:
    model["lookups"].append("city")


@pytest.fixture
def server(configuration: Path) -> Iterator[Stack]:
    """A JanusGraph of the test's own that keeps its graph in itself."""
    stack = Stack(f"{PROJECT}-schema")
    remove_containers(stack)
    run_janusgraph(
        stack,
        "janusgraph",
        janusgraph_image(),
        PORT,
        *("--volume", f"{configuration}:/etc/opt/janusgraph:ro"),
    )
    stack.wait_ready(180.0)
    yield stack
    remove_containers(stack)


async def persons_by_index(city: str) -> tuple[int, str]:
    """How many persons of a city an index finds, and how the query ran."""
    client = make_client(SETTINGS)
    [count] = await client.submit("g.V().has('city', city).count()", {"city": city})
    [profile] = await client.submit("g.V().has('city', city).profile().next().toString()", {"city": city})
    await client.close()
    return count, profile


async def write_persons(settings: GraphSettings, prefix: str) -> None:
    sink = GraphSink(settings)
    events = [
        event(PERSON, f"{prefix}{number}", {"city": prefix + ("Bonn", "Ulm")[number % 2]}) for number in range(40)
    ]
    assert await sink.write(events) == [APPLIED] * 40
    await sink.close()


async def test_a_server_makes_what_is_declared_later_and_says_what_it_cannot_change(
    server: Stack, configuration: Path
) -> None:
    await write_persons(SETTINGS, "")
    assert "by_city" not in (await persons_by_index("Bonn"))[1]
    name = server.container("janusgraph")
    await asyncio.to_thread(server.podman, "kill", "-s", "KILL", name)  # an instance that is on record for ever
    declare(configuration, look_up_cities)
    await asyncio.to_thread(server.podman, "start", name)
    await asyncio.to_thread(server.wait_ready, 180.0)
    count, profile = await persons_by_index("Bonn")
    assert count == 20
    assert "by_city" in profile

    declare(configuration, lambda model: model["properties"].update(city="Long"))
    await asyncio.to_thread(server.podman, "kill", "-s", "KILL", name)
    await asyncio.to_thread(server.podman, "start", name)
    async with asyncio.timeout(180):
        while "IllegalStateException" not in (log := await asyncio.to_thread(server.logs, "janusgraph", 1, 500)):
            await asyncio.sleep(1)
    assert "property 'city' is declared as one Long, but this graph holds it as SINGLE of String." in log
    assert "declare it under another name, or rebuild the graph from the topics." in log
    sink = GraphSink(SETTINGS)
    with pytest.raises(SinkUnavailableError, match="not ready"):
        await sink.open()
    await sink.close()


async def test_an_index_is_built_while_other_servers_of_the_graph_run(
    cassandra_graph: CassandraGraph, configuration: Path, unique: str
) -> None:
    sink = GraphSink(cassandra_graph.settings(0, 1))
    await sink.open()
    await write_persons(cassandra_graph.settings(0, 1), unique)
    await sink.close()
    declare(configuration, look_up_cities)
    stack = cassandra_graph.stack
    run_janusgraph(
        stack,
        "janusgraph-3",
        janusgraph_image(),
        PORT,
        *("--network", f"{stack.project}_default", "--network", f"{stack.project}_graph-storage"),
        *("--env", "JANUSGRAPH_STORAGE=cassandra"),
        *("--volume", f"{configuration}:/etc/opt/janusgraph:ro"),
    )
    try:
        await asyncio.to_thread(stack.wait_ready, 180.0)
        count, profile = await persons_by_index(unique + "Bonn")
    finally:
        await asyncio.to_thread(stack.podman, "stop", "-t", "30", stack.container("janusgraph-3"))
        await asyncio.to_thread(stack.podman, "rm", "-f", stack.container("janusgraph-3"))
    assert count == 20
    assert "by_city" in profile
