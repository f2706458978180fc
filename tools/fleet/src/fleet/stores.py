"""Reading both stores as a check does: what each holds of an entity, by id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from graph_consumer.asking import submit_again
from graph_consumer.servers import make_client
from vector_consumer.client import connect
from vector_consumer.mappings import alias_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from banking.streaming.entities import EntityType
    from graph_consumer.settings import GraphSettings
    from vector_consumer.settings import VectorSettings

_CHUNK = 500

_GRAPH_LOOKUP = """
g.V().has('entity_key', within(wanted)).has('version')
 .project('id', 'version', 'hash', 'deleted')
 .by('entity_id').by('version').by('content_hash').by(coalesce(values('deleted'), constant(false)))
"""


@dataclass(frozen=True, slots=True)
class Held:
    """What a store holds of an entity."""

    version: int
    content_hash: str
    deleted: bool


class StoreReader(Protocol):
    """One of the two stores."""

    name: str

    async def lookup(self, entity_type: EntityType, ids: Sequence[str]) -> dict[str, Held]:
        """What the store holds of these entities; those it does not hold are absent."""

    async def close(self) -> None:
        """Release connections."""


class GraphReader:
    """JanusGraph."""

    name = "JanusGraph"

    def __init__(self, settings: GraphSettings) -> None:
        self._client = make_client(settings)

    async def lookup(self, entity_type: EntityType, ids: Sequence[str]) -> dict[str, Held]:
        """What the graph holds of these entities, looked up by the unique index; stubs are not held yet."""
        held: dict[str, Held] = {}
        for start in range(0, len(ids), _CHUNK):
            keys = [f"{entity_type.value}:{entity_id}" for entity_id in ids[start : start + _CHUNK]]
            for row in await self.submit(_GRAPH_LOOKUP, {"wanted": keys}):
                held[row["id"]] = Held(int(row["version"]), row["hash"], bool(row["deleted"]))
        return held

    async def submit(self, script: str, bindings: Mapping[str, Any] | None = None) -> list[Any]:
        """The results of a Gremlin script that reads; again when a writer was in its way."""
        return await submit_again(self._client, script, bindings, attempts=10)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()


class VectorReader:
    """OpenSearch."""

    name = "OpenSearch"

    def __init__(self, settings: VectorSettings) -> None:
        self._settings = settings
        self.client = connect(settings)

    async def lookup(self, entity_type: EntityType, ids: Sequence[str]) -> dict[str, Held]:
        """What the index holds of these entities, read by id and so without waiting for a refresh."""
        held: dict[str, Held] = {}
        alias = alias_of(self._settings.index_prefix, entity_type)
        fields = ["version", "content_hash", "deleted"]
        for start in range(0, len(ids), _CHUNK):
            body = {"ids": list(ids[start : start + _CHUNK])}
            answer = await self.client.mget(index=alias, body=body, params={"_source_includes": ",".join(fields)})
            for document in answer["docs"]:
                if document.get("found"):
                    source = document["_source"]
                    held[document["_id"]] = Held(
                        source["version"], source["content_hash"], bool(source.get("deleted", False))
                    )
        return held

    async def get(self, entity_type: EntityType, entity_id: str) -> dict[str, Any] | None:
        """One document, None where there is none."""
        alias = alias_of(self._settings.index_prefix, entity_type)
        without = {"_source_excludes": "embedding"}
        answer = await self.client.mget(index=alias, body={"ids": [entity_id]}, params=without)
        document = answer["docs"][0]
        return document["_source"] if document.get("found") else None

    async def close(self) -> None:
        """Close the connection."""
        await self.client.close()
