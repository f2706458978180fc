"""The vector leg's sink: one document per entity in OpenSearch, at its newest version."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog

from banking.streaming.events import EventType
from banking.streaming.payloads import InvalidPayloadError, check_payload
from banking.streaming.sink import (
    BatchFailedError,
    IncompatibleStoreError,
    Leg,
    Outcome,
    RejectionReason,
    SinkUnavailableError,
    rejected,
    retry,
)
from vector_consumer.bulk import send_bulk, split
from vector_consumer.client import connect, store_errors
from vector_consumer.documents import encode_document
from vector_consumer.embedder import make_embedder
from vector_consumer.mappings import define_indices, ensure_index, serving_names
from vector_consumer.outcomes import lacks_place, outcome_of
from vector_consumer.purge import purge_tombstones

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from opensearchpy import AsyncOpenSearch

    from banking.streaming.entities import EntityType
    from banking.streaming.events import EntityEvent
    from vector_consumer.embedder import Embedder, Vector
    from vector_consumer.settings import VectorSettings

log = structlog.get_logger(__name__)

_CHECK_SECONDS = 5.0


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

    Writes go to the index that serves the type's alias. It is looked up anew at every health query, and at once when an
    index is gone or takes no writes: that is how a leg follows a reindex. An index of another model or mapping is
    refused when the sink opens; when it comes to serve later on, the leg pauses.

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
        """
        client = self._connected()
        with store_errors():
            serving = await serving_names(client, self._definitions)
        await self._follow([name for name in self._definitions if serving[name] != self._indices.get(name)])
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
        blocked = _write_blocks(state.get("blocks", {}), frozenset(self._indices.values()))
        if blocked:
            raise SinkUnavailableError(blocked)
        red = [name for name, index in health.get("indices", {}).items() if index["status"] == "red"]
        if red:
            raise SinkUnavailableError(f"OpenSearch: no active primary shard of {', '.join(red)}")

    async def write(self, events: Sequence[EntityEvent]) -> Sequence[Outcome]:
        """Write events in as many requests as their size needs; one outcome per event, in order.

        Raises:
            SinkUnavailableError: The store is away, or an index serves that this service must not write to.
            BatchFailedError: The store refused a request as a whole.
        """
        vectors = await self._embed(events)
        outcomes, rows = await asyncio.to_thread(self._encode, events, vectors)
        displaced = await self._send(rows, outcomes)
        if displaced:
            await self._follow(sorted({row.event.entity_type for row in displaced}))
            _, rows = await asyncio.to_thread(self._encode, events, vectors)
            again = frozenset(row.position for row in displaced)
            await self._send([row for row in rows if row.position in again], outcomes)
        return outcomes

    async def purge_tombstones(self, before: datetime) -> int:
        """Remove the tombstones that were written before a moment; how many those were.

        See `banking.streaming.leg.TombstonePurger` and `vector_consumer.purge`.
        """
        return await purge_tombstones(self._connected(), self._settings, self._definitions, before)

    async def close(self) -> None:
        """Close the connections."""
        await self._embedder.close()
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _connected(self) -> AsyncOpenSearch:
        if self._client is None:
            raise SinkUnavailableError("OpenSearch: not connected yet")
        return self._client

    async def _follow(self, entity_types: Sequence[EntityType]) -> None:
        """Look up anew which indices serve, and make those that are gone.

        Raises:
            SinkUnavailableError: The store is away, or another model's index serves: the events wait for a service that
                may write to it.
        """
        before = dict(self._indices)
        try:
            await self._ensure(entity_types)
        except IncompatibleStoreError as error:
            raise SinkUnavailableError(str(error)) from error
        for entity_type in entity_types:
            if self._indices[entity_type] != before.get(entity_type):
                log.info("another index serves", before=before.get(entity_type), now=self._indices[entity_type])

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
            try:
                check_payload(event.entity_type, event.payload)
                lines = encode_document(event, self._indices[event.entity_type], vectors.get(position), now)
            except InvalidPayloadError as invalid:
                outcomes[position] = rejected(invalid.reason, str(invalid))
            except (ValueError, TypeError, RecursionError) as error:
                problem = f"payload: cannot be written as JSON: {type(error).__name__}"
                outcomes[position] = rejected(RejectionReason.INVALID_FIELD, problem)
            else:
                rows.append(Row(position, event, lines))
        return outcomes, rows

    async def _send(self, rows: Sequence[Row], outcomes: list[Outcome]) -> list[Row]:
        """Send rows, note their outcomes, and give back those whose index is gone or takes no writes."""
        client = self._connected()
        displaced: list[Row] = []
        for part in split(rows, self._settings.bulk_max_documents, self._settings.bulk_max_bytes):
            items = await send_bulk(client, self._settings, part)
            for row, item in zip(part, items, strict=True):
                outcomes[row.position] = outcome_of(row.event.entity_type, item)
                if lacks_place(item):
                    displaced.append(row)
        return displaced


def _write_blocks(blocks: dict[str, Any], names: frozenset[str]) -> str:
    """What keeps the cluster or one of these indices from taking writes; empty when nothing does.

    The server tells of all blocked indices, also of others that nobody writes to.
    """
    indices = {name: held for name, held in blocks.get("indices", {}).items() if name in names}
    owners = {"the cluster": blocks.get("global", {}), **indices}
    found = [
        f"{owner} is blocked: {block['description']}"
        for owner, held in owners.items()
        for block in held.values()
        if "write" in block["levels"]
    ]
    return "OpenSearch: " + "; ".join(found) if found else ""
