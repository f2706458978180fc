"""What the tests of the graph leg share: both back ends, readers of the graph, and writers in each other's way.

The stack's own JanusGraph keeps its graph in itself (BerkeleyJE). For these tests alone a Cassandra runs beside it with
two JanusGraph servers that share one graph in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from banking.streaming.entities import EntityType
from banking.streaming.events import EntityEvent, EventType, content_hash, create_event, decode_event, encode_event
from banking.streaming.sink import SinkUnavailableError, Status
from fleet.compose import COMPOSE_FILE, ROOT, Stack, Storage
from graph_consumer.servers import make_client
from graph_consumer.settings import GraphSettings
from graph_consumer.sink import GraphSink
from tests.integration.conftest import ENVIRONMENT, PROJECT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from graph_consumer.gremlin import GremlinClient

HOST = "127.0.0.1"
CONFIGURATION = ROOT / "config" / "janusgraph"
FIRST_FREE_PORT = max(int(port) for variable, port in ENVIRONMENT.items() if variable.endswith("_PORT")) + 1
"""The stack's own ports end below it."""

ACCOUNT, COMMUNICATION, COMPANY = EntityType.ACCOUNT, EntityType.COMMUNICATION, EntityType.COMPANY
PERSON, TRANSACTION = EntityType.PERSON, EntityType.TRANSACTION


class CassandraGraph:
    """A Cassandra and two JanusGraph servers on it, under a compose project of their own."""

    second = "janusgraph-2"

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.ports = (FIRST_FREE_PORT, FIRST_FREE_PORT + 1)

    def settings(self, *servers: int) -> GraphSettings:
        """For a service that knows these servers, 0 and 1, in this order."""
        return GraphSettings(janusgraph_host=",".join(f"{HOST}:{self.ports[server]}" for server in servers))

    def start(self) -> None:
        """Start the second server once the first is ready: of two at once on an empty Cassandra, one may fail."""
        self.stack.provide_images()
        self.stack.compose("up", "-d", "cassandra", "janusgraph", timeout_seconds=120.0)
        self.stack.wait_ready(300.0)
        if not self.stack.containers(self.second):
            self.start_second()
            self.stack.wait_ready(300.0)

    def start_second(self) -> None:
        """Start the second server: the first one's twin, but for its name and its port."""
        run_janusgraph(
            self.stack,
            self.second,
            janusgraph_image(),
            self.ports[1],
            *("--network", f"{self.stack.project}_default", "--network", f"{self.stack.project}_graph-storage"),
            *("--env", "JANUSGRAPH_STORAGE=cassandra", "--volume", f"{CONFIGURATION}:/etc/opt/janusgraph:ro"),
        )


def janusgraph_image() -> str:
    """The image that the compose file runs."""
    names = dict(line.split("=", 1) for line in (COMPOSE_FILE.parent / ".env").read_text().splitlines())
    return names["JANUSGRAPH_IMAGE"]


def run_janusgraph(stack: Stack, name: str, image: str, port: int, *options: str) -> None:
    """Run a JanusGraph server that no compose file knows, as one of a project, so that it is taken down with it."""
    stack.podman(
        *("run", "-d", "--name", stack.container(name), "--hostname", name, "--publish", f"{HOST}:{port}:8182"),
        *("--label", f"io.podman.compose.project={stack.project}", "--label", f"com.docker.compose.service={name}"),
        *("--restart", "unless-stopped", "--env", "JAVA_OPTIONS=-Xmx512m"),
        *("--env", "_JAVA_OPTIONS=-XX:+IgnoreUnrecognizedVMOptions -XX:UseSVE=0"),
        *("--health-cmd", "bash /etc/opt/janusgraph/healthcheck.sh"),
        *("--entrypoint", '["bash", "/etc/opt/janusgraph/start.sh"]'),
        *options,
        image,
    )


def remove_containers(stack: Stack) -> None:
    """Remove a project's containers, whose data nobody needs, without waiting for them to close it."""
    if names := [container.name for container in stack.containers()]:
        stack.podman("rm", "-f", "-v", "-t", "0", *names)


