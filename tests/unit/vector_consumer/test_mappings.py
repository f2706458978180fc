from __future__ import annotations

import pytest

from banking.streaming.entities import ENTITY_MODELS, EntityType, Kind
from vector_consumer.embedders.wordllama import WordLlamaEmbedder
from vector_consumer.mappings import FIELD_MAPPINGS, STATE_MAPPINGS, IndexDefinition, alias_of, define_indices
from vector_consumer.settings import VectorSettings


@pytest.fixture
def definitions() -> dict[EntityType, IndexDefinition]:
    return define_indices(VectorSettings(hnsw_m=8, hnsw_ef_construction=32, index_shards=3), WordLlamaEmbedder())


def test_names() -> None:
    names = [alias_of("banking", entity_type) for entity_type in EntityType]
    assert names == [
        "banking-persons",
        "banking-accounts",
        "banking-transactions",
        "banking-companies",
        "banking-communications",
    ]


def test_every_declared_field_is_mapped_by_its_kind(definitions: dict[EntityType, IndexDefinition]) -> None:
    for entity_type, model in ENTITY_MODELS.items():
        mappings = definitions[entity_type].body["mappings"]
        assert mappings["dynamic"] is False
        for field in model.fields:
            assert mappings["properties"][field.name] == FIELD_MAPPINGS[field.kind]
        assert STATE_MAPPINGS.items() <= mappings["properties"].items()


def test_every_kind_has_a_mapping() -> None:
    assert set(FIELD_MAPPINGS) == set(Kind)


def test_the_vector_field_names_its_engine(definitions: dict[EntityType, IndexDefinition]) -> None:
    for definition in definitions.values():
        assert definition.body["mappings"]["properties"]["embedding"] == {
            "type": "knn_vector",
            "dimension": 256,
            "method": {
                "name": "hnsw",
                "engine": "lucene",
                "space_type": "cosinesimil",
                "parameters": {"m": 8, "ef_construction": 32},
            },
        }


def test_copies_follow_the_nodes_unless_they_are_set() -> None:
    embedder = WordLlamaEmbedder()
    unset = define_indices(VectorSettings(), embedder)[EntityType.PERSON].body["settings"]["index"]
    assert unset["auto_expand_replicas"] == "0-1"
    given = define_indices(VectorSettings(index_replicas=2), embedder)[EntityType.PERSON].body["settings"]["index"]
    assert given["number_of_replicas"] == 2
    assert "auto_expand_replicas" not in given


def test_strictness(definitions: dict[EntityType, IndexDefinition]) -> None:
    for definition in definitions.values():
        assert definition.body["settings"]["index"]["mapping"] == {"coerce": False, "ignore_malformed": False}
