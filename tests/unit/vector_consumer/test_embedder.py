from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from prometheus_client import REGISTRY

from banking.streaming.sink import SinkUnavailableError
from vector_consumer.embedder import CachedEmbedder, Vector, make_embedder, unit_vector
from vector_consumer.embedders.wordllama import WordLlamaEmbedder
from vector_consumer.settings import VectorSettings

if TYPE_CHECKING:
    from collections.abc import Sequence


class Recording:
    """An embedder that remembers what it was asked."""

    name = "recording"
    dimension = 2

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.batches: list[int] = []
        self.opened = 0
        self.closed = 0

    async def open(self) -> None:
        self.opened += 1

    async def close(self) -> None:
        self.closed += 1

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector | None]:
        self.asked.extend(texts)
        self.batches.append(len(texts))
        await asyncio.sleep(0)
        return [np.array([len(text), 1], dtype=np.float32) if text != "-" else None for text in texts]


@pytest.fixture(scope="module")
def wordllama() -> WordLlamaEmbedder:
    return WordLlamaEmbedder()


def lookups(kind: str) -> float:
    return REGISTRY.get_sample_value("vector_embeddings_total", {"cache": kind}) or 0.0


class TestWordLlama:
    async def test_vectors_are_those_of_the_package(self, wordllama: WordLlamaEmbedder) -> None:
        import wordllama as package

        texts = ["wire transfer to a shell company", "Zürich", "x", "lunch " * 500]
        found = await wordllama.embed(texts)
        expected = package.WordLlama.load(cache_dir=Path(package.__file__).parent, disable_download=True).embed(
            texts, norm=True
        )
        for mine, theirs in zip(found, expected, strict=True):
            assert mine is not None
            assert mine.shape == (wordllama.dimension,)
            np.testing.assert_allclose(mine, theirs, atol=1e-5)

    async def test_near_in_meaning_is_near(self, wordllama: WordLlamaEmbedder) -> None:
        query, near, far = await wordllama.embed(["automobile repair", "my car is broken", "lunch on Friday"])
        assert query is not None
        assert near is not None
        assert far is not None
        assert query @ near > query @ far

    async def test_empty_texts_have_no_vector(self, wordllama: WordLlamaEmbedder) -> None:
        assert (await wordllama.embed([""]))[0] is None
        assert await wordllama.embed([]) == []

    async def test_odd_texts(self, wordllama: WordLlamaEmbedder) -> None:
        vectors = await wordllama.embed(["\x00", "😀" * 3000, "\ufffd", "e\u0301", "a" * 100_000])
        for vector in vectors:
            assert vector is None or abs(float(np.linalg.norm(vector)) - 1.0) < 1e-3

    async def test_the_event_loop_goes_on(self, wordllama: WordLlamaEmbedder) -> None:
        threads: set[int] = set()
        original = wordllama._average

        def noting(tokens: Sequence[int]) -> Vector | None:
            threads.add(threading.get_ident())
            return original(tokens)

        wordllama._average = noting  # type: ignore[method-assign]
        try:
            await wordllama.embed(["a text"])
        finally:
            wordllama._average = original  # type: ignore[method-assign]
        assert threads
        assert threading.get_ident() not in threads

    def test_loading_leaves_logging_alone_and_writes_nothing(self, tmp_path: Path) -> None:
        code = (
            "import asyncio, logging\n"
            "from vector_consumer.embedders.wordllama import WordLlamaEmbedder\n"
            "print(asyncio.run(WordLlamaEmbedder().embed(['a text']))[0].shape, logging.getLogger().handlers)\n"
        )
        environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
        result = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert result.stdout.strip() == "(256,) []"
        assert list(tmp_path.iterdir()) == []