@pytest.fixture(scope="package")
def cassandra_graph(request: pytest.FixtureRequest) -> Iterator[CassandraGraph]:
    """Cassandra and two JanusGraph servers, removed after the last test of this folder."""
    environment = {"JANUSGRAPH_HOST_PORT": str(FIRST_FREE_PORT), "CASSANDRA_HEAP": "512m"}
    terminal = request.config.get_terminal_writer()
    stack = Stack(
        f"{PROJECT}-cassandra",
        {**ENVIRONMENT, **environment},
        say=lambda line: terminal.line(f"[cassandra] {line}"),
        storage=Storage.CASSANDRA,
    )
    keep = request.config.getoption("--keep-stack")
    try:
        if not keep:
            remove_containers(stack)
            stack.down(volumes=True)
        graph = CassandraGraph(stack)
        graph.start()
        yield graph
    finally:
        if not keep:
            remove_containers(stack)
            stack.down(volumes=True)


@pytest.fixture(scope="package", params=list(Storage))
def settings(request: pytest.FixtureRequest) -> GraphSettings:
    """Each back end."""
    if request.param is Storage.CASSANDRA:
        graph: CassandraGraph = request.getfixturevalue("cassandra_graph")
        return graph.settings(0, 1)
    stack: Stack = request.getfixturevalue("stack")
    return stack.addresses.graph_settings()


@pytest.fixture
async def sink(settings: GraphSettings) -> AsyncIterator[GraphSink]:
    sink = GraphSink(settings)
    await sink.open()
    yield sink
    await sink.close()


@pytest.fixture
async def client(settings: GraphSettings) -> AsyncIterator[GremlinClient]:
    client = make_client(settings)
    yield client
    await client.close()


@pytest.fixture
def graph(client: GremlinClient) -> Graph:
    return Graph(client)


@pytest.fixture
def unique() -> str:
    """A prefix of ids that no other test has: the server's graph is shared."""
    return uuid.uuid4().hex[:12] + "-"


class Graph:
    """Reads the graph for the assertions."""

    def __init__(self, client: GremlinClient) -> None:
        self._client = client

    async def vertex(self, entity_type: str, entity_id: str, source: str = "g") -> dict[str, Any] | None:
        """The one vertex of an entity, with its label as `label`, or None."""
        script = f"{source}.V().has('entity_key', entityKey).union(label(), valueMap().by(unfold())).fold().toList()"
        found = await self._client.submit(script, {"entityKey": f"{entity_type}:{entity_id}"})
        if not found[0]:
            return None
        label, values = found[0]
        return {"label": label, **values}

    async def edges(self, entity_type: str, entity_id: str, source: str = "g") -> list[tuple[str, str, dict[str, Any]]]:
        """An entity's own edges, in order: label, key of the target, properties."""
        script = (
            f"{source}.V().has('entity_key', entityKey).outE()"
            ".project('label', 'target', 'properties')"
            ".by(label()).by(inV().values('entity_key')).by(valueMap()).toList()"
        )
        found = await self._client.submit(script, {"entityKey": f"{entity_type}:{entity_id}"})
        edges = [(edge["label"], edge["target"], edge["properties"]) for edge in found]
        return sorted(edges, key=repr)

    async def keys_by_full_scan(self, prefix: str) -> list[str]:
        """The key of every vertex whose id starts so; no index serves this, so ghosts that an index hides show up."""
        script = "g.V().has('entity_id', TextP.startingWith(prefix)).values('entity_key').toList()"
        return sorted(await self._client.submit(script, {"prefix": prefix}))

    async def scan(self, prefix: str) -> list[tuple[str, int | None, str | None, list[tuple[str, str, str]]]]:
        """Every vertex whose id starts so, by a full scan: key, version, hash, own edges as label, target, role.

        Version and hash of the content are None on an endpoint that has not arrived.
        """
        script = (
            "g.V().has('entity_id', TextP.startingWith(prefix)).project('key', 'state', 'edges')"
            ".by('entity_key').by(valueMap('version', 'content_hash').by(unfold()))"
            ".by(outE().project('label', 'target', 'role').by(label()).by(inV().values('entity_key'))"
            ".by(coalesce(values('role'), constant(''))).fold()).toList()"
        )
        return sorted(
            (
                found["key"],
                found["state"].get("version"),
                found["state"].get("content_hash"),
                sorted((edge["label"], edge["target"], edge["role"]) for edge in found["edges"]),
            )
            for found in await self._client.submit(script, {"prefix": prefix})
        )


