from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banking.streaming.entities import ENTITY_MODELS, EntityType, Kind
from banking.streaming.events import EventType, content_hash, create_event
from banking.streaming.payloads import InvalidPayloadError
from graph_consumer.rows import Edge, Row, encode_row, to_row

ACCOUNT, COMMUNICATION, COMPANY = EntityType.ACCOUNT, EntityType.COMMUNICATION, EntityType.COMPANY
PERSON, TRANSACTION = EntityType.PERSON, EntityType.TRANSACTION
NOW = datetime(2024, 6, 1, 12, 0, 0, 999_999, tzinfo=UTC)


def row(entity_type: EntityType, payload: dict[str, Any], entity_id: str = "id") -> Row:
    return to_row(create_event(entity_type, entity_id, payload, source="test", version=7, timestamp=NOW), NOW)


def extra(made: Row) -> Any:
    return json.loads(made.state["extra"]) if "extra" in made.state else {}


def test_a_row_has_the_state_of_its_event() -> None:
    event = create_event(PERSON, "p", {"name": "Ann"}, source="crm", version=7, timestamp=NOW)
    assert to_row(event, NOW).state == {
        "version": 7,
        "content_hash": content_hash(event),
        "event_time": 1717243200999,
        "source": "crm",
        "name": "Ann",
    }


def test_a_delete_is_a_tombstone_and_nothing_else() -> None:
    event = create_event(PERSON, "p", source="crm", version=8, timestamp=NOW, event_type=EventType.DELETE)
    made = to_row(event, NOW)
    assert made.state.keys() == {"version", "content_hash", "event_time", "deleted", "deleted_at", "deleted_on"}
    assert made.state["deleted"] is True
    assert made.edges == []


def test_a_row_on_the_wire_is_an_array() -> None:
    made = row(PERSON, {"employer_id": "c"})
    entity_type, entity_id, version, state, edges, repair = json.loads(encode_row(made))
    assert (entity_type, entity_id, version, repair) == ("person", "id", 7, False)
    assert state["employer_id"] == "c"
    assert edges == [["employed_by", "company", "c", {}]]


@pytest.mark.parametrize(
    ("field", "value", "stored", "is_exact"),
    [
        ("balance", "10.10", 10.1, False),
        ("balance", "-1E+3", -1000.0, False),
        ("balance", Decimal("0.1"), 0.1, False),
        ("balance", 5, 5.0, False),
        ("opened_on", "2024-02-29", "2024-02-29", True),
        ("created_at", "2024-01-01T00:00:00Z", 1704067200000, True),
        ("created_at", "2024-01-01T00:00:00.120000+00:00", 1704067200120, True),
        ("created_at", "2024-01-01T01:00:00+01:00", 1704067200000, False),
        ("created_at", "2024-01-01T00:00:00.123456Z", 1704067200123, False),
        ("created_at", "1969-12-31T23:59:59.999Z", -1, True),
        ("status", "", "", True),
    ],
)
def test_declared_values_are_typed(field: str, value: object, stored: object, is_exact: bool) -> None:
    made = row(ACCOUNT, {field: value})
    assert made.state[field] == stored
    assert type(made.state[field]) is type(stored)
    assert (field in extra(made)) is not is_exact


def test_a_declared_null_is_no_property() -> None:
    made = row(PERSON, {"name": None, "employer_id": None})
    assert "name" not in made.state
    assert made.edges == []


def test_undeclared_and_nested_values_are_kept() -> None:
    undeclared = {"shoe_size": 38, "tags": ["a", {"b": None}], "version": 3, "x": None}
    assert extra(row(PERSON, {"person_id": "id", **undeclared})) == undeclared


def test_another_id_under_the_id_field_is_kept() -> None:
    assert extra(row(PERSON, {"person_id": "other"})) == {"person_id": "other"}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values))
def test_the_payload_is_the_properties_overlaid_by_extra(payload: dict[str, Any]) -> None:
    declared = ENTITY_MODELS[PERSON].declared | {"person_id"}
    undeclared = {name: value for name, value in payload.items() if name not in declared}
    made = row(PERSON, {"name": "Ann", **undeclared})
    assert {"name": made.state["name"], **extra(made)} == {"name": "Ann", **undeclared}


def test_every_reference_becomes_an_edge() -> None:
    assert row(PERSON, {"employer_id": "c"}).edges == [Edge("employed_by", COMPANY, "c", {})]
    assert row(COMMUNICATION, {"sender_id": "p", "recipient_ids": ["q", "r", "q"]}).edges == [
        Edge("sent_by", PERSON, "p", {}),
        Edge("received_by", PERSON, "q", {}),
        Edge("received_by", PERSON, "r", {}),
    ]
    assert row(COMPANY, {"parent_id": "d", "officers": [{"person_id": "p", "role": "CEO", "since": 2020}]}).edges == [
        Edge("subsidiary_of", COMPANY, "d", {}),
        Edge("has_officer", PERSON, "p", {"role": "CEO"}),
    ]
    payment = {"from_account_id": "a", "to_account_id": "b", "amount": "1.50", "executed_at": "2024-01-01T00:00:00Z"}
    properties = {"amount": 1.5, "executed_at": 1704067200000}
    assert row(TRANSACTION, payment).edges == [
        Edge("from_account", ACCOUNT, "a", properties),
        Edge("to_account", ACCOUNT, "b", properties),
    ]
    assert row(
        ACCOUNT,
        {
            "owner_id": "p",
            "owner_type": "person",
            "joint_owners": [{"owner_id": "q", "owner_type": "person"}],
            "beneficial_owners": [{"owner_id": "c", "owner_type": "company", "percentage": 25}],
        },
    ).edges == [
        Edge("owned_by", PERSON, "p", {"role": "owner"}),
        Edge("owned_by", PERSON, "q", {"role": "joint"}),
        Edge("owned_by", COMPANY, "c", {"role": "beneficial", "percentage": 25.0}),
    ]


def test_a_payload_that_does_not_fit_makes_no_row() -> None:
    with pytest.raises(InvalidPayloadError, match=r"^payload\.owner_type: "):
        row(ACCOUNT, {"owner_id": "p"})
    with pytest.raises(InvalidPayloadError, match=r"^payload\.balance: "):
        row(ACCOUNT, {"balance": "much"})


def test_every_kind_has_a_converter() -> None:
    values = {Kind.MONEY: "1", Kind.BOOLEAN: True, Kind.DATE: "2024-01-01", Kind.TIMESTAMP: "2024-01-01T00:00:00Z"}
    for model in ENTITY_MODELS.values():
        payload = {field.name: values.get(field.kind, "person") for field in model.fields}
        assert row(model.entity_type, payload).state.keys() >= model.declared
