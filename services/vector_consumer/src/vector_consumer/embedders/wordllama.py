"""The embedder that the package carries: static token vectors, fast and offline."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vector_consumer.embedder import unit_vector

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tokenizers import Tokenizer

    from vector_consumer.embedder import Vector

# Tokens pooled at a time: 4 MiB of token vectors, and short enough a step that the event loop is not held up.
_TOKENS_AT_A_TIME = 4096


class WordLlamaEmbedder:
    """The static token vectors of wordllama, averaged over a text's tokens and scaled to length 1.

    The weights are part of the installed package: nothing is downloaded and nothing is written. The averaging is done
    here because the package pads a batch to its longest text, which for one long text among many takes gigabytes.
    """

    name = "wordllama-l2_supercat-256"
    dimension = 256

    def __init__(self) -> None:
        # One thread at a time: several would keep the event loop waiting for the interpreter, each in its turn.
        self._in_use = asyncio.Lock()
        self._tokenizer: Tokenizer | None = None
        self._token_vectors: Vector = np.empty((0, self.dimension), dtype=np.float32)

    async def open(self) -> None:
        """Load the weights, off the event loop."""
        async with self._in_use:
            if self._tokenizer is None:
                self._tokenizer, self._token_vectors = await asyncio.to_thread(_load_wordllama, self.dimension)

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector | None]:
        """See `Embedder`."""
        await self.open()
        async with self._in_use:
            return await asyncio.to_thread(self._embed, texts)

    async def close(self) -> None:
        """Nothing is held but memory."""

    def _embed(self, texts: Sequence[str]) -> list[Vector | None]:
        assert self._tokenizer is not None  # noqa: S101 - open() comes first
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._average(encoding.ids) for encoding in encodings]

    def _average(self, tokens: Sequence[int]) -> Vector | None:
        total = np.zeros(self.dimension, dtype=np.float32)
        for start in range(0, len(tokens), _TOKENS_AT_A_TIME):
            rows = np.array(tokens[start : start + _TOKENS_AT_A_TIME], dtype=np.intp)
            np.minimum(rows, len(self._token_vectors) - 1, out=rows)
            total += self._token_vectors[rows].sum(axis=0)
        return unit_vector(total)


def _load_wordllama(dimension: int) -> tuple[Tokenizer, Vector]:
    with _root_logger_untouched():
        import wordllama  # noqa: PLC0415 - takes a second: off the event loop
    # The package looks for its own tokenizer under the wrong folder's name; as a cache folder it is found.
    own_folder = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(cache_dir=own_folder, dim=dimension, disable_download=True)
    tokenizer = model.tokenizer
    tokenizer.no_padding()
    # Texts come whole, as one word each, so its cache of words never helps and grows to 80 MB. There is no other way.
    tokenizer.model._resize_cache(0)
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