def event(
    entity_type: EntityType,
    entity_id: str,
    payload: dict[str, Any] | None = None,
    version: int = 1,
    event_type: EventType = EventType.UPDATE,
) -> EntityEvent:
    """An event as a consumer sees it: it has been on the wire."""
    made = create_event(entity_type, entity_id, payload, version=version, event_type=event_type, source="test")
    return decode_event(encode_event(made))


def deleted(entity_type: EntityType, entity_id: str, version: int) -> EntityEvent:
    return event(entity_type, entity_id, None, version, EventType.DELETE)


class Rivals:
    """Writers that write the same accounts and their owners at random versions, all at once.

    Every account points to persons; of those some get events of their own meanwhile, others stay endpoints that have
    not arrived. What the graph has to hold in the end follows from the highest version of each entity alone.
    """

    def __init__(self, unique: str, *, writers: int = 8, batches: int = 6) -> None:
        self._unique = unique
        self._random = random.Random(7)
        self._newest: dict[str, EntityEvent] = {}
        self.work = [[self._batch() for _ in range(batches)] for _ in range(writers)]

    async def write(self, settings: Sequence[GraphSettings]) -> Counter[Status]:
        """Write everything, each writer with settings of its own, taken in turn; what became of the events."""
        counted = await asyncio.gather(
            *(self._write(settings[writer % len(settings)], batches) for writer, batches in enumerate(self.work))
        )
        return sum(counted, Counter[Status]())

    def expected(self) -> list[tuple[str, int | None, str | None, list[tuple[str, str, str]]]]:
        """What a full scan has to show."""
        held: dict[str, tuple[int | None, str | None, list[tuple[str, str, str]]]] = {}
        for key, made in self._newest.items():
            edges = []
            if made.entity_type is ACCOUNT:
                owners = [(made.payload["owner_id"], "owner")]
                owners += [(owner["owner_id"], "joint") for owner in made.payload["joint_owners"]]
                edges = sorted(("owned_by", f"person:{owner}", role) for owner, role in owners)
            held[key] = (made.version, content_hash(made), edges)
        for batches in self.work:
            for made in (made for batch in batches for made in batch if made.entity_type is ACCOUNT):
                for owner in [made.payload["owner_id"], *(owner["owner_id"] for owner in made.payload["joint_owners"])]:
                    held.setdefault(f"person:{owner}", (None, None, []))
        return sorted((key, *state) for key, state in held.items())

    def _batch(self) -> list[EntityEvent]:
        batch = []
        for number in self._random.sample(range(25), 15):
            joint = [
                {"owner_id": self._person(owner), "owner_type": "person"}
                for owner in self._random.sample(range(12), self._random.randrange(4))
            ]
            owner = self._person(self._random.randrange(12))
            payload = {"owner_id": owner, "owner_type": "person", "joint_owners": joint}
            batch.append(self._event(ACCOUNT, f"{self._unique}a{number}", payload))
        batch += [
            self._event(PERSON, self._person(number), {"name": "Ann"}) for number in self._random.sample(range(8), 4)
        ]
        self._random.shuffle(batch)
        return batch

    def _person(self, number: int) -> str:
        return f"{self._unique}p{number}"

    def _event(self, entity_type: EntityType, entity_id: str, payload: dict[str, Any]) -> EntityEvent:
        version = self._random.randrange(1_000_000)
        made = event(entity_type, entity_id, payload | {"status": str(version)}, version)
        key = f"{entity_type}:{entity_id}"
        if key not in self._newest or version > self._newest[key].version:
            self._newest[key] = made
        return made

    @staticmethod
    async def _write(settings: GraphSettings, batches: list[list[EntityEvent]]) -> Counter[Status]:
        """Write as the consumer loop does: again while the store is away, with its health query in between."""
        counted: Counter[Status] = Counter()
        sink = GraphSink(settings)
        for batch in batches:
            while True:
                try:
                    outcomes = await sink.write(batch)
                except SinkUnavailableError:
                    await asyncio.sleep(0.5)
                    with contextlib.suppress(SinkUnavailableError):
                        await sink.check()
                else:
                    if all(outcome.status is not Status.RETRY for outcome in outcomes):
                        break
            counted.update(outcome.status for outcome in outcomes)
        await sink.close()
        return counted
