"""OpenSearch, read from the indices that serve the aliases: those themselves hide tombstones."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from banking.streaming.entities import EntityType
from banking.streaming.events import EventType
from banking.streaming.sink import Leg, SinkError
from vector_consumer.client import connect, store_errors
from vector_consumer.mappings import IndexDefinition, alias_of, serving_names
from vector_consumer.stored import read_stored
from verify.entities import Held, Key, hash_of
from verify.stores import UnreadableStoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from banking.streaming.events import EntityEvent
    from vector_consumer.settings import VectorSettings

_PAGE_DOCUMENTS = 10_000
_PAGE_WHOLE_DOCUMENTS = 1000
_CHUNK = 500
_KEEP_ALIVE = "5m"
_COMPARED = ["version", "content_hash", "deleted"]
_WHOLE = {"excludes": ["embedding"]}

_encode = msgspec.json.Encoder(order="sorted").encode


class IndexStore:
    """The indices.

    Args:
        settings: Where OpenSearch is.
        entity_types: The types to read.
        contents: Whether what a document holds is read too, and not its hash alone.
    """

    leg = Leg.VECTOR

    def __init__(self, settings: VectorSettings, entity_types: Sequence[EntityType], *, contents: bool = False) -> None:
        self._client = connect(settings)
        self._definitions = {
            entity_type: IndexDefinition(entity_type, alias_of(settings.index_prefix, entity_type), {})
            for entity_type in entity_types
        }
        self._contents = contents
        self._source: Any = _WHOLE if contents else _COMPARED

    async def scan(self) -> AsyncIterator[Sequence[tuple[Key, Held]]]:
        """Every document, a page at a time."""
        for entity_type, index in (await self._serving()).items():
            async for page in self._scan_index(entity_type, index):
                yield page

    async def look(self, keys: Sequence[Key], places: Sequence[str]) -> Sequence[tuple[Key, Held]]:
        """Documents by id, and so without waiting for a refresh; a document stands nowhere else than its id says."""
        del places
        serving = await self._serving()
        wanted = [key for key in keys if key.entity_type in serving]
        found: list[tuple[Key, Held]] = []
        for start in range(0, len(wanted), _CHUNK):
            documents = [
                {"_index": serving[EntityType(key.entity_type)], "_id": key.entity_id, "_source": self._source}
                for key in wanted[start : start + _CHUNK]
            ]
            answer = await self._answer(self._client.mget(body={"docs": documents}))
            for key, document in zip(wanted[start : start + _CHUNK], answer["docs"], strict=True):
                if document.get("found"):
                    found.append((key, self._held(document)))
        return found

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _serving(self) -> dict[EntityType, str]:
        """The index behind each alias."""
        names = await self._answer(serving_names(self._client, self._definitions))
        serving: dict[EntityType, str] = {}
        for entity_type, definition in self._definitions.items():
            if names[entity_type] is None:
                raise UnreadableStoreError(f"OpenSearch: no single index serves the alias {definition.alias}")
            serving[entity_type] = names[entity_type]
        return serving

    async def _scan_index(self, entity_type: EntityType, index: str) -> AsyncIterator[Sequence[tuple[Key, Held]]]:
        # What was written before the scan began has to be found, whatever the refresh interval is.
        await self._answer(self._client.indices.refresh(index=index))
        opened = await self._answer(
            self._client.create_pit(
                index=index, params={"keep_alive": _KEEP_ALIVE, "allow_partial_pit_creation": "false"}
            )
        )
        pit = opened["pit_id"]
        body: dict[str, Any] = {
            "size": _PAGE_WHOLE_DOCUMENTS if self._contents else _PAGE_DOCUMENTS,
            "version": True,
            "_source": self._source,
            "track_total_hits": False,
            # By number of the write: no page looks at those before it. Each shard counts for itself, hence the id.
            "sort": [{"_seq_no": "asc"}, {"entity_id": "asc"}],
            "pit": {"id": pit, "keep_alive": _KEEP_ALIVE},
        }
        try:
            while True:
                answer = await self._answer(
                    self._client.search(body=body, params={"allow_partial_search_results": "false"})
                )
                hits = answer["hits"]["hits"]
                if not hits:
                    return
                yield [(Key(entity_type.value, hit["_id"]), self._held(hit)) for hit in hits]
                body["search_after"] = hits[-1]["sort"]
        finally:
            await self._answer(self._client.delete_pit(body={"pit_id": [pit]}))

    def _held(self, document: dict[str, Any]) -> Held:
        source, version = document["_source"], document["_version"]
        content = hash_of(source.get("content_hash"))
        if source.get("version") != version:
            content = b""  # it says of itself that it is another version
        state = _digest_of(source) if self._contents else b""
        return Held(document["_id"], version, bool(source.get("deleted", False)), content, state)

    async def _answer(self, request: Any) -> Any:
        try:
            with store_errors():
                return await request
        except SinkError as error:
            raise UnreadableStoreError(str(error)) from error


def state_of(event: EntityEvent) -> bytes:
    """The hash of what a document has to hold of an event."""
    return _digest(event)


def _digest_of(source: dict[str, Any]) -> bytes:
    try:
        return _digest(read_stored(source).to_event())
    except ValueError:
        return b"unreadable"


def _digest(event: EntityEvent) -> bytes:
    """Of what create and update have in common; a document does not tell them apart."""
    is_delete = event.event_type is EventType.DELETE
    content = ("delete", {}, "") if is_delete else ("state", event.payload, event.text_for_embedding or "")
    return hashlib.blake2b(_encode(content), digest_size=16).digest()
