from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from banking.streaming.entities import ENTITY_MODELS, EntityType, Field, Kind
from banking.streaming.payloads import EXPECTED, InvalidPayloadError, check_payload, links, parse_value
from banking.streaming.sink import RejectionReason

ACCOUNT, COMMUNICATION, COMPANY = EntityType.ACCOUNT, EntityType.COMMUNICATION, EntityType.COMPANY
PERSON, TRANSACTION = EntityType.PERSON, EntityType.TRANSACTION


@pytest.mark.parametrize(
    ("kind", "value", "parsed"),
    [
        (Kind.KEYWORD, "", ""),
        (Kind.TEXT, "Ann", "Ann"),
        (Kind.MONEY, "0", 0.0),
        (Kind.MONEY, "-12.50", -12.5),
        (Kind.MONEY, "+1.5", 1.5),
        (Kind.MONEY, "-1E+3", -1000.0),
        (Kind.MONEY, Decimal("0.1"), 0.1),
        (Kind.MONEY, 5, 5.0),
        (Kind.NUMBER, 2.5, 2.5),
        (Kind.NUMBER, 3, 3.0),
        (Kind.INTEGER, -(2**63), -(2**63)),
        (Kind.BOOLEAN, False, False),
        (Kind.DATE, "2024-02-29", "2024-02-29"),
        (Kind.DATE, date(2024, 2, 29), "2024-02-29"),
        (Kind.TIMESTAMP, "2024-01-01T00:00:00Z", datetime(2024, 1, 1, tzinfo=UTC)),
        (Kind.TIMESTAMP, "2024-01-01T00:00:00.123456789+00:00", datetime(2024, 1, 1, 0, 0, 0, 123457, tzinfo=UTC)),
        (Kind.TIMESTAMP, "0001-01-01T00:00:00+18:00", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=18)))),
        (Kind.TIMESTAMP, "2024-01-01T12:00:00-05:30", datetime(2024, 1, 1, 17, 30, tzinfo=UTC)),
    ],
)
def test_a_value_that_fits_is_parsed(kind: Kind, value: object, parsed: object) -> None:
    result = parse_value(Field("field", kind), value)
    assert result == parsed
    assert type(result) is type(parsed)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Kind.KEYWORD, [5, True, ["Ann"], {"first": "Ann"}]),
        (Kind.TEXT, [5, None]),
        (Kind.MONEY, [0.1, True, "", " 1", "1,5", "1,000.00", "1.", ".5", "1d", "0x1p3", "NaN", "Infinity", "1_000"]),
        (Kind.MONEY, ["\u0661", "1e999", "1\n", 10**400, [], {}, Decimal("NaN")]),
        (Kind.NUMBER, ["5", True, float("nan"), float("inf"), 10**400]),
        (Kind.INTEGER, [5.0, "5", True, 2**63, -(2**63) - 1]),
        (Kind.BOOLEAN, ["", "true", 1, 0]),
        (Kind.DATE, ["2023-02-29", "2024-2-3", "20240203", "2024-W01-1", "29.02.2024", "", 20240203, True, []]),
        (Kind.DATE, ["2024-02-29T00:00:00Z", "0000-01-01", "2024-02-29\n"]),
        (Kind.TIMESTAMP, ["2024-01-01T00:00:00", "2024-01-01", 1704067200, "2024-01-01 00:00:00Z"]),
        (Kind.TIMESTAMP, ["2024-01-01t00:00:00Z", "2024-01-01T00:00:00z", "2024-01-01T24:00:00Z"]),
        (Kind.TIMESTAMP, ["2024-01-01T00:00:60Z", "2024-01-01T00:00:00+18:01", "2024-01-01T00:00:00+0100"]),
        (Kind.TIMESTAMP, ["2024-02-30T00:00:00Z", "2024-01-01T00:00:00.1234567890Z", datetime(2024, 1, 1)]),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name_and_not_shown(kind: Kind, values: list[object]) -> None:
    for value in values:
        with pytest.raises(InvalidPayloadError) as caught:
            parse_value(Field("some_field", kind), value, "payload.list[2].")
        assert caught.value.reason is RejectionReason.INVALID_FIELD
        assert caught.value.field == "payload.list[2].some_field"
        assert str(caught.value).startswith(f"payload.list[2].some_field: expected {EXPECTED[kind]}, got ")
        if isinstance(value, str) and len(value) > 6:
            assert value not in str(caught.value)


