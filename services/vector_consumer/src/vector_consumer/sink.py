"""The vector leg's sink: one document per entity in OpenSearch, at its newest version."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog

from banking.streaming.events import EventType
from banking.streaming.sink import (
    BatchFailedError,
    Leg,
    Outcome,
    RejectionReason,
    SinkUnavailableError,
    rejected,
    retry,
)
from vector_consumer.client import connect, store_errors
from vector_consumer.documents import encode_document, find_invalid_field
from vector_consumer.embedder import make_embedder
from vector_consumer.mappings import define_indices, ensure_index
from vector_consumer.outcomes import lacks_index, outcome_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from opensearchpy import AsyncOpenSearch

    from banking.streaming.entities import EntityType
    from banking.streaming.events import EntityEvent
    from vector_consumer.embedder import Embedder, Vector
    from vector_consumer.settings import VectorSettings

log = structlog.get_logger(__name__)

_CHECK_SECONDS = 5.0
_GZIP_LEVEL = 1
_ANSWER_PARTS = "errors,items.*.status,items.*.error.type,items.*.error.reason"


@dataclass(frozen=True, slots=True)
class Row:
    """One event on its way into the store: its place in the batch and its two lines."""

    position: int
    event: EntityEvent
    lines: bytes


class VectorSink:
    """Writes events to OpenSearch; see `banking.streaming.sink.Sink`.

    Every document carries its event's version as an external version, so that an older one never replaces a newer one
    whatever arrives in which order. A delete is a document too.

    Args:
        settings: Where the store is and how to write to it.
        embedder: What embeds texts; None makes what the settings choose.
        now: The time, in UTC.
    """

    leg = Leg.VECTOR

    def __init__(
        self,
        settings: VectorSettings,
        embedder: Embedder | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._embedder = embedder or make_embedder(settings)
        self._now = now
        self._definitions = define_indices(settings, self._embedder)
        self._indices: dict[EntityType, str] = {}
        self._ensuring = asyncio.Lock()
        self._client: AsyncOpenSearch | None = None

    async def open(self) -> None:
        """Load the model, connect, and make or check the indices.

        Raises:
            SinkUnavailableError: The store is not there yet.
            IncompatibleStoreError: An index is there that this service must not write to.
        """
        await self._embedder.open()
        if self._client is None:
            self._client = connect(self._settings)
        await self._ensure(self._definitions)

    async def check(self) -> None:
        """Ask whether every index has its primary shards and takes writes; one that was removed is made again.

        Raises:
            SinkUnavailableError: The message says what is missing.
            IncompatibleStoreError: See `open`.
        """
        client = self._connected()
        names = ",".join(self._indices.values())
        with store_errors():
            state = await client.cluster.state(
                metric="blocks",
                index=names,
                params={"ignore_unavailable": "true", "allow_no_indices": "true"},
                request_timeout=_CHECK_SECONDS,
            )
            health = await client.cluster.health(
                index=names,
                # 408 is the answer for an index that is not there; its body says so too.
                params={"level": "indices", "timeout": "0s", "ignore": 408},
                request_timeout=_CHECK_SECONDS,
            )
        blocked = _write_blocks(state.get("blocks", {}))
        if blocked:
            raise SinkUnavailableError(blocked)
        found = health.get("indices", {})
        red = [name for name, index in found.items() if index["status"] == "red"]
        if red:
            raise SinkUnavailableError(f"OpenSearch: no active primary shard of {', '.join(red)}")
        await self._make_again([entity_type for entity_type, name in self._indices.items() if name not in found])

    async def write(self, events: Sequence[EntityEvent]) -> Sequence[Outcome]:
        """Write events in as many requests as their size needs; one outcome per event, in order.

        Raises:
            SinkUnavailableError: The store is away.
            BatchFailedError: The store refused a request as a whole.
        """
        vectors = await self._embed(events)
        outcomes, rows = await asyncio.to_thread(self._encode, events, vectors)
        missing = await self._send(rows, outcomes)
        if missing:
            await self._make_again(sorted({row.event.entity_type for row in missing}))
            _, again = await asyncio.to_thread(self._encode, events, vectors)
            lost = {row.position for row in missing}
            await self._send([row for row in again if row.position in lost], outcomes)
        return outcomes

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _connected(self) -> AsyncOpenSearch:
        if self._client is None:
            raise SinkUnavailableError("OpenSearch: not connected yet")
        return self._client

    async def _make_again(self, entity_types: Sequence[EntityType]) -> None:
        """Make indices that somebody removed: what they held is gone, what comes is kept."""
        if entity_types:
            log.warning("indices are missing and are made again", entity_types=[str(name) for name in entity_types])
            await self._ensure(entity_types)

    async def _ensure(self, entity_types: Iterable[EntityType]) -> None:
        client = self._connected()
        async with self._ensuring:
            for entity_type in entity_types:
                definition = self._definitions[entity_type]
                try:
                    with store_errors():
                        self._indices[entity_type] = await ensure_index(client, definition)
                except BatchFailedError as error:
                    # No event is to blame for an index that cannot be made, such as one too many on the cluster.
                    raise SinkUnavailableError(f"index {definition.alias}: {error}") from error

    async def _embed(self, events: Sequence[EntityEvent]) -> dict[int, Vector | None]:
        """The vector of every event that has a text, by its position."""
        texts = {
            position: event.text_for_embedding
            for position, event in enumerate(events)
            if event.text_for_embedding and event.event_type is not EventType.DELETE
        }
        if not texts:
            return {}
        vectors = await self._embedder.embed(list(texts.values()))
        return dict(zip(texts, vectors, strict=True))

    def _encode(
        self, events: Sequence[EntityEvent], vectors: dict[int, Vector | None]
    ) -> tuple[list[Outcome], list[Row]]:
        """The rows to send, and the outcomes, final for events that are not sent."""
        now = self._now()
        outcomes = [retry("not sent")] * len(events)
        rows: list[Row] = []
        for position, event in enumerate(events):
            problem = find_invalid_field(event)
            if problem is None:
                try:
                    lines = encode_document(event, self._indices[event.entity_type], vectors.get(position), now)
                except (ValueError, TypeError, RecursionError) as error:
                    problem = f"payload: cannot be written as JSON: {type(error).__name__}"
                else:
                    rows.append(Row(position, event, lines))
                    continue
            outcomes[position] = rejected(RejectionReason.INVALID_FIELD, problem)
        return outcomes, rows

    async def _send(self, rows: Sequence[Row], outcomes: list[Outcome]) -> list[Row]:
        """Send rows, note their outcomes, and give back those whose index is not there."""
        missing: list[Row] = []
        for part in split(rows, self._settings.bulk_max_documents, self._settings.bulk_max_bytes):
            items = await self._bulk([row.lines for row in part])
            for row, item in zip(part, items, strict=True):
                outcomes[row.position] = outcome_of(row.event.entity_type, item)
                if lacks_index(item):
                    missing.append(row)
        return missing

    async def _bulk(self, lines: list[bytes]) -> list[dict[str, Any]]:
        """Send one request; the answer to each of its documents."""
        client = self._connected()
        body = b"".join(lines)
        patience = self._settings.opensearch_request_timeout_seconds
        query = {
            "filter_path": _ANSWER_PARTS,
            "request_timeout": patience,  # kept by the client, which would otherwise take `timeout` for itself
            "timeout": f"{patience / 2 * 1000:.0f}ms",  # the server gives up first: its answer says why
        }
        with store_errors():
            if self._settings.opensearch_gzip:
                # `client.bulk` would add a line break to what is compressed already.
                compressed = await asyncio.to_thread(gzip.compress, body, _GZIP_LEVEL)
                answer = await client.transport.perform_request(
                    "POST", "/_bulk", params=query, body=compressed, headers={"content-encoding": "gzip"}
                )
            else:
                answer = await client.bulk(body=body, params=query)
        items = [next(iter(item.values())) for item in answer.get("items", ())]
        if len(items) != len(lines):
            raise SinkUnavailableError(f"OpenSearch answered for {len(items)} of {len(lines)} documents")
        return items


def split(rows: Sequence[Row], max_documents: int, max_bytes: int) -> Iterator[list[Row]]:
    """Cut rows into requests, in order; a row larger than a request may be goes alone."""
    part: list[Row] = []
    size = 0
    for row in rows:
        if part and (len(part) == max_documents or size + len(row.lines) > max_bytes):
            yield part
            part, size = [], 0
        part.append(row)
        size += len(row.lines)
    if part:
        yield part


def _write_blocks(blocks: dict[str, Any]) -> str:
    """What keeps the cluster or an index from taking writes; empty when nothing does."""
    owners = {"the cluster": blocks.get("global", {}), **blocks.get("indices", {})}
    found = [
        f"{owner} is blocked: {block['description']}"
        for owner, held in owners.items()
        for block in held.values()
        if "write" in block["levels"]
    ]
    return "OpenSearch: " + "; ".join(found) if found else ""
