"""Copying what was written to one index into another, as that one wants its documents."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from banking.streaming.sink import BatchFailedError, SinkUnavailableError, Status
from vector_consumer.bulk import send_bulk, split
from vector_consumer.client import store_errors
from vector_consumer.documents import encode_document
from vector_consumer.mappings import EMBEDDING_FIELD, REBUILD
from vector_consumer.outcomes import outcome_of
from vector_consumer.snapshot import checkpoints, open_snapshot
from vector_consumer.stored import read_stored

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from opensearchpy import AsyncOpenSearch

    from vector_consumer.embedder import Embedder, Vector
    from vector_consumer.mappings import HeldIndex, IndexDefinition
    from vector_consumer.settings import VectorSettings
    from vector_consumer.snapshot import Snapshot
    from vector_consumer.stored import StoredDocument

NOT_BEGUN = -1
"""The watermark of a shard of which nothing is copied: sequence numbers begin with 0."""

_PART_DOCUMENTS = 500
_PARTS_IN_FLIGHT = 2
_MOST_REFUSALS = 100

Answer = TypeVar("Answer")
Other = TypeVar("Other")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one index is.

    Attributes:
        source: The index that is read.
        target: The one that is built.
        done: Documents copied in this pass.
        total: Documents of this pass.
    """

    source: str
    target: str
    done: int
    total: int


class Note(msgspec.Struct, kw_only=True):
    """What an unfinished index says of itself, so that any later run can go on with it.

    Attributes:
        source: The index that it is made of.
        source_uuid: Tells that one from another of its name.
        definition: A hash of the settings and mappings that it is made with.
        watermarks: Per shard of the source the sequence number up to which every write is in it.
        saved_at: When this was written.
    """

    source: str
    source_uuid: str
    definition: str
    watermarks: list[int]
    saved_at: datetime


@dataclass(slots=True)
class Move:
    """One index on its way into another.

    Attributes:
        definition: How the new one is made.
        source: The old one.
        target: The new one.
        watermarks: See `Note`.
        copied: Documents copied in this pass.
        total: Documents of this pass.
        refused: Documents that the new index refuses: id and why.
    """

    definition: IndexDefinition
    source: HeldIndex
    target: HeldIndex
    watermarks: list[int]
    copied: int = 0
    total: int = 0
    refused: list[str] = field(default_factory=list)

    @property
    def keeps_vectors(self) -> bool:
        """Whether the vectors that are there are the new model's own."""
        return all(self.source.meta.get(name) == self.definition.meta[name] for name in ("model", "dimension"))

    def meta(self) -> dict[str, Any]:
        """The `_meta` of the new index while it is built."""
        return unfinished_meta(self.definition, self.source, self.watermarks)


@dataclass(frozen=True, slots=True)
class CopiedRow:
    """One document on its way into the new index: whose it is and its two lines."""

    entity_id: str
    lines: bytes


