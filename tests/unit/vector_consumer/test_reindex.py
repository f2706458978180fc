"""What a reindex is made of, without a server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from banking.streaming.entities import EntityType
from banking.streaming.events import EventType, create_event, decode_event, encode_event
from banking.streaming.sink import BatchFailedError, SinkUnavailableError
from vector_consumer.client import connect
from vector_consumer.copying import Copier, Move, Progress, digest_of
from vector_consumer.documents import encode_document
from vector_consumer.mappings import HeldIndex, define_indices
from vector_consumer.progress import ReindexDisplay
from vector_consumer.settings import VectorSettings
from vector_consumer.stored import read_stored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vector_consumer.embedder import Vector

WRITTEN = datetime(2026, 3, 1, 12, tzinfo=UTC)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


class StubEmbedder:
    dimension = 2

    def __init__(self, name: str = "stub", refused: str = "") -> None:
        self.name = name
        self._refused = refused

    async def open(self) -> None: ...

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector | None]:
        if self._refused in texts:
            raise BatchFailedError("text_for_embedding: too long")
        return [np.array([1.0, 0.0], dtype=np.float32) for _ in texts]

    async def close(self) -> None: ...


def move(held_meta: dict[str, Any] | None = None, name: str = "stub") -> Move:
    definition = define_indices(VectorSettings(), StubEmbedder(name))[EntityType.PERSON]
    meta = definition.meta if held_meta is None else held_meta
    source = HeldIndex("banking-persons-v1", "u-1", 1, 1, meta, {}, "1000ms")
    target = HeldIndex("banking-persons-v2", "u-2", 2, 1, definition.meta, {}, "-1")
    return Move(definition, source, target, [-1])


@given(payload=st.dictionaries(st.text(), json_values, max_size=5), text=st.text())
def test_a_document_made_anew_is_the_same(payload: dict[str, Any], text: str) -> None:
    made = create_event(EntityType.ACCOUNT, "a-1", payload, source="test", text_for_embedding=text, version=3)
    event = decode_event(encode_event(made))  # as it came to the leg
    vector = np.array([0.6, -0.8], dtype=np.float32)
    lines = encode_document(event, "i", vector, WRITTEN)

    stored = read_stored(json.loads(lines.splitlines()[1]))
    again = encode_document(stored.to_event(), "i", stored.vector, stored.deleted_at, stored.content_hash)
    assert again == lines


def test_a_payload_too_long_to_be_indexed_is_taken_whole() -> None:
    payload = {"note": "x" * 40_000, "kept": [1, {"long": "é" * 30_000}, None]}
    event = create_event(EntityType.ACCOUNT, "a-1", payload, source="test", version=3)
    lines = encode_document(event, "i", None, WRITTEN)

    stored = read_stored(json.loads(lines.splitlines()[1]))
    assert stored.to_event().payload == payload
    assert encode_document(stored.to_event(), "i", None, stored.deleted_at, stored.content_hash) == lines


def test_a_tombstone_keeps_the_time_of_its_writing() -> None:
    event = create_event(EntityType.PERSON, "p-1", source="test", event_type=EventType.DELETE, version=9)
    lines = encode_document(event, "i", None, WRITTEN)

    stored = read_stored(json.loads(lines.splitlines()[1]))
    assert stored.deleted_at == WRITTEN
    assert encode_document(stored.to_event(), "i", None, stored.deleted_at, stored.content_hash) == lines


@pytest.mark.parametrize("missing", ["entity_id", "version", "content_hash"])
def test_a_document_of_somebody_else_is_refused_by_field(missing: str) -> None:
    source = {
        "entity_id": "p-1",
        "entity_type": "person",
        "version": 1,
        "content_hash": "h",
        "payload": {"name": "PII"},
    }
    del source[missing]
    with pytest.raises(ValueError, match=missing) as refusal:
        read_stored(source)
    assert "PII" not in str(refusal.value)


def test_whatever_an_index_is_made_with_tells_it_from_another() -> None:
    def digest(embedder: StubEmbedder, **options: Any) -> str:
        return digest_of(define_indices(VectorSettings(**options), embedder)[EntityType.PERSON])

    one = digest(StubEmbedder())
    assert digest(StubEmbedder()) == one
    assert digest(StubEmbedder("other")) != one
    assert digest(StubEmbedder(), hnsw_m=8) != one
    assert digest(StubEmbedder(), index_shards=2) != one


def test_vectors_are_kept_where_the_model_is_the_same() -> None:
    assert move().keeps_vectors
    assert move({"model": "stub", "dimension": 2, "mapping_version": 0}).keeps_vectors
    assert not move({"model": "stub", "dimension": 3}).keeps_vectors
    assert not move({"model": "other", "dimension": 2}).keeps_vectors
    assert not move({}).keeps_vectors


async def test_a_text_that_the_model_refuses_is_found_among_others() -> None:
    settings = VectorSettings()
    client = connect(settings)
    copier = Copier(client, settings, StubEmbedder(refused="bad"), lambda _progress: None, None)
    work = move()
    vectors = await copier._embed(work, {f"p-{number}": "bad" if number == 5 else "good" for number in range(9)})
    await client.close()

    assert vectors.keys() == {f"p-{number}" for number in range(9)} - {"p-5"}
    assert work.refused == ["p-5: text_for_embedding: too long"]


async def test_a_model_that_is_away_is_no_refusal() -> None:
    class Away(StubEmbedder):
        async def embed(self, texts: Sequence[str]) -> Sequence[Vector | None]:
            raise SinkUnavailableError("embedding service: not reached")

    settings = VectorSettings()
    client = connect(settings)
    work = move()
    with pytest.raises(SinkUnavailableError):
        await Copier(client, settings, Away(), lambda _progress: None, None)._embed(work, {"p-1": "text"})
    await client.close()
    assert work.refused == []


class TestDisplay:
    def test_lines_where_there_is_no_terminal(self) -> None:
        output = StringIO()
        with ReindexDisplay(Console(file=output, width=40)) as display:
            for done in range(0, 1001, 100):
                display.show(Progress("i-v1", "i-v2", done, 1000))
            display.say("writes wait: [i-v1]")
        assert output.getvalue().splitlines() == [
            "i-v1 → i-v2: 0 of 1,000 documents",
            "i-v1 → i-v2: 1,000 of 1,000 documents",
            "writes wait: [i-v1]",
        ]

    def test_bars_on_a_terminal(self) -> None:
        output = StringIO()
        with ReindexDisplay(Console(file=output, force_terminal=True, width=120)) as display:
            display.show(Progress("i-v1", "i-v2", 250, 1000))
            display.show(Progress("j-v1", "j-v2", 10, 10))
        assert "250/1000" in output.getvalue()
        assert "j-v1 → j-v2" in output.getvalue()
        assert "documents" not in output.getvalue()
