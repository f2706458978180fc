"""The event contract: what is accepted, what is refused and how it is named, and that nothing changes on the way."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from banking.streaming.entities import EntityType
from banking.streaming.events import (
    MAX_EVENT_BYTES,
    EntityEventBatch,
    EventDecodeError,
    EventType,
    InvalidEventError,
    VersionClock,
    content_hash,
    create_account_event,
    create_communication_event,
    create_company_event,
    create_event,
    create_person_event,
    create_transaction_event,
    decode_event,
    encode_event,
    from_microseconds,
    to_microseconds,
    version_skew_seconds,
)
from banking.streaming.sink import RejectionReason

IDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=256)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
PAYLOADS = st.dictionaries(TEXTS, VALUES, max_size=6)


@given(
    entity_type=st.sampled_from(EntityType),
    entity_id=IDS,
    payload=PAYLOADS,
    text=st.none() | TEXTS,
    version=st.integers(0, 2**63 - 1),
    timestamp=st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
)
def test_any_valid_event_survives_the_round_trip(entity_type, entity_id, payload, text, version, timestamp):
    event = create_event(
        entity_type,
        entity_id,
        payload,
        source="test",
        text_for_embedding=text,
        version=version,
        timestamp=timestamp,
        metadata=payload,
    )
    decoded = decode_event(encode_event(event))
    assert decoded == event
    assert content_hash(decoded) == content_hash(event)


@given(data=st.data())
def test_mutated_bytes_decode_to_a_valid_event_or_raise_the_one_error(data):
    encoded = bytearray(create_person_event("p-1", "Ann", {"n": [1, {"a": 1.5}]}, source="test").to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(encoded) - 1))
        match data.draw(st.sampled_from(["set", "cut", "insert"])):
            case "set":
                encoded[place] = data.draw(st.integers(0, 255))
            case "cut":
                del encoded[place : place + data.draw(st.integers(1, 20))]
            case "insert":
                encoded[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        if not encoded:
            break
    try:
        event = decode_event(bytes(encoded))
    except EventDecodeError:
        return
    assert decode_event(encode_event(event)) == event


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", RejectionReason.UNDECODABLE),
        (b"\xff\xfe", RejectionReason.UNDECODABLE),
        (b"[1]", RejectionReason.UNDECODABLE),
        (b"[" * 200_000, RejectionReason.UNDECODABLE),
        (b'{"schema_version":"2.0","body":{}}', RejectionReason.UNSUPPORTED_SCHEMA),
        (b'{"schema_version":"1.0"}', RejectionReason.UNDECODABLE),
    ],
)
def test_bytes_that_are_no_event_say_why(data, reason):
    with pytest.raises(EventDecodeError) as caught:
        decode_event(data)
    assert caught.value.reason is reason


def test_a_field_of_the_wrong_type_is_named_by_the_decode_error():
    data = json.loads(create_person_event("p-1", "Ann", source="test").to_bytes()) | {"version": "seven"}
    with pytest.raises(EventDecodeError, match=r"\$\.version"):
        decode_event(json.dumps(data).encode())


def test_an_event_without_a_version_is_refused_because_a_consumer_could_only_invent_one():
    data = json.loads(create_person_event("p-1", "Ann", source="test").to_bytes())
    del data["version"]
    with pytest.raises(EventDecodeError, match="version"):
        decode_event(json.dumps(data).encode())


@pytest.mark.parametrize("entity_id", ["", " ", "a b", "ä", "a\n", "x" * 257, "a\x7f", "\x00"])
def test_an_id_outside_the_limits_is_refused_by_maker_and_reader(entity_id):
    with pytest.raises(InvalidEventError) as caught:
        create_person_event(entity_id, "Ann", source="test")
    assert caught.value.field == "entity_id"
    data = json.loads(create_person_event("p-1", "Ann", source="test").to_bytes()) | {"entity_id": entity_id}
    with pytest.raises(EventDecodeError, match="entity_id"):
        decode_event(json.dumps(data).encode())


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"a": float("nan")}, "payload.a"),
        ({"a": {"b": [1.0, float("inf")]}}, "payload.a.b[1]"),
        ({"a": Decimal("NaN")}, "payload.a"),
        ({"a": object()}, "payload.a"),
        ({"a": "\ud800"}, "payload.a"),
        ({"a": "x" * (MAX_EVENT_BYTES + 1)}, "payload"),
    ],
)
def test_a_payload_that_json_cannot_carry_unchanged_is_refused_naming_the_place(payload, field):
    event = create_person_event("p-1", "Ann", payload, source="test", text_for_embedding="")
    with pytest.raises(InvalidEventError) as caught:
        encode_event(event)
    assert caught.value.field == field


def test_a_payload_nested_too_deep_is_refused():
    nested: dict[str, object] = {}
    for _ in range(70):
        nested = {"a": nested}
    with pytest.raises(InvalidEventError, match="nested deeper"):
        encode_event(create_person_event("p-1", "Ann", nested, source="test"))


def test_bytes_nested_too_deep_are_no_event():
    encoded = create_account_event("a-1", {"x": "DEEP"}, "test").to_bytes()
    fits, deep = (encoded.replace(b'"DEEP"', b"[" * levels + b"]" * levels) for levels in (63, 64))
    assert encode_event(decode_event(fits))
    with pytest.raises(EventDecodeError, match="nested deeper than 64 levels") as caught:
        decode_event(deep)
    assert caught.value.reason is RejectionReason.UNDECODABLE


def test_many_brackets_that_are_not_nested_are_fine():
    event = create_account_event("a-1", {"list": [{} for _ in range(1000)], "text": "[" * 1000}, "test")
    assert decode_event(event.to_bytes()) == event


def test_money_stays_exact_as_a_decimal_string():
    event = create_account_event("a-1", {"balance": Decimal("0.10")}, source="test")
    assert json.loads(event.to_bytes())["payload"]["balance"] == "0.10"
    assert content_hash(event) == content_hash(decode_event(event.to_bytes()))


def test_an_update_without_a_version_is_newer_than_the_create_before_it():
    versions = [create_person_event("p-1", "Ann", source="test").version for _ in range(2000)]
    assert versions == sorted(set(versions))


def test_the_version_clock_grows_even_when_the_system_clock_steps_back(monkeypatch):
    readings = iter([2_000_000_000, 1_000_000_000, 1_000_000_000])
    monkeypatch.setattr("banking.streaming.events.time.time_ns", lambda: next(readings))
    clock = VersionClock()
    assert [clock(), clock(), clock()] == [2_000_000, 2_000_001, 2_000_002]


def test_a_given_time_is_the_version_in_microseconds_and_is_kept_in_utc():
    moment = datetime(2026, 3, 1, 12, 0, 0, 123456, timezone(timedelta(hours=2)))
    event = create_person_event("p-1", "Ann", source="test", timestamp=moment)
    assert event.timestamp == moment
    assert event.timestamp.tzinfo is UTC
    assert from_microseconds(event.version) == moment
    assert to_microseconds(moment) == 1_772_359_200_123_456


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(InvalidEventError, match="time zone"):
        create_person_event("p-1", "Ann", source="test", timestamp=datetime(2026, 1, 1))


def test_skew_is_told_for_time_like_versions_only():
    now = 1_790_000_000_000_000
    assert version_skew_seconds(now + 5_000_000, now) == 5.0
    assert version_skew_seconds(now - 5_000_000, now) == 0.0
    assert version_skew_seconds(7, now) == 0.0


def test_fields_of_a_newer_minor_schema_are_kept_and_passed_on():
    data = json.loads(create_person_event("p-1", "Ann", source="test").to_bytes())
    data |= {"schema_version": "1.7", "lineage": {"from": "core"}}
    event = decode_event(json.dumps(data).encode())
    assert event.unknown_fields == {"lineage": {"from": "core"}}
    assert json.loads(encode_event(event)) == data


def test_an_event_of_the_own_schema_has_no_unknown_fields():
    assert decode_event(create_person_event("p-1", "Ann", source="t").to_bytes()).unknown_fields is msgspec.UNSET


@pytest.mark.parametrize("field", ["entity_type", "event_type"])
def test_an_unknown_type_is_refused_with_those_that_are_known(field):
    values = {"entity_type": "person", "event_type": "create"} | {field: "dragon"}
    with pytest.raises(InvalidEventError, match=f"{field}: expected one of .*, got a text of 6 characters"):
        create_event(values["entity_type"], "x", {}, source="test", event_type=values["event_type"])


def test_a_delete_carries_no_payload():
    with pytest.raises(InvalidEventError, match="payload: a delete carries no payload"):
        encode_event(create_person_event("p-1", "Ann", source="test", event_type=EventType.DELETE))
    tombstone = create_event(EntityType.PERSON, "p-1", source="test", event_type="delete")
    assert decode_event(tombstone.to_bytes()).event_type is EventType.DELETE


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (create_person_event("1", "Ann Lee", {"city": "Bonn", "email": "a@b"}, source="t"), "Ann Lee Bonn"),
        (create_company_event("1", "Acme", {"industry": "steel"}, source="t"), "Acme steel"),
        (create_account_event("1", {"account_type": "savings", "balance": "1"}, source="t"), "savings"),
        (create_transaction_event("1", {"description": "rent May", "amount": "1"}, source="t"), "rent May"),
        (create_communication_event("1", {"subject": "hello", "body": "wire it"}, source="t"), "hello wire it"),
        (create_person_event("1", "Ann", source="t", text_for_embedding=""), ""),
    ],
)
def test_the_text_to_embed_is_composed_of_the_declared_fields_unless_given(event, text):
    assert event.text_for_embedding == text


def test_content_hash_tells_two_contents_under_one_version_and_nothing_else():
    first = create_person_event("p-1", "Ann", {"a": 1, "b": 2}, source="one", version=1)
    same = create_person_event("p-1", "Ann", {"b": 2, "a": 1}, source="two", version=9)
    other = create_person_event("p-1", "Ann", {"a": 1, "b": 3}, source="one", version=1)
    assert content_hash(first) == content_hash(same)
    assert content_hash(first) != content_hash(other)


def test_a_batch_gives_the_newest_event_of_each_entity():
    old, new = (create_person_event("p-1", "Ann", source="t", version=number) for number in (1, 2))
    same_id = create_account_event("p-1", {}, source="t", version=1)
    batch = EntityEventBatch([new, old])
    batch.add(same_id)
    assert len(batch) == 3
    assert list(batch.newest()) == [new, same_id]


@pytest.mark.parametrize(
    "data",
    [
        b'{"entity_id":"p-1","entity_type":"Jane Roe","event_type":"create","version":1}',
        b'{"entity_id":"p-1","entity_type":"person","event_type":"it\'s\\nJane Roe","version":1}',
        b'{"entity_id":"Jane Roe","entity_type":"person","event_type":"create","version":1}',
        b'{"schema_version":"Jane Roe"}',
        b'{"entity_id":"p-1","version":"Jane Roe"}',
        b'{"entity_id":"p-1","timestamp":"Jane Roe"}',
        b'{"Jane Roe',
        b"\xffJane Roe",
    ],
)
def test_an_error_in_decoding_does_not_tell_what_the_bytes_hold(data):
    with pytest.raises(EventDecodeError) as caught:
        decode_event(data)
    assert "Jane" not in str(caught.value)


@pytest.mark.parametrize("field", ["entity_id", "event_id", "source"])
def test_an_invalid_text_is_not_repeated(field):
    values = {"entity_id": "p-1", "event_id": "e-1", "source": "t"} | {field: "Jane Roe" * 40}
    event = create_event(EntityType.PERSON, values["entity_id"].replace(" ", "_")[:256], source="t")
    with pytest.raises(InvalidEventError, match=f"{field}: .*a text of 320 characters") as caught:
        encode_event(msgspec.structs.replace(event, **values))
    assert "Jane" not in str(caught.value)
