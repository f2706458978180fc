"""The JSON Schema says what the code says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from banking.streaming.entities import ENTITY_MODELS, EntityType, Kind
from banking.streaming.events import InvalidEventError, create_event, decode_event, encode_event
from banking.streaming.payloads import check_payload
from banking.streaming.schema import encode_event_schema, read_event_schema

CORPUS = Path(__file__).parents[2] / "corpus"
VALIDATOR = Draft202012Validator(json.loads(read_event_schema()))


def test_the_published_file_is_what_the_code_makes() -> None:
    assert read_event_schema() == encode_event_schema(), "run: python -m banking.streaming.schema"


def test_it_is_a_valid_schema() -> None:
    Draft202012Validator.check_schema(VALIDATOR.schema)


@pytest.mark.parametrize("line", (CORPUS / "schema-1.0.ndjson").read_text(encoding="utf-8").split("\n")[:-1])
def test_released_events_are_valid(line: str) -> None:
    VALIDATOR.validate(json.loads(line))


def valid(**changes: Any) -> dict[str, Any]:
    event = json.loads(encode_event(create_event("account", "a-1", {"balance": "1.50"}, source="test")))
    return event | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"entity_id": "a b"},
        {"entity_id": ""},
        {"entity_id": "a\n"},
        {"entity_type": "alien"},
        {"event_type": "upsert"},
        {"payload": []},
        {"payload": {"balance": 1.5}},
        {"payload": {"balance": "1,50"}},
        {"payload": {"owner_id": "p-1"}},
        {"payload": {"owner_id": "p-1", "owner_type": "transaction"}},
        {"payload": {"joint_owners": [{"owner_type": "person"}]}},
        {"payload": {"joint_owners": ["p-1"]}},
        {"entity_type": "communication", "payload": {"recipient_ids": [7]}},
        {"version": -1},
        {"version": 2**63},
        {"schema_version": "one"},
        {"source": ""},
    ],
)
def test_what_is_no_event_is_no_event_to_the_schema(changes: dict[str, Any]) -> None:
    assert VALIDATOR.is_valid(valid())
    assert not VALIDATOR.is_valid(valid(**changes))


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["1.50", "-3", "1e3", "2024-02-29", "2024-03-31T12:00:00Z", "p-1", "person", "company"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["owner_id", "owner_type", "person_id", "role", "percentage"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@given(data=st.data(), entity_type=st.sampled_from(EntityType))
def test_it_takes_what_the_services_take(data: st.DataObject, entity_type: EntityType) -> None:
    model = ENTITY_MODELS[entity_type]
    names = sorted(model.declared | {reference.field for reference in model.references})
    payload = data.draw(st.dictionaries(st.sampled_from(names), values, max_size=3))
    try:
        check_payload(entity_type, payload)
        fits = True
    except InvalidEventError:
        fits = False
    taken = VALIDATOR.is_valid(valid(entity_type=entity_type, payload=payload))
    assert taken or not fits
    # The other way round it holds save for what no schema can say: days of the calendar, and numbers too large.
    unsayable = (Kind.DATE, Kind.TIMESTAMP, Kind.MONEY)
    if not any(field.name in payload for field in model.fields if field.kind in unsayable) and "percentage" not in str(
        payload
    ):
        assert fits or not taken


def test_the_documented_event_is_one() -> None:
    page = Path(__file__).parents[3] / "docs" / "events.md"
    blocks = re.findall(r"^```json\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 1
    VALIDATOR.validate(json.loads(blocks[0]))
    event = decode_event(blocks[0].encode())
    check_payload(event.entity_type, event.payload)
