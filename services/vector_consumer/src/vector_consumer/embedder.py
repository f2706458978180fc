"""Texts into vectors: the port, the embedder that the package carries, and a cache before any of them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vector_consumer.metrics import EMBEDDINGS, Lookup
from vector_consumer.settings import EmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tokenizers import Tokenizer

    from vector_consumer.settings import VectorSettings

Vector: TypeAlias = NDArray[np.float32]
"""A vector of length 1."""

# Tokens pooled at a time: 4 MiB of token vectors, and short enough a step that the event loop is not held up.
_TOKENS_AT_A_TIME = 4096


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
        """


def make_embedder(settings: VectorSettings) -> Embedder:
    """The embedder that the settings choose, behind its cache."""
    match settings.embedding_model:
        case EmbeddingModel.WORDLLAMA:
            embedder = WordLlamaEmbedder(settings.embedding_max_characters)
    return CachedEmbedder(embedder, settings.embedding_cache_entries)


class WordLlamaEmbedder:
    """The static token vectors of wordllama, averaged over a text's tokens and scaled to length 1.

    The weights are part of the installed package: nothing is downloaded and nothing is written. The averaging is done
    here because the package pads a batch to its longest text, which for one long text among many takes gigabytes.

    Args:
        max_characters: What is looked at of a text.
    """

    name = "wordllama-l2_supercat-256"
    dimension = 256

    def __init__(self, max_characters: int = 8192) -> None:
        self._max_characters = max_characters
        self._loading = asyncio.Lock()
        self._tokenizer: Tokenizer | None = None
        self._token_vectors: Vector = np.empty((0, self.dimension), dtype=np.float32)

    async def open(self) -> None:
        """Load the weights, off the event loop."""
        async with self._loading:
            if self._tokenizer is None:
                self._tokenizer, self._token_vectors = await asyncio.to_thread(_load_wordllama, self.dimension)

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector | None]:
        """See `Embedder`."""
        await self.open()
        return await asyncio.to_thread(self._embed, texts)

    def _embed(self, texts: Sequence[str]) -> list[Vector | None]:
        assert self._tokenizer is not None  # noqa: S101 - open() comes first
        cut = [text[: self._max_characters] for text in texts]
        encodings = self._tokenizer.encode_batch(cut, add_special_tokens=False)
        return [self._average(encoding.ids) for encoding in encodings]

    def _average(self, tokens: Sequence[int]) -> Vector | None:
        total = np.zeros(self.dimension, dtype=np.float32)
        for start in range(0, len(tokens), _TOKENS_AT_A_TIME):
            rows = np.array(tokens[start : start + _TOKENS_AT_A_TIME], dtype=np.intp)
            np.minimum(rows, len(self._token_vectors) - 1, out=rows)
            total += self._token_vectors[rows].sum(axis=0)
        return unit_vector(total)


class CachedEmbedder:
    """Embeds equal texts once, as long as the cache holds them.

    Args:
        embedder: What embeds the texts that are not known.
        entries: How many vectors are kept; the ones unused for longest go first.
    """

    def __init__(self, embedder: Embedder, entries: int) -> None:
        self._embedder = embedder
        self._entries = entries
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
        # A digest stands for its text, so that the cache's size does not depend on how long texts are.
        keys = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]
        known = {key: self._vectors[key] for key in keys if key in self._vectors}
        unknown = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if unknown:
            found = await self._embedder.embed(list(unknown.values()))
            known.update(zip(unknown, found, strict=True))
        self._remember(known)
        EMBEDDINGS.labels(Lookup.MISS.value).inc(len(unknown))
        EMBEDDINGS.labels(Lookup.HIT.value).inc(len(keys) - len(unknown))
        return [known[key] for key in keys]

    def _remember(self, vectors: dict[bytes, Vector | None]) -> None:
        self._vectors.update(vectors)
        for key in vectors:
            self._vectors.move_to_end(key)
        while len(self._vectors) > self._entries:
            self._vectors.popitem(last=False)


def unit_vector(vector: Vector) -> Vector | None:
    """The vector scaled to length 1; None for one without a direction, which cosine similarity cannot take."""
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0.0:
        return None
    return np.asarray(vector / length, dtype=np.float32)


def _load_wordllama(dimension: int) -> tuple[Tokenizer, Vector]:
    with _root_logger_untouched():
        import wordllama  # noqa: PLC0415 - takes a second, and is not needed where another embedder is chosen
    # The package looks for its own tokenizer under the wrong folder's name; as a cache folder it is found.
    own_folder = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(cache_dir=own_folder, dim=dimension, disable_download=True)
    tokenizer = model.tokenizer
    tokenizer.no_padding()
    return tokenizer, model.embedding


@contextmanager
def _root_logger_untouched() -> Iterator[None]:
    """Undo `logging.basicConfig`, which importing wordllama calls."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
