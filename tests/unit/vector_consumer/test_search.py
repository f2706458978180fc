from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from banking.streaming.entities import EntityType
from vector_consumer.cli import main
from vector_consumer.search import fuse, meaning_query, words_query


def source(entity_id: str, entity_type: str = "person") -> dict[str, Any]:
    return {"entity_id": entity_id, "entity_type": entity_type, "version": 1, "text": entity_id}


def test_fusion_adds_the_reciprocal_ranks() -> None:
    hits = fuse([source("a"), source("b")], [source("c"), source("a")])
    assert [(hit.entity_id, hit.words_rank, hit.meaning_rank) for hit in hits] == [
        ("a", 1, 2),
        ("c", None, 1),
        ("b", 2, None),
    ]
    assert hits[0].score == pytest.approx(1 / 61 + 1 / 62)


def test_one_id_under_two_types_is_two_hits() -> None:
    hits = fuse([source("a", "person")], [source("a", "company")])
    assert [(hit.entity_type, hit.entity_id) for hit in hits] == [(EntityType.COMPANY, "a"), (EntityType.PERSON, "a")]


def test_ties_have_one_order() -> None:
    assert fuse([source("b")], [source("a")]) == fuse([source("b")], [source("a")])
    assert [hit.entity_id for hit in fuse([source("b")], [source("a")])] == ["a", "b"]


def test_nothing_found() -> None:
    assert fuse([], []) == []


def test_a_document_without_text() -> None:
    found = source("a")
    del found["text"]
    assert fuse([found], [])[0].text == ""


def test_words_are_looked_for_in_texts_and_lookups_of_the_types() -> None:
    query = words_query([EntityType.ACCOUNT], "DE00")["multi_match"]
    assert query["query"] == "DE00"
    assert {"text", "entity_id", "iban", "bank_name"} <= set(query["fields"])
    assert not {"currency", "balance", "email"} & set(query["fields"])


def test_meaning_query() -> None:
    assert meaning_query([1.0, 0.0], 5, 20) == {
        "knn": {"embedding": {"vector": [1.0, 0.0], "k": 5, "method_parameters": {"ef_search": 20}}}
    }


def test_the_command_says_when_the_store_is_away() -> None:
    environment = {"OPENSEARCH_HOST": "localhost", "OPENSEARCH_PORT": "1", "OPENSEARCH_USE_SSL": "false"}
    result = CliRunner().invoke(main, ["search", "anything"], env=environment)
    assert result.exit_code == 1
    assert "OpenSearch is not reached" in result.output


def test_long_texts_are_looked_for_by_their_beginning_in_one_field() -> None:
    query = words_query(list(EntityType), "word " * 1000)["multi_match"]
    assert len(query["query"]) == 1000
    assert {"text", "entity_id", "iban"} <= set(query["fields"])
    assert not {"name", "body", "street"} & set(query["fields"])


def test_the_command_prints_a_vector() -> None:
    result = CliRunner().invoke(main, ["embed", "wire transfer"])
    assert result.exit_code == 0
    vector = json.loads(result.output)
    assert len(vector) == 256
    assert sum(number * number for number in vector) == pytest.approx(1.0, abs=1e-4)


def test_a_text_without_a_vector_is_said_to_have_none() -> None:
    result = CliRunner().invoke(main, ["embed", " "])
    assert result.exit_code == 1
    assert "knows nothing of this text" in result.output
