"""Texts into vectors: the port, the choice of what is behind it, and what stands before any model."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vector_consumer.metrics import EMBEDDING_SECONDS, EMBEDDINGS, Lookup
from vector_consumer.settings import EmbedderKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vector_consumer.settings import VectorSettings

Vector: TypeAlias = NDArray[np.float32]
"""A vector of length 1."""


class Embedder(Protocol):
    """Turns texts into vectors.

    Attributes:
        name: Names the model and all that decides its vectors; stored with every index.
        dimension: The length of its vectors.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - an attribute, described above

    @property
    def dimension(self) -> int: ...  # noqa: D102

    async def open(self) -> None:
        """Load what is needed. Called again, it does nothing."""

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector | None]:
        """One vector per text, None where a text has no meaning to the model (empty, or no known token).

        Never blocks the event loop. May be called concurrently.

        Raises:
            SinkUnavailableError: The model cannot be asked now.
            BatchFailedError: It refuses one of the texts.
        """

    async def close(self) -> None:
        """Release connections. Called again, it does nothing."""


def make_embedder(settings: VectorSettings) -> Embedder:
    """The embedder that the settings choose, behind its cache."""
    return CachedEmbedder(
        _choose(settings),
        entries=settings.embedding_cache_entries,
        max_characters=settings.embedding_max_characters,
        batch_texts=settings.embedding_batch_texts,
    )


def _choose(settings: VectorSettings) -> Embedder:
    # Imported where it is chosen: each brings libraries of its own.
    match settings.embedder:
        case EmbedderKind.WORDLLAMA:
            from vector_consumer.embedders.wordllama import WordLlamaEmbedder  # noqa: PLC0415

            return WordLlamaEmbedder()
        case EmbedderKind.SENTENCE_TRANSFORMERS:
            from vector_consumer.embedders.sentence_transformers import SentenceTransformersEmbedder  # noqa: PLC0415

            if settings.embedding_model is None or settings.embedding_dimension is None:
                return SentenceTransformersEmbedder.carried()
            return SentenceTransformersEmbedder.of_folder(Path(settings.embedding_model), settings.embedding_dimension)
        case EmbedderKind.OPENAI:
            from vector_consumer.embedders.openai import OpenAIEmbedder  # noqa: PLC0415

            return OpenAIEmbedder(settings)


class CachedEmbedder:
    """What stands before any model: it asks for each text once, as long as the cache holds it, and in small batches.

    What a batch brought is kept even where another one of the same call failed, so that whoever calls again after a
    pause gets further each time. Texts of white space alone have no vector and are not asked for.

    Args:
        embedder: What embeds the texts that are not known.
        entries: How many vectors are kept; the ones unused for longest go first.
        max_characters: What is looked at of a text.
        batch_texts: Texts that the model is asked for at a time, at most.
    """

    def __init__(self, embedder: Embedder, *, entries: int, max_characters: int = 8192, batch_texts: int = 64) -> None:
        self._embedder = embedder
        self._entries = entries
        self._max_characters = max_characters
        self._batch_texts = batch_texts
        self._vectors: OrderedDict[bytes, Vector | None] = OrderedDict()

    @property
    def name(self) -> str:
        """The name of the model behind the cache."""
        return self._embedder.name

    @property
    def dimension(self) -> int:
        """The length of its vectors."""
        return self._embedder.dimension

    async def open(self) -> None:
        """Load the model."""
        await self._embedder.open()

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector | None]:
        """See `Embedder`."""
        keyed = await asyncio.to_thread(self._keyed, texts)
        wanted = {key: text for key, text in keyed if text}
        known = {key: self._vectors[key] for key in wanted if key in self._vectors}
        self._remember(known)
        EMBEDDINGS.labels(Lookup.HIT.value).inc(sum(1 for _, text in keyed if text) - (len(wanted) - len(known)))
        batches = _batches([item for item in wanted.items() if item[0] not in known], self._batch_texts)
        results = await asyncio.gather(*(self._embed(batch) for batch in batches), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
            known.update(result)
        return [known.get(key) for key, _ in keyed]

    async def close(self) -> None:
        """Release the model's connections."""
        await self._embedder.close()

    def _keyed(self, texts: Sequence[str]) -> list[tuple[bytes, str]]:
        """What counts of each text, with its digest: the cache's size does not depend on how long texts are."""
        cut = [text[: self._max_characters] for text in texts]
        cut = ["" if text.isspace() else text for text in cut]
        return [(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest(), text) for text in cut]

    async def _embed(self, batch: Sequence[tuple[bytes, str]]) -> dict[bytes, Vector | None]:
        with EMBEDDING_SECONDS.time():
            vectors = await self._embedder.embed([text for _, text in batch])
        found = {key: vector for (key, _), vector in zip(batch, vectors, strict=True)}
        EMBEDDINGS.labels(Lookup.MISS.value).inc(len(found))
        self._remember(found)
        return found

    def _remember(self, vectors: dict[bytes, Vector | None]) -> None:
        self._vectors.update(vectors)
        for key in vectors:
            self._vectors.move_to_end(key)
        while len(self._vectors) > self._entries:
            self._vectors.popitem(last=False)


def _batches(items: Sequence[tuple[bytes, str]], size: int) -> Iterator[Sequence[tuple[bytes, str]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def unit_vector(vector: Vector) -> Vector | None:
    """The vector scaled to length 1; None for one without a direction, which cosine similarity cannot take."""
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0.0:
        return None
    return np.asarray(vector / length, dtype=np.float32)
