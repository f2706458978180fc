"""The JanusGraph servers that share one graph, and which of them writes what."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import structlog

from banking.streaming.topics import ordering_key
from graph_consumer.gremlin import Credentials, GremlinClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from graph_consumer.settings import GraphSettings

log = structlog.get_logger(__name__)


class GraphServers:
    """One client a server, in the order of `JANUSGRAPH_HOST`.

    An entity is written by the server that its bucket falls to, the bucket being its messages' ordering key. While that
    server is away the next one stands in for it. That is a preference and no guarantee: whoever is asked, a server
    writes what it holds the lease on, and another one's leases end some time after its last write
    (`config/janusgraph/fleet/BucketLeases.groovy`).
    """

    def __init__(self, clients: list[GremlinClient]) -> None:
        self._clients = clients
        self._away: set[GremlinClient] = set()

    def __iter__(self) -> Iterator[GremlinClient]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)

    def writer_of(self, entity_id: str) -> GremlinClient:
        """The server that writes an entity now."""
        first = int(ordering_key(entity_id)) % len(self._clients)
        in_turn = self._clients[first:] + self._clients[:first]
        return next((client for client in in_turn if client not in self._away), in_turn[0])

    def by_writer(self, keys: Sequence[str]) -> dict[GremlinClient, list[str]]:
        """Entity keys, `type:id`, by the server that writes them now."""
        grouped: dict[GremlinClient, list[str]] = {}
        for key in keys:
            _, _, entity_id = key.partition(":")
            grouped.setdefault(self.writer_of(entity_id), []).append(key)
        return grouped

    def reader(self) -> GremlinClient:
        """A server that answers questions about the whole graph."""
        return next((client for client in self._clients if client not in self._away), self._clients[0])

    def report(self, client: GremlinClient, problem: str | None) -> None:
        """Note that a server is away, and why, or that it is there."""
        if problem is None:
            if client in self._away:
                log.info("server is back", server=client.url)
            self._away.discard(client)
        elif client not in self._away:
            self._away.add(client)
            log.warning("server is away", server=client.url, problem=problem)

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            await client.close()


def connect_all(settings: GraphSettings) -> GraphServers:
    """Clients for the servers that the settings name; each connects when it is first used."""
    scheme = "wss" if settings.janusgraph_use_ssl else "ws"
    context = ssl.create_default_context(cafile=settings.janusgraph_ca_file) if settings.janusgraph_use_ssl else None
    return GraphServers(
        [
            GremlinClient(
                f"{scheme}://{host}:{port}/gremlin",
                credentials=_credentials(settings),
                ssl_context=context,
                connect_timeout_seconds=settings.janusgraph_connect_timeout_seconds,
                request_timeout_seconds=settings.janusgraph_request_timeout_seconds,
            )
            for host, port in settings.janusgraph_servers
        ]
    )


def make_client(settings: GraphSettings) -> GremlinClient:
    """A client for reading, by the first server that the settings name; it connects when it is first used."""
    return connect_all(settings).reader()


def _credentials(settings: GraphSettings) -> Callable[[], Credentials] | None:
    username, file = settings.janusgraph_username, settings.janusgraph_password_file
    if username is None or file is None:
        return None
    return lambda: Credentials(username, file.read_text().strip())