class Copier:
    """Copies documents: under their versions, mapped anew, and embedded anew where the model is another.

    Args:
        client: The store's client.
        settings: How to write.
        embedder: The new indices' model.
        show: Told how far it is.
        rate: Documents a second at most; None copies as fast as it can.
    """

    def __init__(
        self,
        client: AsyncOpenSearch,
        settings: VectorSettings,
        embedder: Embedder,
        show: Callable[[Progress], None],
        rate: float | None,
    ) -> None:
        self._client = client
        self._settings = settings
        self._embedder = embedder
        self._show = show
        self._rate = rate

    async def copy(self, move: Move, *, at_rest: bool = False) -> None:
        """Copy every document that was written since the watermarks, and raise them. Repeated, it goes on.

        What the new index refuses is noted in the move; the watermarks then stay before it.

        Args:
            move: From where to where.
            at_rest: Whether the old index takes no writes any more: then nothing is left when this returns.

        Raises:
            SinkUnavailableError: The store is away or busy.
            LookupError: One of the indices is another one by now.
        """
        move.refused.clear()
        await self._check_target(move.target)
        numbers = await checkpoints(self._client, move.source, at_rest=at_rest)
        with store_errors():
            await self._client.indices.refresh(index=move.source.name)
        for shard, upto in enumerate(numbers):
            if move.watermarks[shard] < upto:
                async with open_snapshot(self._client, move.source.name, shard) as snapshot:
                    await self._copy_shard(move, snapshot, shard, upto, None if at_rest else self._rate)

    async def _check_target(self, target: HeldIndex) -> None:
        with store_errors():
            found = await self._client.indices.get_settings(
                index=target.name, name="index.uuid", params={"ignore_unavailable": "true"}
            )
        if found.get(target.name, {}).get("settings", {}).get("index", {}).get("uuid") != target.uuid:
            raise LookupError(f"index {target.name}: somebody removed it or put another in its place")

    async def _copy_shard(self, move: Move, snapshot: Snapshot, shard: int, upto: int, rate: float | None) -> None:
        excludes = [] if move.keeps_vectors else [EMBEDDING_FIELD]
        after = move.watermarks[shard]
        started, before = time.monotonic(), move.copied
        move.total = move.copied + await snapshot.count(after, upto)
        page = await snapshot.read(after, upto, excludes)
        while page is not None:
            following, rows = await _both(snapshot.read(page.upto, upto, excludes), self._write(move, page.sources))
            if rows:
                average = sum(len(row.lines) for row in rows) // len(rows)
                fitting = self._settings.bulk_max_bytes // max(1, average)
                snapshot.page_size = max(1, min(_PART_DOCUMENTS * _PARTS_IN_FLIGHT, fitting))
            if len(move.refused) >= _MOST_REFUSALS:
                return
            if not move.refused:
                move.watermarks[shard] = page.upto
            move.copied += len(page.sources)
            self._show(Progress(move.source.name, move.target.name, move.copied, move.total))
            page = following
            if rate is not None:
                await asyncio.sleep(max(0.0, started + (move.copied - before) / rate - time.monotonic()))

    async def _write(self, move: Move, sources: list[dict[str, Any]]) -> list[CopiedRow]:
        """Write documents as the new index wants them; what was sent."""
        documents = await asyncio.to_thread(_read, move, sources)
        vectors = await self._vectors(move, documents)
        rows = await asyncio.to_thread(_encode, move, documents, vectors)
        free = asyncio.Semaphore(_PARTS_IN_FLIGHT)

        async def send(part: list[CopiedRow]) -> None:
            async with free:
                await self._send(move, part)

        await in_order([send(part) for part in split(rows, _PART_DOCUMENTS, self._settings.bulk_max_bytes)])
        return rows

    async def _vectors(self, move: Move, documents: Sequence[StoredDocument]) -> dict[str, Vector | None]:
        if move.keeps_vectors:
            return {document.entity_id: document.vector for document in documents}
        texts = {document.entity_id: document.text for document in documents if document.text}
        return await self._embed(move, texts) if texts else {}

    async def _embed(self, move: Move, texts: Mapping[str, str]) -> dict[str, Vector | None]:
        """The vector of every text; one that the model refuses is found by halving, and so is its document."""
        try:
            return dict(zip(texts, await self._embedder.embed(list(texts.values())), strict=True))
        except BatchFailedError as error:
            if len(texts) == 1:
                move.refused.extend(f"{entity_id}: {error}" for entity_id in texts)
                return {}
        entries = list(texts.items())
        middle = len(entries) // 2
        return {
            **await self._embed(move, dict(entries[:middle])),
            **await self._embed(move, dict(entries[middle:])),
        }

    async def _send(self, move: Move, rows: Sequence[CopiedRow]) -> None:
        items = await send_bulk(self._client, self._settings, rows)
        for row, item in zip(rows, items, strict=True):
            outcome = outcome_of(move.definition.entity_type, item)
            if outcome.status is Status.RETRY:
                raise SinkUnavailableError(f"index {move.target.name}: {outcome.detail}")
            if outcome.status is Status.REJECTED:
                move.refused.append(f"{row.entity_id}: {outcome.detail}")


def unfinished_meta(definition: IndexDefinition, source: HeldIndex, watermarks: list[int]) -> dict[str, Any]:
    """The `_meta` of an index that is being built, with its note."""
    note = Note(
        source=source.name,
        source_uuid=source.uuid,
        definition=digest_of(definition),
        watermarks=watermarks,
        saved_at=datetime.now(UTC),
    )
    return definition.meta | {REBUILD: msgspec.to_builtins(note)}


def digest_of(definition: IndexDefinition) -> str:
    """A hash of what an index is made with."""
    encoded = msgspec.json.encode(definition.body, order="sorted")
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()


async def in_order(steps: Sequence[Awaitable[Answer]]) -> list[Answer]:
    """The results of steps that are done at once, in order; where one fails, the others are waited for all the same."""
    results: list[Answer] = []
    for result in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results


async def _both(first: Coroutine[Any, Any, Answer], second: Coroutine[Any, Any, Other]) -> tuple[Answer, Other]:
    one, other = asyncio.ensure_future(first), asyncio.ensure_future(second)
    await asyncio.gather(one, other, return_exceptions=True)
    return one.result(), other.result()


def _read(move: Move, sources: Sequence[dict[str, Any]]) -> list[StoredDocument]:
    documents: list[StoredDocument] = []
    for source in sources:
        try:
            documents.append(read_stored(source))
        except ValueError as error:
            move.refused.append(f"{source.get('entity_id', 'a document without entity_id')}: {error}")
    return documents


def _encode(move: Move, documents: Sequence[StoredDocument], vectors: dict[str, Vector | None]) -> list[CopiedRow]:
    rows: list[CopiedRow] = []
    for document in documents:
        vector = vectors.get(document.entity_id)
        lines = encode_document(
            document.to_event(), move.target.name, vector, document.deleted_at, document.content_hash
        )
        rows.append(CopiedRow(document.entity_id, lines))
    return rows