def test_null_and_what_is_not_declared_may_be_anything() -> None:
    check_payload(PERSON, {"name": None, "employer_id": None, "balance": {"x": float("nan")}, "": []})


def test_every_declared_field_is_checked() -> None:
    for entity_type, model in ENTITY_MODELS.items():
        for field in model.fields:
            with pytest.raises(InvalidPayloadError) as caught:
                check_payload(entity_type, {field.name: object()})
            assert caught.value.field == f"payload.{field.name}"


def linked(entity_type: EntityType, payload: dict[str, Any]) -> list[tuple[str, EntityType, str, dict[str, Any]]]:
    return [
        (link.reference.field, link.target_type, link.target_id, link.properties)
        for link in links(entity_type, payload)
    ]


def test_every_reference_is_followed() -> None:
    assert linked(PERSON, {"employer_id": "c"}) == [("employer_id", COMPANY, "c", {})]
    assert linked(COMMUNICATION, {"sender_id": "p", "recipient_ids": ["q", "q"]}) == [
        ("sender_id", PERSON, "p", {}),
        ("recipient_ids", PERSON, "q", {}),
        ("recipient_ids", PERSON, "q", {}),
    ]
    assert linked(COMPANY, {"officers": [{"person_id": "p", "role": "CEO", "since": 2020}]}) == [
        ("officers", PERSON, "p", {"role": "CEO"})
    ]
    assert linked(TRANSACTION, {"to_account_id": "a", "amount": "1.50", "executed_at": "2024-01-01T00:00:00Z"}) == [
        ("to_account_id", ACCOUNT, "a", {"amount": 1.5, "executed_at": datetime(2024, 1, 1, tzinfo=UTC)})
    ]
    assert linked(
        ACCOUNT,
        {
            "owner_id": "p",
            "owner_type": "person",
            "beneficial_owners": [{"owner_id": "c", "owner_type": "company", "percentage": 25}],
        },
    ) == [("owner_id", PERSON, "p", {}), ("beneficial_owners", COMPANY, "c", {"percentage": 25.0})]


@pytest.mark.parametrize(
    ("entity_type", "payload", "path"),
    [
        (ACCOUNT, {"owner_id": "p"}, "payload.owner_type"),
        (ACCOUNT, {"owner_id": "p", "owner_type": "alien"}, "payload.owner_type"),
        (ACCOUNT, {"owner_id": "p", "owner_type": "transaction"}, "payload.owner_type"),
        (ACCOUNT, {"joint_owners": [{"owner_id": "p"}], "owner_type": "person"}, "payload.joint_owners[0].owner_type"),
        (ACCOUNT, {"joint_owners": [{"owner_type": "person"}]}, "payload.joint_owners[0].owner_id"),
        (ACCOUNT, {"joint_owners": ["p"]}, "payload.joint_owners[0]"),
        (ACCOUNT, {"joint_owners": {"owner_id": "p"}}, "payload.joint_owners"),
        (PERSON, {"employer_id": ""}, "payload.employer_id"),
        (PERSON, {"employer_id": "a b"}, "payload.employer_id"),
        (PERSON, {"employer_id": "x" * 257}, "payload.employer_id"),
        (COMMUNICATION, {"recipient_ids": ["p", None]}, "payload.recipient_ids[1]"),
    ],
)
def test_a_reference_that_cannot_be_followed_is_refused(
    entity_type: EntityType, payload: dict[str, Any], path: str
) -> None:
    with pytest.raises(InvalidPayloadError) as caught:
        check_payload(entity_type, payload)
    assert caught.value.reason is RejectionReason.INVALID_REFERENCE
    assert caught.value.field == path


def test_a_value_beside_a_reference_that_does_not_fit_is_refused() -> None:
    owners = [{"owner_id": "p", "owner_type": "person", "percentage": "half"}]
    with pytest.raises(InvalidPayloadError) as caught:
        check_payload(ACCOUNT, {"beneficial_owners": owners})
    assert caught.value.reason is RejectionReason.INVALID_FIELD
    assert str(caught.value) == (
        "payload.beneficial_owners[0].percentage: expected a finite number, got another string"
    )
