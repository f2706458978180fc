"""The indices: one per entity type, behind an alias that hides tombstones, with mappings made of the entity model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opensearchpy.exceptions import RequestError

from banking.streaming.entities import ENTITY_MODELS, EntityType, Kind
from banking.streaming.sink import IncompatibleStoreError

if TYPE_CHECKING:
    from opensearchpy import AsyncOpenSearch

    from vector_consumer.embedder import Embedder
    from vector_consumer.settings import VectorSettings

MAPPING_VERSION = 1
"""Grows when documents or mappings change in a way that older indices do not have."""

LONGEST_TERM_BYTES = 32_766
"""Lucene refuses a document that holds a longer term."""

_LONGEST_KEYWORD_CHARACTERS = LONGEST_TERM_BYTES // 4  # UTF-8 takes at most four bytes a character
_HIDE_TOMBSTONES = {"bool": {"must_not": {"term": {"deleted": True}}}}
_ATTEMPTS = 5

# A keyword that is too long to be a term is stored and not indexed, instead of refusing its document.
_KEYWORD: dict[str, Any] = {"type": "keyword", "ignore_above": _LONGEST_KEYWORD_CHARACTERS}
_TIMESTAMP: dict[str, Any] = {"type": "date", "format": "strict_date_time||strict_date_time_no_millis"}

FIELD_MAPPINGS: dict[Kind, dict[str, Any]] = {
    Kind.KEYWORD: _KEYWORD,
    Kind.TEXT: {"type": "text", "fields": {"keyword": _KEYWORD}},
    # The keyword and the stored source hold the decimal to its last digit. No numeric type of OpenSearch does: a
    # scaled_float is a long of at most 18 digits and fixes the number of places, a double has 16 digits. So the double
    # is for ranges and sums alone; `coerce` lets it read the string.
    Kind.MONEY: _KEYWORD | {"fields": {"number": {"type": "double", "coerce": True}}},
    Kind.NUMBER: {"type": "double"},
    Kind.INTEGER: {"type": "long"},
    Kind.BOOLEAN: {"type": "boolean"},
    Kind.DATE: {"type": "date", "format": "strict_date"},
    # Searched to the millisecond; date_nanos would refuse everything before 1970.
    Kind.TIMESTAMP: _TIMESTAMP,
}
"""The mapping of a declared field by its kind."""

STATE_MAPPINGS: dict[str, dict[str, Any]] = {
    "entity_id": {"type": "keyword"},
    "entity_type": {"type": "keyword"},
    "version": {"type": "long"},
    "content_hash": {"type": "keyword", "index": False},
    "source": _KEYWORD,
    "event_time": _TIMESTAMP,
    "text": {"type": "text"},
    "payload": {"type": "flat_object"},
    # The payload as it came, where `payload` lacks values that are too long to be indexed.
    "payload_whole": {"type": "object", "enabled": False},
    "deleted": {"type": "boolean"},  # true on a tombstone, else absent
    "deleted_at": _TIMESTAMP,  # when the tombstone was written
}
"""The fields of the fleet's own beside the declared ones and the embedding."""

EMBEDDING_FIELD = "embedding"


@dataclass(frozen=True, slots=True)
class IndexDefinition:
    """How the indices of one entity type are named and made.

    Attributes:
        entity_type: The type.
        alias: The name for readers, such as `banking-persons`.
        body: Settings and mappings.
    """

    entity_type: EntityType
    alias: str
    body: dict[str, Any]

    @property
    def pattern(self) -> str:
        """What matches the name of every version of the index."""
        return f"{self.alias}-v*"

    @property
    def first(self) -> str:
        """The name of the index's first version."""
        return f"{self.alias}-v1"

    @property
    def meta(self) -> dict[str, Any]:
        """What is noted in the index of how its documents are made."""
        meta: dict[str, Any] = self.body["mappings"]["_meta"]
        return meta


def alias_of(prefix: str, entity_type: EntityType) -> str:
    """The alias under which readers find a type's documents."""
    return f"{prefix}-{ENTITY_MODELS[entity_type].plural}"


def define_indices(settings: VectorSettings, embedder: Embedder) -> dict[EntityType, IndexDefinition]:
    """The definition of every type's index."""
    return {
        entity_type: IndexDefinition(
            entity_type,
            alias_of(settings.index_prefix, entity_type),
            {"settings": _settings(settings), "mappings": _mappings(entity_type, settings, embedder)},
        )
        for entity_type in ENTITY_MODELS
    }


