"""Removing the tombstones of entities that were deleted long ago."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from banking.streaming.sink import IncompatibleStoreError, SinkUnavailableError
from vector_consumer.bulk import send_bulk
from vector_consumer.client import store_errors
from vector_consumer.mappings import find_serving, held_indices

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from opensearchpy import AsyncOpenSearch

    from banking.streaming.entities import EntityType
    from vector_consumer.mappings import IndexDefinition
    from vector_consumer.settings import VectorSettings

log = structlog.get_logger(__name__)

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Removal:
    """One tombstone to remove: its line of a bulk request."""

    lines: bytes


async def purge_tombstones(
    client: AsyncOpenSearch,
    settings: VectorSettings,
    definitions: Mapping[EntityType, IndexDefinition],
    before: datetime,
) -> int:
    """Remove the tombstones that were written before a moment from the indices that serve; how many those were.

    A tombstone is removed under its own version, and stays where the entity has a newer one by now. OpenSearch's
    delete-by-query would not do: it counts the version up, and for a minute the next version that comes for the entity
    would pass for one that is already there.

    Tombstones of an index that is being built anew are kept: the new one may hold the state from before the delete, and
    learns of the delete from the tombstone.

    Raises:
        SinkUnavailableError: The store is away or takes no writes; what is removed is removed.
    """
    purged = 0
    for definition in definitions.values():
        try:
            with store_errors():
                held = await held_indices(client, definition)
            serving = find_serving(held, definition)
        except IncompatibleStoreError as error:
            raise SinkUnavailableError(str(error)) from error
        building = [index.name for index in held if index.rebuild is not None]
        if building:
            log.warning("tombstones are kept while an index is being built anew", indices=building)
            continue
        if serving is not None:
            purged += await _purge(client, settings, serving.name, before)
    return purged


async def _purge(client: AsyncOpenSearch, settings: VectorSettings, index: str, before: datetime) -> int:
    purged = 0
    query: dict[str, Any] = {
        "size": settings.bulk_max_documents,
        "version": True,
        "_source": False,
        "track_total_hits": False,
        "query": {
            "bool": {"filter": [{"term": {"deleted": True}}, {"range": {"deleted_at": {"lt": before.isoformat()}}}]}
        },
        "sort": [{"deleted_at": "asc"}, {"entity_id": "asc"}],
    }
    while True:
        started = time.monotonic()
        with store_errors():
            answer = await client.search(index=index, body=query, params={"allow_partial_search_results": "false"})
        hits = answer["hits"]["hits"]
        if not hits:
            return purged
        purged += await _remove(client, settings, index, hits)
        query["search_after"] = hits[-1]["sort"]
        # Half of the time is the writers' own.
        await asyncio.sleep(time.monotonic() - started)


async def _remove(client: AsyncOpenSearch, settings: VectorSettings, index: str, hits: list[dict[str, Any]]) -> int:
    removals = [
        Removal(
            _encode(
                {
                    "delete": {
                        "_index": index,
                        "_id": hit["_id"],
                        "version": hit["_version"],
                        "version_type": "external_gte",
                    }
                }
            )
            + b"\n"
        )
        for hit in hits
    ]
    items = await send_bulk(client, settings, removals)
    removed = 0
    for item in items:
        if item["status"] == 200:
            removed += 1
        elif item["status"] not in (404, 409):  # gone already, or the entity is back
            kind = item.get("error", {}).get("type", "unknown error")
            raise SinkUnavailableError(f"index {index}: OpenSearch answered {item['status']} {kind} to a purge")
    return removed
