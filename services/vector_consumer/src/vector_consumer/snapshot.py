"""Reading all documents of one shard that changed since a point, oldest change first."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from banking.streaming.sink import SinkError, SinkUnavailableError
from vector_consumer.client import store_errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opensearchpy import AsyncOpenSearch

    from vector_consumer.mappings import HeldIndex

_KEEP_ALIVE = "5m"
_FIRST_PAGE = 100
_WHOLE_ANSWERS = {"allow_partial_search_results": "false"}


@dataclass(frozen=True, slots=True)
class Page:
    """Some documents.

    Attributes:
        sources: What they hold.
        upto: No document that changed at or before this point is left to read.
    """

    sources: list[dict[str, Any]]
    upto: int


async def checkpoints(client: AsyncOpenSearch, index: HeldIndex, *, at_rest: bool = False) -> list[int]:
    """Per shard the sequence number up to which every write is done on every copy, and so is seen after a refresh.

    Sequence numbers count the writes of a shard. Writes may finish in another order than they are numbered: one that is
    seen says nothing of those before it, so that only the checkpoint tells where a reader may go on later.

    Args:
        client: The store's client.
        index: The index.
        at_rest: Whether no write can be under way any more: then the last of them is waited for.

    Raises:
        SinkUnavailableError: The store is away, a shard has no active primary, or a last write is not done yet.
        LookupError: The index is another one by now.
    """
    with store_errors():
        answer = await client.indices.stats(index=index.name, metric="docs", params={"level": "shards"})
    found = answer["indices"].get(index.name)
    if found is None or found["uuid"] != index.uuid:
        raise LookupError(f"index {index.name}: somebody removed it or put another in its place")
    numbers: list[int] = []
    for shard in range(index.shards):
        copies = found["shards"].get(str(shard), [])
        primary = [copy for copy in copies if copy["routing"]["primary"] and copy["routing"]["state"] == "STARTED"]
        if not primary:
            raise SinkUnavailableError(f"index {index.name}: no active primary of shard {shard}")
        written = primary[0]["seq_no"]
        if at_rest and written["global_checkpoint"] < written["max_seq_no"]:
            raise SinkUnavailableError(f"index {index.name}: its last writes are not on all copies of shard {shard}")
        numbers.append(int(written["global_checkpoint"]))
    return numbers


class Snapshot:
    """One shard's primary as it stood when it was opened.

    Attributes:
        page_size: Documents of the next page, at most.
    """

    def __init__(self, client: AsyncOpenSearch, pit: str) -> None:
        self._client = client
        self._pit = pit
        self.page_size = _FIRST_PAGE
        self._span = 2 * _FIRST_PAGE

    async def count(self, after: int, upto: int) -> int:
        """How many documents changed after one sequence number and up to another."""
        answer = await self._search({"size": 0, "track_total_hits": True, "query": _changed(after, upto)})
        return int(answer["hits"]["total"]["value"])

    async def read(self, after: int, upto: int, excludes: list[str]) -> Page | None:
        """The first documents that changed after one sequence number and up to another; None when all are read.

        Args:
            after: Where the page before it ended.
            upto: The last sequence number to read.
            excludes: Fields that are not wanted.
        """
        if after >= upto:
            return None
        # The server looks at all that could be part of the answer: a span of numbers keeps that short.
        end = min(upto, after + self._span)
        body = {
            "size": self.page_size,
            "track_total_hits": False,
            "_source": {"excludes": excludes},
            "seq_no_primary_term": True,
            "query": _changed(after, end),
            "sort": [{"_seq_no": "asc"}],
        }
        hits = (await self._search(body))["hits"]["hits"]
        if len(hits) == self.page_size:
            self._span = max(2 * self.page_size, self._span // 2)
            end = int(hits[-1]["_seq_no"])
        elif 2 * len(hits) < self.page_size:
            self._span *= 2  # most of the numbers are of documents that changed again later
        return Page([hit["_source"] for hit in hits], end)

    async def _search(self, body: dict[str, Any]) -> dict[str, Any]:
        body["pit"] = {"id": self._pit, "keep_alive": _KEEP_ALIVE}
        with store_errors():
            answer: dict[str, Any] = await self._client.search(body=body, params=_WHOLE_ANSWERS)
        return answer


@asynccontextmanager
async def open_snapshot(client: AsyncOpenSearch, index: str, shard: int) -> AsyncIterator[Snapshot]:
    """A shard as it stands after its last refresh.

    Raises:
        SinkUnavailableError: The store is away.
    """
    with store_errors():
        opened = await client.create_pit(
            index=index,
            params={
                "keep_alive": _KEEP_ALIVE,
                # The checkpoint is the primary's.
                "preference": f"_shards:{shard}|_primary",
                "allow_partial_pit_creation": "false",
            },
        )
    pit = opened["pit_id"]
    try:
        yield Snapshot(client, pit)
    finally:
        # One that cannot be closed, because the store is away, ends by itself.
        with suppress(SinkError), store_errors():
            await client.delete_pit(body={"pit_id": [pit]})


def _changed(after: int, upto: int) -> dict[str, Any]:
    return {"range": {"_seq_no": {"gt": after, "lte": upto}}}