async def ensure_index(client: AsyncOpenSearch, definition: IndexDefinition) -> str:
    """Make a type's template, index and alias where they are missing; the name of the index to write to.

    Any number of services may do so at once.

    Raises:
        IncompatibleStoreError: The index that is there cannot be written to by this service.
        OpenSearchException: The store is away or refuses.
    """
    for _ in range(_ATTEMPTS):
        name = await _find(client, definition)
        if name is not None:
            return name
        await client.indices.put_index_template(name=definition.alias, body=_template(definition))
        try:
            await client.indices.create(
                index=definition.first,
                body=definition.body | {"aliases": {definition.alias: {"filter": _HIDE_TOMBSTONES}}},
            )
        except RequestError as error:
            if error.error != "resource_already_exists_exception":
                raise
    raise IncompatibleStoreError(f"index {definition.first}: it is made and removed again and again")


async def _find(client: AsyncOpenSearch, definition: IndexDefinition) -> str | None:
    """The index that serves the alias, checked and mended; None when there is no version of it."""
    alias = definition.alias
    found: dict[str, Any] = await client.indices.get(
        index=f"{alias},{definition.pattern}",
        params={"ignore_unavailable": "true", "allow_no_indices": "true", "expand_wildcards": "all"},
    )
    if alias in found:
        raise IncompatibleStoreError(
            f"index {alias}: this name must be an alias; reindex or delete that index, and set the server's "
            "action.auto_create_index to false"
        )
    versions = {name: index for name, index in found.items() if re.fullmatch(re.escape(alias) + r"-v\d+", name)}
    serving = [name for name, index in found.items() if alias in index["aliases"]] or list(versions)
    if not serving:
        return None
    if len(serving) > 1:
        names = ", ".join(sorted(serving))
        raise IncompatibleStoreError(f"alias {alias}: it must name exactly one of {names}; set it by hand")
    name = serving[0]
    _check_meta(name, found[name]["mappings"].get("_meta", {}), definition)
    if "filter" not in found[name]["aliases"].get(alias, {}):
        await client.indices.put_alias(index=name, name=alias, body={"filter": _HIDE_TOMBSTONES})
    wanted = definition.body["settings"]["index"]["refresh_interval"]
    if found[name]["settings"]["index"].get("refresh_interval") != wanted:
        await client.indices.put_settings(index=name, body={"index": {"refresh_interval": wanted}})
    return name


def _check_meta(name: str, held: dict[str, Any], definition: IndexDefinition) -> None:
    if held == definition.meta:
        return
    wanted = definition.meta
    if (held.get("model"), held.get("dimension")) != (wanted["model"], wanted["dimension"]):
        raise IncompatibleStoreError(
            f"index {name}: its vectors are of {held.get('model', 'an unknown model')} "
            f"({held.get('dimension', '?')} dimensions), EMBEDDING_MODEL chooses {wanted['model']} "
            f"({wanted['dimension']}); set EMBEDDING_MODEL back, or build the index anew with the other model"
        )
    raise IncompatibleStoreError(
        f"index {name}: its mapping is of version {held.get('mapping_version', 'unknown')}, this service writes "
        f"version {wanted['mapping_version']}; build the index anew, or run the release that made it"
    )


def _template(definition: IndexDefinition) -> dict[str, Any]:
    """What makes any later version of the index right, even where the server creates it by itself.

    The alias is no part of it: which version serves is decided once the version is complete.
    """
    return {"index_patterns": [definition.pattern], "priority": 500, "template": definition.body}


def _settings(settings: VectorSettings) -> dict[str, Any]:
    copies: dict[str, Any] = (
        {"auto_expand_replicas": "0-1"}
        if settings.index_replicas is None
        else {"number_of_replicas": settings.index_replicas}
    )
    return {
        "index": {
            "number_of_shards": settings.index_shards,
            **copies,
            "knn": True,
            "refresh_interval": f"{round(settings.opensearch_refresh_interval_seconds * 1000)}ms",
            # What does not fit its type is refused, not bent until it does.
            "mapping": {"coerce": False, "ignore_malformed": False},
            "translog": {"durability": "request"},
        }
    }


def _mappings(entity_type: EntityType, settings: VectorSettings, embedder: Embedder) -> dict[str, Any]:
    declared = {field.name: FIELD_MAPPINGS[field.kind] for field in ENTITY_MODELS[entity_type].fields}
    reserved = declared.keys() & (STATE_MAPPINGS.keys() | {EMBEDDING_FIELD})
    if reserved:
        raise ValueError(f"{entity_type}: the names {sorted(reserved)} are reserved in the index")
    return {
        "dynamic": False,
        "_meta": {"model": embedder.name, "dimension": embedder.dimension, "mapping_version": MAPPING_VERSION},
        "properties": declared | STATE_MAPPINGS | {EMBEDDING_FIELD: _embedding(settings, embedder)},
    }


def _embedding(settings: VectorSettings, embedder: Embedder) -> dict[str, Any]:
    # The engine is always named: servers without native libraries are killed by the default one.
    return {
        "type": "knn_vector",
        "dimension": embedder.dimension,
        "method": {
            "name": "hnsw",
            "engine": "lucene",
            "space_type": "cosinesimil",
            "parameters": {"m": settings.hnsw_m, "ef_construction": settings.hnsw_ef_construction},
        },
    }
