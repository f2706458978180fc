"""The indices: one per entity type, behind an alias that hides tombstones, with mappings made of the entity model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from opensearchpy.exceptions import RequestError

from banking.streaming.entities import ENTITY_MODELS, EntityType, Kind
from banking.streaming.sink import IncompatibleStoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opensearchpy import AsyncOpenSearch

    from vector_consumer.embedder import Embedder
    from vector_consumer.settings import VectorSettings

log = structlog.get_logger(__name__)

MAPPING_VERSION = 1
"""Grows when documents or mappings change in a way that older indices do not have."""

LONGEST_TERM_BYTES = 32_766
"""Lucene refuses a document that holds a longer term."""

_LONGEST_KEYWORD_CHARACTERS = LONGEST_TERM_BYTES // 4  # UTF-8 takes at most four bytes a character
HIDE_TOMBSTONES = {"bool": {"must_not": {"term": {"deleted": True}}}}
"""The filter of every alias."""

REBUILD = "reindex"
"""The entry of an index's `_meta` that tells how far it is built. An index that has it and no alias is not complete."""

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

    @property
    def refresh_interval(self) -> str:
        """How soon what is written is found by searches, such as `1000ms`."""
        interval: str = self.body["settings"]["index"]["refresh_interval"]
        return interval

    @property
    def template(self) -> dict[str, Any]:
        """What makes any later version of the index right, even where the server creates it by itself.

        The alias is no part of it: which version serves is decided once the version is complete.
        """
        return {"index_patterns": [self.pattern], "priority": 500, "template": self.body}


@dataclass(frozen=True, slots=True)
class HeldIndex:
    """A version of an index that the store holds.

    Attributes:
        name: Such as `banking-persons-v1`.
        uuid: Tells it from another index of that name.
        number: The version in its name.
        shards: Its primary shards.
        meta: Its `_meta`.
        aliases: Each alias that names it, and how.
        refresh_interval: How soon what is written to it is found by searches, such as `1000ms`.
    """

    name: str
    uuid: str
    number: int
    shards: int
    meta: dict[str, Any]
    aliases: dict[str, Any]
    refresh_interval: str | None

    @property
    def rebuild(self) -> dict[str, Any] | None:
        """The note of the job that builds or built it; None when there is none."""
        return self.meta.get(REBUILD)

    @property
    def origin(self) -> dict[str, Any]:
        """How its documents are made: its `_meta` without that note."""
        return {name: value for name, value in self.meta.items() if name != REBUILD}


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
        await client.indices.put_index_template(name=definition.alias, body=definition.template)
        try:
            await client.indices.create(
                index=definition.first,
                body=definition.body | {"aliases": {definition.alias: {"filter": HIDE_TOMBSTONES}}},
            )
        except RequestError as error:
            if error.error != "resource_already_exists_exception":
                raise
        else:
            log.info("index made", index=definition.first)
    raise IncompatibleStoreError(f"index {definition.first}: it is made and removed again and again")


def check_model(name: str, meta: dict[str, Any], model: str, dimension: int) -> None:
    """Whether an index, by its `_meta`, has the vectors of a model.

    Raises:
        IncompatibleStoreError: It has others; the message says what to do.
    """
    if (meta.get("model"), meta.get("dimension")) != (model, dimension):
        raise IncompatibleStoreError(
            f"index {name}: its vectors are of {meta.get('model', 'an unknown model')} "
            f"({meta.get('dimension', '?')} dimensions), EMBEDDER and EMBEDDING_MODEL choose {model} ({dimension}); "
            "set them back, or build the indices anew with `vector_consumer reindex`"
        )


async def held_indices(client: AsyncOpenSearch, definition: IndexDefinition) -> list[HeldIndex]:
    """Every version of a type's index, whether it serves or not, by number.

    Raises:
        IncompatibleStoreError: An index has the alias's name.
        OpenSearchException: The store is away or refuses.
    """
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
    numbered = re.compile(re.escape(alias) + r"-v(\d+)")
    versions = [(int(match[1]), name) for name in found if (match := numbered.fullmatch(name))]
    others = [(0, name) for name, index in found.items() if alias in index["aliases"] and not numbered.fullmatch(name)]
    return [_held(name, number, found[name]) for number, name in sorted(versions + others)]


def find_serving(held: Sequence[HeldIndex], definition: IndexDefinition) -> HeldIndex | None:
    """The one that serves the alias, or is to serve it because it is the only complete one; None when none is.

    Raises:
        IncompatibleStoreError: It cannot be told which.
    """
    alias = definition.alias
    serving = [index for index in held if alias in index.aliases] or [index for index in held if index.rebuild is None]
    if len(serving) > 1:
        names = ", ".join(sorted(index.name for index in serving))
        raise IncompatibleStoreError(f"alias {alias}: it must name exactly one of {names}; set it by hand")
    return serving[0] if serving else None


async def serving_names(
    client: AsyncOpenSearch, definitions: Mapping[EntityType, IndexDefinition]
) -> dict[EntityType, str | None]:
    """The index behind each type's alias, None where there is none or more than one; by a single request.

    Raises:
        OpenSearchException: The store is away or refuses.
    """
    found: dict[str, Any] = await client.indices.get_alias(
        index=",".join(definition.pattern for definition in definitions.values()),
        params={"ignore_unavailable": "true", "allow_no_indices": "true", "expand_wildcards": "all"},
    )
    names: dict[EntityType, str | None] = {}
    for entity_type, definition in definitions.items():
        serving = [name for name, index in found.items() if definition.alias in index["aliases"]]
        names[entity_type] = serving[0] if len(serving) == 1 else None
    return names


async def _find(client: AsyncOpenSearch, definition: IndexDefinition) -> str | None:
    """The index that serves the alias, checked and mended; None when there is no version of it."""
    serving = find_serving(await held_indices(client, definition), definition)
    if serving is None:
        return None
    _check_meta(serving.name, serving.origin, definition)
    if "filter" not in serving.aliases.get(definition.alias, {}):
        await client.indices.put_alias(index=serving.name, name=definition.alias, body={"filter": HIDE_TOMBSTONES})
    if serving.refresh_interval != definition.refresh_interval:
        await client.indices.put_settings(
            index=serving.name, body={"index": {"refresh_interval": definition.refresh_interval}}
        )
    return serving.name


def _held(name: str, number: int, index: dict[str, Any]) -> HeldIndex:
    settings = index["settings"]["index"]
    return HeldIndex(
        name=name,
        uuid=settings["uuid"],
        number=number,
        shards=int(settings["number_of_shards"]),
        meta=index["mappings"].get("_meta", {}),
        aliases=index["aliases"],
        refresh_interval=settings.get("refresh_interval"),
    )


def _check_meta(name: str, held: dict[str, Any], definition: IndexDefinition) -> None:
    if held == definition.meta:
        return
    wanted = definition.meta
    check_model(name, held, wanted["model"], wanted["dimension"])
    raise IncompatibleStoreError(
        f"index {name}: its mapping is of version {held.get('mapping_version', 'unknown')}, this service writes "
        f"version {wanted['mapping_version']}; run the release that made it, or build the indices anew with "
        "`vector_consumer reindex`"
    )


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
