"""Building indices anew while they serve and are written to, with another mapping or another model.

`docs/reindexing.md` says why nothing can be lost: every write to the old index has a sequence number, the numbers are
copied in order, and after the writes are stopped nothing comes behind the last one.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import msgspec

from banking.streaming.service import back_off, wait_for_stop
from banking.streaming.sink import SinkError, SinkUnavailableError
from vector_consumer.client import connect, store_errors
from vector_consumer.copying import NOT_BEGUN, Copier, Move, Note, Progress, digest_of, in_order, unfinished_meta
from vector_consumer.embedder import make_embedder
from vector_consumer.mappings import HIDE_TOMBSTONES, HeldIndex, define_indices, find_serving, held_indices

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType
    from typing import Self

    from opensearchpy import AsyncOpenSearch

    from banking.streaming.entities import EntityType
    from vector_consumer.embedder import Embedder
    from vector_consumer.mappings import IndexDefinition
    from vector_consumer.settings import VectorSettings

_FEW = 500
_MOST_PASSES = 10
_SHRINKING = 0.9
_SHOWN_REFUSALS = 20
_NOTE_SECONDS = 3.0
_QUIET_SECONDS = 20.0
_PATIENCE_SECONDS = 600.0
_BACK_OFF_BASE_SECONDS = 0.05
_BACK_OFF_MAX_SECONDS = 10.0

Step = ParamSpec("Step")
Answer = TypeVar("Answer")


class OldIndex(StrEnum):
    """What becomes of an index once another serves in its place."""

    KEEP = "keep"  # it stays, and takes no writes
    DROP = "drop"


class ReindexError(Exception):
    """A reindex that cannot go on; the message says why and what to do. What serves is what served before."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """An index that serves now.

    Attributes:
        alias: The name for readers.
        old: The index that served.
        new: The index that serves.
        documents: Entities in it.
        tombstones: Tombstones in it.
    """

    alias: str
    old: str
    new: str
    documents: int
    tombstones: int


@dataclass(frozen=True, slots=True)
class _Served:
    """A new index that serves; what is left is to end the work on it."""

    definition: IndexDefinition
    old: str
    new: str


class Reindexer:
    """Builds indices anew.

    Args:
        settings: Where the store is and how its indices are to be.
        embedder: The model that is to be; None makes what the settings choose.
        say: Told what happens, in sentences.
        show: Told how far it is.
        rate: Documents a second at most, until the writes are stopped; None copies as fast as it can.
    """

    def __init__(
        self,
        settings: VectorSettings,
        embedder: Embedder | None = None,
        *,
        say: Callable[[str], None] = lambda _sentence: None,
        show: Callable[[Progress], None] = lambda _progress: None,
        rate: float | None = None,
    ) -> None:
        self._embedder = embedder or make_embedder(settings)
        self._say = say
        self._definitions = define_indices(settings, self._embedder)
        self._client: AsyncOpenSearch = connect(settings)
        self._copier = Copier(self._client, settings, self._embedder, show, rate)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()
        await self._embedder.close()

    async def run(self, entity_types: Sequence[EntityType], old: OldIndex = OldIndex.KEEP) -> list[Rebuilt]:
        """Build the types' indices anew and let all of them serve at the same moment; goes on with what was begun.

        Raises:
            ReindexError: It cannot go on; the old indices serve and are written to.
            SinkError: The store stayed away, or refused a request. Run it again: it goes on.
            IncompatibleStoreError: Aliases are not as the fleet makes them.
        """
        await self._embedder.open()
        begun = [await self._patiently(self._begin, self._definitions[entity_type]) for entity_type in entity_types]
        moves = [move for move in begun if isinstance(move, Move)]
        stop = asyncio.Event()
        keeper = asyncio.create_task(self._keep_notes(moves, stop))
        try:
            for move in moves:
                await self._pass(move)
            await self._catch_up(moves)
            await self._switch(moves)
        finally:
            stop.set()
            await keeper
        served = [
            _Served(work.definition, work.source.name, work.target.name) if isinstance(work, Move) else work
            for work in begun
        ]
        return [await self._patiently(self._end, work, old) for work in served]

    async def abandon(self, entity_types: Sequence[EntityType]) -> list[str]:
        """Remove what was built of unfinished indices, and let the ones that serve take writes; what was removed.

        Raises:
            ReindexError: A run is under way.
            SinkError: The store is away.
            IncompatibleStoreError: Aliases are not as the fleet makes them.
        """
        definitions = [self._definitions[entity_type] for entity_type in entity_types]
        before = [index for definition in definitions for index in await self._unfinished(definition)]
        if before:
            await asyncio.sleep(_QUIET_SECONDS)
        unfinished = [index for definition in definitions for index in await self._unfinished(definition)]
        for index in unfinished:
            if index not in before:
                raise ReindexError(f"index {index.name}: a run is under way; stop it first")
        for index in unfinished:
            with store_errors():
                await self._client.indices.delete(index=index.name)
        for definition in definitions:
            serving = find_serving(await self._held(definition), definition)
            if serving is not None:
                await self._allow_writes([serving.name])
        return [index.name for index in unfinished]

    async def _begin(self, definition: IndexDefinition) -> Move | _Served:
        """Make the new index, or find how far it is."""
        held = await self._held(definition)
        serving = find_serving(held, definition)
        if serving is None:
            raise ReindexError(f"alias {definition.alias}: there is no index to build anew")
        for index in held:
            note = _note(index)
            if note is None:
                continue
            source = next((other for other in held if other.uuid == note.source_uuid), None)
            if note.definition == digest_of(definition):
                if source is not None and serving in (source, index):
                    # Where it serves already, the last steps are done again: none of them was confirmed.
                    self._say(f"{index.name}: going on where it was left")
                    return Move(definition, source, index, note.watermarks)
                if serving is index:
                    return _Served(definition, note.source, index.name)
            if index is not serving:
                raise ReindexError(
                    f"index {index.name}: it was begun with other settings or from another index; run again with "
                    "those, or give it up with --abandon"
                )
        name = f"{definition.alias}-v{max(index.number for index in held) + 1}"
        watermarks = [NOT_BEGUN] * serving.shards
        mappings = definition.body["mappings"] | {"_meta": unfinished_meta(definition, serving, watermarks)}
        # Nobody searches it yet.
        settings = {"index": definition.body["settings"]["index"] | {"refresh_interval": "-1"}}
        with store_errors():
            await self._client.indices.put_index_template(name=definition.alias, body=definition.template)
            await self._client.indices.create(index=name, body={"mappings": mappings, "settings": settings})
        made = [index for index in await self._held(definition) if index.name == name]
        if not made:
            raise ReindexError(f"index {name}: somebody removed it")
        return Move(definition, serving, made[0], watermarks)

    async def _end(self, served: _Served, old: OldIndex) -> Rebuilt:
        """What is left to do once the new index serves."""
        with store_errors():
            if old is OldIndex.DROP:
                await self._client.indices.delete(index=served.old, params={"ignore_unavailable": "true"})
        live, dead = await self._count(served.new)
        with store_errors():
            await self._client.indices.put_mapping(index=served.new, body={"_meta": served.definition.meta})
        return Rebuilt(served.definition.alias, served.old, served.new, live, dead)

    async def _catch_up(self, moves: Sequence[Move]) -> None:
        """Copy what was written meanwhile, again and again, until a pass would be short or passes shrink no more."""
        for move in moves:
            await self._patiently(self._make_searchable, move)
        before = float("inf")
        for _ in range(_MOST_PASSES):
            copied = sum([await self._pass(move) for move in moves])
            if copied <= _FEW or copied > _SHRINKING * before:
                return
            before = copied

    async def _make_searchable(self, move: Move) -> None:
        interval = move.definition.refresh_interval
        with store_errors():
            await self._client.indices.put_settings(
                index=move.target.name, body={"index": {"refresh_interval": interval}}
            )
            await self._client.indices.refresh(index=move.target.name)

    async def _pass(self, move: Move, *, at_rest: bool = False) -> int:
        """Copy every document that was written since the last pass; how many those were."""
        move.copied = move.total = 0
        try:
            await self._patiently(self._copier.copy, move, at_rest=at_rest)
        except LookupError as error:
            raise ReindexError(f"{error.args[0]}; give {move.target.name} up with --abandon") from error
        if move.refused:
            shown = "\n".join(f"  {line}" for line in move.refused[:_SHOWN_REFUSALS])
            raise ReindexError(
                f"index {move.target.name}: it refuses documents of {move.source.name}, so far {len(move.refused)}:\n"
                f"{shown}\n"
                "Publish newer versions that fit and run again, or give it up with --abandon and change the mapping"
            )
        return move.copied

    async def _switch(self, moves: Sequence[Move]) -> None:
        """Stop the writes, copy the last of them, and let the new indices serve."""
        if not moves:
            return
        sources = [move.source.name for move in moves]
        stopped = time.monotonic()
        try:
            await self._patiently(self._stop_writes, sources)
            self._say(f"writes wait: {', '.join(sources)}")
            await in_order([self._last_pass(move) for move in moves])
        except BaseException:
            await self._let_go_on(sources)
            raise
        # From here on nothing may be written to the old ones any more, whatever happens: an exchange that was asked for
        # and not answered may still come about.
        try:
            await self._patiently(self._exchange, moves)
        except BaseException:
            self._say("writes still wait: run again, or give up with --abandon")
            raise
        self._say(f"the new indices serve; writes waited for {time.monotonic() - stopped:.1f} s")

    async def _let_go_on(self, sources: Sequence[str]) -> None:
        try:
            await self._allow_writes(sources)
        except SinkError as error:
            self._say(f"writes still wait: run again, or give up with --abandon ({error})")
        else:
            self._say("the old indices take writes again")

    async def _last_pass(self, move: Move) -> None:
        await self._pass(move, at_rest=True)
        await self._patiently(self._compare, move)

    async def _compare(self, move: Move) -> None:
        """Count both, as long as nobody writes to the new one."""
        held = await self._held(move.definition)
        if any(index.name == move.target.name and move.definition.alias in index.aliases for index in held):
            return
        with store_errors():
            await self._client.indices.refresh(index=f"{move.source.name},{move.target.name}")
        (was, _), (live, _) = await self._count(move.source.name), await self._count(move.target.name)
        if was != live:
            raise ReindexError(
                f"index {move.target.name}: it holds {live} entities and {move.source.name} {was}, so somebody changed "
                "one of them by hand; give it up with --abandon and begin again"
            )

    async def _stop_writes(self, names: Sequence[str]) -> None:
        """Refuse writes from now on; when this returns, those that were under way are done.

        That is what the server promises for a block that it adds. Of one that was there before, left by a run that was
        killed, it says nothing: such a block is lifted and added again.
        """
        with store_errors():
            answer = await self._client.indices.add_block(index=",".join(names), block="write")
        blocked = {index["name"] for index in answer["indices"] if index["blocked"]}
        if not answer["shards_acknowledged"] or blocked != set(names):
            await self._allow_writes(names)
            raise SinkUnavailableError(f"OpenSearch has not stopped the writes to {', '.join(names)} yet")

    async def _allow_writes(self, names: Sequence[str]) -> None:
        with store_errors():
            await self._client.indices.put_settings(index=",".join(names), body={"index.blocks.write": None})

    async def _exchange(self, moves: Sequence[Move]) -> None:
        """Let every alias name its new index, all at once. Repeated, it does nothing."""
        actions: list[dict[str, Any]] = []
        for move in moves:
            alias = move.definition.alias
            held = await self._held(move.definition)
            if not any(index.uuid == move.target.uuid for index in held):
                raise ReindexError(f"index {move.target.name}: somebody removed it or put another in its place")
            for index in held:
                if index.name == move.target.name and alias not in index.aliases:
                    actions.append({"add": {"index": move.target.name, "alias": alias, "filter": HIDE_TOMBSTONES}})
                elif index.name != move.target.name and alias in index.aliases:
                    actions.append({"remove": {"index": index.name, "alias": alias}})
        if actions:
            with store_errors():
                await self._client.indices.update_aliases(body={"actions": actions})

    async def _held(self, definition: IndexDefinition) -> list[HeldIndex]:
        with store_errors():
            return await held_indices(self._client, definition)

    async def _unfinished(self, definition: IndexDefinition) -> list[HeldIndex]:
        held = await self._held(definition)
        return [index for index in held if index.rebuild is not None and definition.alias not in index.aliases]

    async def _count(self, index: str) -> tuple[int, int]:
        """Entities and tombstones of an index, as of its last refresh."""
        primary = {"preference": "_primary"}
        with store_errors():
            live = await self._client.count(index=index, body={"query": HIDE_TOMBSTONES}, params=primary)
            every = await self._client.count(index=index, params=primary)
        return live["count"], every["count"] - live["count"]

    async def _keep_notes(self, moves: Sequence[Move], stop: asyncio.Event) -> None:
        """Note down now and then how far each index is, which tells too that somebody is at it."""
        while not stop.is_set():
            for move in moves:
                # The next time will do: what is not noted is copied again.
                with suppress(SinkError), store_errors():
                    await self._client.indices.put_mapping(index=move.target.name, body={"_meta": move.meta()})
            await wait_for_stop(stop, _NOTE_SECONDS)

    async def _patiently(
        self, step: Callable[Step, Awaitable[Answer]], *arguments: Step.args, **options: Step.kwargs
    ) -> Answer:
        """Do a step, again and again while the store is away or busy, as long as patience lasts."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        attempt = 0
        while True:
            try:
                return await step(*arguments, **options)
            except SinkUnavailableError as error:
                if time.monotonic() > deadline:
                    raise
                self._say(f"waiting: {error}")
                attempt = await back_off(
                    attempt,
                    asyncio.Event(),
                    base_seconds=_BACK_OFF_BASE_SECONDS,
                    max_seconds=_BACK_OFF_MAX_SECONDS,
                )


def _note(index: HeldIndex) -> Note | None:
    return None if index.rebuild is None else msgspec.convert(index.rebuild, Note)
