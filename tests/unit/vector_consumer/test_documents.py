from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from banking.streaming.entities import EntityType
from banking.streaming.events import (
    EntityEvent,
    EventType,
    content_hash,
    create_account_event,
    create_event,
    create_person_event,
    decode_event,
    encode_event,
)
from vector_consumer.documents import encode_document
from vector_consumer.mappings import LONGEST_TERM_BYTES

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def encoded(event: EntityEvent, vector: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
    lines = encode_document(event, "banking-persons-v1", vector, NOW)
    assert lines.endswith(b"\n")
    action, document = lines.splitlines()
    return json.loads(action), json.loads(document)


def terms(value: Any, path: str = "payload") -> list[str]:
    """The terms that a flat_object makes of a value."""
    if isinstance(value, dict):
        return [term for key, item in value.items() for term in terms(item, f"{path}.{key}")]
    if isinstance(value, list):
        return [term for item in value for term in terms(item, path)]
    return [f"{path}={value}"]


def test_the_action_carries_the_version() -> None:
    action, _ = encoded(create_person_event('p"1\\', "Ann", source="test", version=7))
    assert action == {
        "index": {"_index": "banking-persons-v1", "_id": 'p"1\\', "version": 7, "version_type": "external"}
    }


def test_a_document_has_state_fields_declared_fields_and_the_payload() -> None:
    event = create_person_event("p-1", "Ann", {"email": "a@b.example", "extra": {"x": [1]}}, source="crm", version=7)
    _, document = encoded(event)
    assert document.pop("event_time") == event.timestamp.isoformat().replace("+00:00", "Z")
    assert document == {
        "entity_id": "p-1",
        "entity_type": "person",
        "version": 7,
        "content_hash": content_hash(event),
        "source": "crm",
        "text": "Ann",
        "name": "Ann",
        "email": "a@b.example",
        "payload": {"name": "Ann", "email": "a@b.example", "extra": {"x": [1]}},
    }


def test_a_field_that_is_null_is_absent() -> None:
    _, document = encoded(create_person_event("p-1", "Ann", {"email": None}, source="crm"))
    assert "email" not in document
    assert document["payload"]["email"] is None


def test_a_tombstone_holds_nothing_of_the_entity() -> None:
    event = create_event(EntityType.PERSON, "p-1", source="crm", event_type=EventType.DELETE, version=8)
    assert encoded(event)[1] == {
        "entity_id": "p-1",
        "entity_type": "person",
        "version": 8,
        "content_hash": content_hash(event),
        "deleted": True,
        "deleted_at": "2026-01-02T03:04:05Z",
    }


def test_a_vector_is_written_to_its_last_digit() -> None:
    vector = np.array([0.1, -1 / 3, 1e-8], dtype=np.float32)
    _, document = encoded(create_person_event("p-1", "Ann", source="crm"), vector)
    assert np.array_equal(np.array(document["embedding"], dtype=np.float32), vector)


def test_line_breaks_in_values_do_not_break_lines() -> None:
    _, document = encoded(create_person_event("p-1", "Ann\n{}\r\n\u2028", source="a\nb"))
    assert document["name"] == "Ann\n{}\r\n\u2028"


def test_money_keeps_its_digits() -> None:
    balance = "123456789012345678901234567890.10"
    _, document = encoded(create_account_event("a-1", {"balance": Decimal(balance)}, "core"))
    assert document["balance"] == document["payload"]["balance"] == balance


class TestLongValues:
    @pytest.mark.parametrize("length", [LONGEST_TERM_BYTES - 13, LONGEST_TERM_BYTES - 12])
    def test_the_longest_term(self, length: int) -> None:
        event = create_person_event("p-1", "Ann", {"note": "n" * length}, source="crm")
        _, document = encoded(event)
        fits = len("payload.note=") + length <= LONGEST_TERM_BYTES
        assert ("note" in document["payload"]) is fits
        assert ("payload_whole" in document) is not fits

    def test_only_what_is_too_long_is_left_out(self) -> None:
        payload = {
            "list": ["a", "x" * 40_000, None, {"keep": 1, "drop": "é" * 20_000}],
            "k" * 40_000: 1,
            "none": None,
            "nested": {"deep": {"drop": "x" * 40_000}},
        }
        _, document = encoded(create_account_event("a-1", payload, "core"))
        assert document["payload"] == {"list": ["a", None, {"keep": 1}], "none": None, "nested": {"deep": {}}}
        assert document["payload_whole"] == payload

    def test_many_short_values_stay_as_they_are(self) -> None:
        payload = {"numbers": list(range(50_000))}
        _, document = encoded(create_account_event("a-1", payload, "core"))
        assert document["payload"] == payload
        assert "payload_whole" not in document

    def test_deep_nesting_is_left_out_of_what_is_indexed(self) -> None:
        deep: Any = "x" * 40_000
        for _ in range(400):
            deep = [{"d": deep}]
        _, document = encoded(create_account_event("a-1", {"deep": deep}, "core"))
        assert document["payload_whole"] == {"deep": deep}

    @given(
        st.recursive(
            st.none() | st.integers() | st.text(max_size=20) | st.integers(30_000, 40_000).map(lambda n: "é" * n),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
            max_leaves=10,
        )
    )
    def test_no_term_is_ever_too_long_and_nothing_is_lost(self, value: Any) -> None:
        payload = {"value": value}
        _, document = encoded(create_account_event("a-1", payload, "core"))
        assert all(len(term.encode()) <= LONGEST_TERM_BYTES for term in terms(document["payload"]))
        assert document.get("payload_whole", document["payload"]) == payload


def test_what_came_over_the_wire_makes_the_same_document() -> None:
    event = create_account_event("a-1", {"balance": Decimal("1.10"), "opened_on": "2024-02-29"}, "core")
    assert encoded(decode_event(encode_event(event))) == encoded(event)