class TestCache:
    async def test_equal_texts_are_embedded_once(self) -> None:
        recording = Recording()
        cached = CachedEmbedder(recording, entries=10)
        hits, misses = lookups("hit"), lookups("miss")

        vectors = await cached.embed(["a", "bb", "a"])
        again = await cached.embed(["bb", "ccc"])

        assert recording.asked == ["a", "bb", "ccc"]
        assert again[0] is vectors[1]
        assert (lookups("hit") - hits, lookups("miss") - misses) == (2, 3)

    async def test_a_text_without_meaning_is_asked_for_once_too(self) -> None:
        recording = Recording()
        cached = CachedEmbedder(recording, entries=10)
        assert [vector is None for vector in await cached.embed(["-", "a", "-"])] == [True, False, True]
        assert (await cached.embed(["-"]))[0] is None
        assert recording.asked == ["-", "a"]

    async def test_blank_texts_are_not_asked_for_and_are_no_lookups(self) -> None:
        recording = Recording()
        cached = CachedEmbedder(recording, entries=10, max_characters=3)
        hits, misses = lookups("hit"), lookups("miss")
        assert await cached.embed(["", " ", "\n\u2003", "    late"]) == [None] * 4
        assert await cached.embed([]) == []
        assert recording.asked == []
        assert (lookups("hit") - hits, lookups("miss") - misses) == (0, 0)

    async def test_only_the_beginning_of_a_long_text_counts(self) -> None:
        recording = Recording()
        cached = CachedEmbedder(recording, entries=10, max_characters=5)
        first, second = await cached.embed(["wire transfer", "wire fraud"])
        assert first is second
        assert recording.asked == ["wire "]

    async def test_the_model_is_asked_for_a_few_texts_at_a_time(self) -> None:
        recording = Recording()
        cached = CachedEmbedder(recording, entries=10, batch_texts=3)
        texts = [str(number) for number in range(8)]
        vectors = await cached.embed(texts)
        assert recording.batches == [3, 3, 2]
        assert recording.asked == texts
        assert all(vector is not None for vector in vectors)

    async def test_what_a_failing_call_brought_is_kept(self) -> None:
        class Failing(Recording):
            async def embed(self, texts: Sequence[str]) -> Sequence[Vector | None]:
                vectors = await super().embed(texts)
                if "bad" in texts:
                    raise SinkUnavailableError("away")
                return vectors

        failing = Failing()
        cached = CachedEmbedder(failing, entries=10, batch_texts=2)
        with pytest.raises(SinkUnavailableError, match="away"):
            await cached.embed(["a", "bad", "b", "c"])
        failing.asked.clear()
        with pytest.raises(SinkUnavailableError, match="away"):
            await cached.embed(["a", "bad", "b", "c"])
        assert failing.asked == ["a", "bad"]

    async def test_it_is_bounded_and_drops_what_is_unused(self) -> None:
        recording = Recording()
        cached = CachedEmbedder(recording, entries=2)
        await cached.embed(["a", "b"])
        await cached.embed(["a"])
        await cached.embed(["c"])  # drops b
        recording.asked.clear()
        await cached.embed(["a", "c"])
        assert recording.asked == []
        await cached.embed(["b"])
        assert recording.asked == ["b"]

    async def test_more_texts_than_entries(self) -> None:
        cached = CachedEmbedder(Recording(), entries=0)
        vectors = await cached.embed([str(number) for number in range(100)])
        assert all(vector is not None for vector in vectors)

    async def test_it_passes_on_what_the_model_is(self) -> None:
        recording = Recording()
        cached = CachedEmbedder(recording, entries=1)
        await cached.open()
        await cached.close()
        assert (cached.name, cached.dimension, recording.opened, recording.closed) == ("recording", 2, 1, 1)

    async def test_concurrent_calls(self) -> None:
        cached = CachedEmbedder(Recording(), entries=3)
        results = await asyncio.gather(*(cached.embed([str(n), str(n + 1)]) for n in range(50)))
        assert all(vector is not None for vectors in results for vector in vectors)


def test_vectors_without_a_direction_are_none() -> None:
    assert unit_vector(np.zeros(3, dtype=np.float32)) is None
    assert unit_vector(np.array([np.nan, 1, 0], dtype=np.float32)) is None
    assert unit_vector(np.array([np.inf, 1, 0], dtype=np.float32)) is None
    scaled = unit_vector(np.array([3, 4, 0], dtype=np.float32))
    assert scaled is not None
    assert scaled.tolist() == pytest.approx([0.6, 0.8, 0.0])


def test_the_settings_choose_the_embedder() -> None:
    embedder = make_embedder(VectorSettings())
    assert (embedder.name, embedder.dimension) == ("wordllama-l2_supercat-256", 256)
    assert logging.getLogger().level == logging.WARNING
