from __future__ import annotations

from pathlib import Path

import pytest

from banking.streaming.entities import ENTITY_MODELS, EntityModel, EntityType, Field, Kind
from graph_consumer import model

REPOSITORY = Path(__file__).parents[3]


def test_the_file_that_the_server_reads_is_what_the_entity_model_says() -> None:
    assert (REPOSITORY / model.DEFAULT_PATH).read_bytes() == model.encode_model(), (
        "run `python -m graph_consumer.model`"
    )


def test_every_declared_field_is_a_property() -> None:
    properties = model.build_model()["properties"]
    for entity in ENTITY_MODELS.values():
        assert entity.declared <= properties.keys()


def test_what_people_look_up_is_indexed() -> None:
    lookups = model.build_model()["lookups"]
    assert {"entity_id", "name", "iban", "account_number"} <= set(lookups)
    assert model.build_model()["unique"] == ["entity_key"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((Field("version", Kind.INTEGER),), "person.version: the name is reserved"),
        ((Field("amount", Kind.KEYWORD),), "amount: a "),
    ],
)
def test_contradicting_declarations_are_refused(
    fields: tuple[Field, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = EntityModel(EntityType.PERSON, "persons", "person_id", fields)
    monkeypatch.setattr(model, "ENTITY_MODELS", {**ENTITY_MODELS, EntityType.PERSON: person})
    with pytest.raises(ValueError, match=message):
        model.build_model()


def test_the_fingerprint_follows_the_content(monkeypatch: pytest.MonkeyPatch) -> None:
    before = model.build_model()["fingerprint"]
    person = EntityModel(EntityType.PERSON, "persons", "person_id", (Field("new_field", Kind.KEYWORD),))
    monkeypatch.setattr(model, "ENTITY_MODELS", {**ENTITY_MODELS, EntityType.PERSON: person})
    assert model.build_model()["fingerprint"] != before


def test_the_command_writes_the_file(tmp_path: Path) -> None:
    model.main([str(tmp_path / "model.json")])
    assert (tmp_path / "model.json").read_bytes() == model.encode_model()
