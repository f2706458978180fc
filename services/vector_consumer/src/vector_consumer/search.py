"""Finding entities by words, by meaning, and by both."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from banking.streaming.entities import ENTITY_MODELS, EntityType, Kind
from vector_consumer.client import connect, store_errors
from vector_consumer.embedder import make_embedder
from vector_consumer.mappings import EMBEDDING_FIELD, alias_of, check_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from opensearchpy import AsyncOpenSearch

    from vector_consumer.embedder import Embedder
    from vector_consumer.settings import VectorSettings

RANK_CONSTANT = 60
"""The constant of reciprocal rank fusion: how little the first places count for more than the next."""

_FEWEST_CANDIDATES = 50
# OpenSearch takes 1,024 clauses, one for each word in each field: a long text is looked for in one field.
_LONG_CHARACTERS = 150
_MOST_CHARACTERS = 1000
_SOURCE = ["entity_id", "entity_type", "version", "text"]


class Mode(StrEnum):
    """What a search goes by."""

    FUSED = "fused"
    WORDS = "words"
    MEANING = "meaning"


@dataclass(frozen=True, slots=True)
class Hit:
    """An entity that was found.

    Attributes:
        entity_type: Its type.
        entity_id: Its id.
        version: The version that was found.
        text: Its text, empty where it has none.
        score: The sum of 1 / (60 + rank) over the lists that hold it; only the order has a meaning.
        words_rank: Its place, from 1, by words; None when that list does not hold it.
        meaning_rank: Its place, from 1, by meaning; None when that list does not hold it.
    """

    entity_type: EntityType
    entity_id: str
    version: int
    text: str
    score: float
    words_rank: int | None
    meaning_rank: int | None


class Searcher:
    """Searches the live documents: it reads through the aliases, which hide tombstones.

    Args:
        settings: Where the store is.
        embedder: What embeds queries; None makes what the settings choose.
    """

    def __init__(self, settings: VectorSettings, embedder: Embedder | None = None) -> None:
        self._settings = settings
        self._embedder = embedder or make_embedder(settings)
        self._client: AsyncOpenSearch = connect(settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._embedder.close()
        await self._client.close()

    async def search(
        self, text: str, entity_type: EntityType | None = None, limit: int = 10, mode: Mode = Mode.FUSED
    ) -> list[Hit]:
        """The best hits, best first.

        Args:
            text: Words to look for; nothing in it is syntax.
            entity_type: The only type to look at; None looks at all.
            limit: The most hits.
            mode: By words, by meaning, or by both.

        Raises:
            SinkUnavailableError: The store or the model is away, or there is no such index.
            IncompatibleStoreError: The index has the vectors of another model.
        """
        types = tuple(EntityType) if entity_type is None else (entity_type,)
        candidates = max(limit, _FEWEST_CANDIDATES)
        words, meaning = await asyncio.gather(
            self._find(types, words_query(types, text), candidates) if mode is not Mode.MEANING else _nothing(),
            self._by_meaning(types, text, candidates) if mode is not Mode.WORDS else _nothing(),
        )
        return fuse(words, meaning)[:limit]

    async def _by_meaning(self, types: Sequence[EntityType], text: str, candidates: int) -> list[dict[str, Any]]:
        await self._check_model(types)
        (vector,) = await self._embedder.embed([text])
        if vector is None:
            return []
        query = meaning_query(vector.tolist(), candidates, self._settings.hnsw_ef_search)
        return await self._find(types, query, candidates)

    async def _find(self, types: Sequence[EntityType], query: dict[str, Any], size: int) -> list[dict[str, Any]]:
        with store_errors():
            answer = await self._client.search(
                index=self._aliases(types),
                body={"query": query, "size": size, "_source": _SOURCE},
                params={"allow_partial_search_results": "false"},
            )
        sources: list[dict[str, Any]] = [hit["_source"] for hit in answer["hits"]["hits"]]
        return sources

    async def _check_model(self, types: Sequence[EntityType]) -> None:
        """Vectors of two models say nothing of each other, and of one length are compared all the same."""
        with store_errors():
            held = await self._client.indices.get_mapping(
                index=self._aliases(types), params={"filter_path": "*.mappings._meta"}
            )
        for name, index in held.items():
            check_model(name, index["mappings"]["_meta"], self._embedder.name, self._embedder.dimension)

    def _aliases(self, types: Sequence[EntityType]) -> str:
        return ",".join(alias_of(self._settings.index_prefix, entity_type) for entity_type in types)


def words_query(types: Sequence[EntityType], text: str) -> dict[str, Any]:
    """The query by words: in the texts, and whole in the fields that entities are looked up by.

    Of a text longer than 150 characters the first 1,000 are looked for, and among texts in the field `text` alone.
    """
    fields = {"text", "entity_id"}
    for entity_type in types:
        for field in ENTITY_MODELS[entity_type].fields:
            is_text = field.kind is Kind.TEXT and len(text) <= _LONG_CHARACTERS
            if is_text or (field.kind is Kind.KEYWORD and field.lookup):
                fields.add(field.name)
    return {
        "multi_match": {
            "query": text[:_MOST_CHARACTERS],
            "fields": sorted(fields),
            "type": "best_fields",
            "tie_breaker": 0.3,
        }
    }


def meaning_query(vector: Sequence[float], candidates: int, ef_search: int) -> dict[str, Any]:
    """The query by meaning: the nearest vectors."""
    return {
        "knn": {
            EMBEDDING_FIELD: {
                "vector": list(vector),
                "k": candidates,
                "method_parameters": {"ef_search": ef_search},
            }
        }
    }


def fuse(words: Sequence[dict[str, Any]], meaning: Sequence[dict[str, Any]]) -> list[Hit]:
    """Two ranked lists as one, by reciprocal rank fusion; ties by type and id, so that the order is always the same."""
    words_ranks = {_key(source): rank for rank, source in enumerate(words, 1)}
    meaning_ranks = {_key(source): rank for rank, source in enumerate(meaning, 1)}
    sources = {_key(source): source for source in (*meaning, *words)}
    hits = [_hit(source, words_ranks.get(key), meaning_ranks.get(key)) for key, source in sources.items()]
    return sorted(hits, key=lambda hit: (-hit.score, hit.entity_type, hit.entity_id))


def _key(source: dict[str, Any]) -> tuple[str, str]:
    return source["entity_type"], source["entity_id"]


def _hit(source: dict[str, Any], words_rank: int | None, meaning_rank: int | None) -> Hit:
    ranks = [rank for rank in (words_rank, meaning_rank) if rank is not None]
    return Hit(
        entity_type=EntityType(source["entity_type"]),
        entity_id=source["entity_id"],
        version=source["version"],
        text=source.get("text", ""),
        score=sum(1 / (RANK_CONSTANT + rank) for rank in ranks),
        words_rank=words_rank,
        meaning_rank=meaning_rank,
    )


async def _nothing() -> list[dict[str, Any]]:
    return []
