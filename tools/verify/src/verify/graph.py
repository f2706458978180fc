"""JanusGraph, read through the audit class of its init script."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from banking.streaming.entities import EntityType
from banking.streaming.payloads import InvalidPayloadError
from banking.streaming.sink import Leg
from graph_consumer.asking import submit_again
from graph_consumer.gremlin import GremlinError
from graph_consumer.model import build_model
from graph_consumer.rows import to_row
from graph_consumer.servers import connect_all
from verify.entities import UNKNOWN_TYPE, Held, Key, hash_of
from verify.stores import UnreadableStoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    from banking.streaming.events import EntityEvent
    from graph_consumer.gremlin import GremlinClient
    from graph_consumer.settings import GraphSettings

_PAGE_KEYS = 2000
_CHUNK = 200
_ATTEMPTS = 12

_encode = msgspec.json.Encoder(order="sorted").encode
_TYPES = frozenset(EntityType)
_CLASSES: dict[str, str] = build_model()["properties"]
_NOT_PUBLISHED = frozenset({"version", "content_hash", "deleted", "deleted_at", "deleted_on"})
"""Properties that are compared otherwise, or that say when something was written."""


class _Rows(msgspec.Struct):
    """What `audit.page` and `audit.look` answer; see `config/janusgraph/fleet/GraphAudit.groovy`."""

    rows: list[tuple[str, str | None, int | None, str | None, bool, bool, dict[str, Any] | None, list[Any] | None]]
    after: str | None = None


class GraphStore:
    """The graph.

    Args:
        settings: Where its servers are.
        contents: Whether what a vertex holds is read too, its edges included, and not its hash alone.
    """

    leg = Leg.GRAPH

    def __init__(self, settings: GraphSettings, *, contents: bool = False) -> None:
        self._servers = connect_all(settings)
        self._contents = contents

    async def scan(self) -> AsyncIterator[Sequence[tuple[Key, Held]]]:
        """Every vertex, a page at a time."""
        after: str | None = None
        while True:
            answer = await self._ask("audit.page", {"after": after, "limit": _PAGE_KEYS})
            page = msgspec.json.decode(answer, type=_Rows)
            yield [_held(row) for row in page.rows]
            after = page.after
            if after is None:
                return

    async def look(self, keys: Sequence[Key], places: Sequence[str]) -> Sequence[tuple[Key, Held]]:
        """What the index leads to, and what stands at these vertex ids."""
        wanted = [f"{key.entity_type}:{key.entity_id}" for key in keys if key.entity_type != UNKNOWN_TYPE]
        found: dict[str, tuple[Key, Held]] = {}
        for start in range(0, max(len(wanted), len(places)), _CHUNK):
            part = {"keys": wanted[start : start + _CHUNK], "ids": list(places[start : start + _CHUNK])}
            answer = await self._ask("audit.look", part)
            for row in msgspec.json.decode(answer, type=_Rows).rows:
                found[row[0]] = _held(row)
        return list(found.values())

    async def remove_stubs(self, keys: Sequence[Key]) -> int:
        """Remove those that are no more than an identity to which no edge leads; how many those were."""
        removed = 0
        stubs = [f"{key.entity_type}:{key.entity_id}" for key in keys]
        for server, names in self._servers.by_writer(stubs).items():
            for start in range(0, len(names), _CHUNK):
                request = _text({"keys": names[start : start + _CHUNK]})
                removed += await self._submit(server, "audit.removeStubs(request)", {"request": request})
        return removed

    async def close(self) -> None:
        """Close the connections."""
        await self._servers.close()

    async def _ask(self, method: str, query: dict[str, Any]) -> str:
        query["whole"] = self._contents
        answer: str = await self._submit(self._servers.reader(), f"{method}(query)", {"query": _text(query)})
        return answer

    async def _submit(self, server: GremlinClient, script: str, bindings: dict[str, str]) -> Any:
        """The one result of a script; again, after a moment, when a writer was in its way."""
        try:
            results = await submit_again(server, script, bindings, attempts=_ATTEMPTS)
        except GremlinError as error:
            raise UnreadableStoreError(f"JanusGraph: {error}") from error
        return results[0]


def state_of(event: EntityEvent, now: datetime) -> bytes:
    """The hash of what a vertex has to hold of an event; empty where the graph cannot hold it."""
    try:
        row = to_row(event, now)
    except InvalidPayloadError:
        return b""
    edges = [
        (edge.label, f"{edge.target_type.value}:{edge.target_id}", _comparable(edge.properties)) for edge in row.edges
    ]
    return _digest(row.state, edges)


def _held(row: Any) -> tuple[Key, Held]:
    place, name, version, content, deleted, referred, state, edges = row
    found = b""
    if version is not None and state is not None and edges is not None:
        found = _digest(state, [(label, target, _comparable(properties)) for label, target, properties in edges])
    held = Held(place, version, deleted, hash_of(content), found, referred)
    return _key(place, name), held


def _key(place: str, name: str | None) -> Key:
    entity_type, _, entity_id = (name or "").partition(":")
    return Key(entity_type, entity_id) if entity_type in _TYPES and entity_id else Key(UNKNOWN_TYPE, place)


def _digest(state: dict[str, Any], edges: list[tuple[str, str, dict[str, Any]]]) -> bytes:
    kept = {name: value for name, value in state.items() if name not in _NOT_PUBLISHED}
    content = (_comparable(kept), sorted(edges, key=_encode))
    return hashlib.blake2b(_encode(content), digest_size=16).digest()


def _comparable(values: dict[str, Any]) -> dict[str, Any]:
    """Numbers as the graph's classes have them: a row may say 5 where the vertex says 5.0."""
    return {name: float(value) if _CLASSES.get(name) == "Double" else value for name, value in values.items()}


def _text(value: dict[str, Any]) -> str:
    return _encode(value).decode()
