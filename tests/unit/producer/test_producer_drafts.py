"""Events as callers write them: what is filled in, what is refused, and by which name."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banking.streaming.events import EntityEvent, EventError, InvalidEventError, decode_event, encode_event
from producer.drafts import parse_event


def parse(**fields):
    return parse_event(json.dumps({"entity_id": "a-1", "entity_type": "account", **fields}).encode(), "test")


def test_what_is_left_out_is_filled_in():
    event = parse_event(b'{"entity_id":"p-1","entity_type":"person","payload":{"name":"Ada","city":"Paris"}}', "test")
    assert event.event_type == "create"
    assert event.source == "test"
    assert event.event_id
    assert event.version == pytest.approx(datetime.now(UTC).timestamp() * 1e6, abs=60e6)
    assert event.text_for_embedding == "Ada Paris"
    assert decode_event(encode_event(event)) == event


def test_what_is_given_is_kept():
    event = parse(
        event_type="update",
        version=7,
        event_id="e-1",
        timestamp="2024-03-31T12:00:00+02:00",
        source="core",
        text_for_embedding="",
        metadata={"batch": 3},
    )
    assert event == EntityEvent(
        entity_id="a-1",
        entity_type="account",
        event_type="update",
        payload={},
        version=7,
        event_id="e-1",
        timestamp=datetime(2024, 3, 31, 10, tzinfo=UTC),
        source="core",
        text_for_embedding="",
        metadata={"batch": 3},
    )


def test_the_version_comes_from_the_time_that_is_given():
    assert parse(timestamp="1970-01-01T00:00:01.000002Z").version == 1_000_002


def test_a_version_may_be_written_as_any_number_that_is_an_integer():
    data = b'{"entity_id":"a","entity_type":"account","version":%s}'
    assert [parse_event(data % written, "test").version for written in (b"5", b"5.0", b"5e3")] == [5, 5, 5000]


def test_what_is_left_out_may_be_said_by_the_request():
    moment = datetime(2026, 3, 1, tzinfo=UTC)
    data = b'{"entity_id":"a","entity_type":"account"}'
    event = parse_event(data, "test", event_id="e-1", timestamp=moment)
    assert (event.event_id, event.timestamp, event.version) == ("e-1", moment, 1_772_323_200_000_000)
    assert parse_event(data, "test", event_id="e-1", timestamp=moment) == event
    given = parse_event(data[:-1] + b',"event_id":"mine","version":7}', "test", event_id="e-1", timestamp=moment)
    assert (given.event_id, given.version, given.timestamp) == ("mine", 7, moment)


def test_now_may_be_another_moment():
    data = b'{"entity_id":"a","entity_type":"account","version":1772323200000000}'
    assert parse_event(data, "test", now_microseconds=1_772_323_100_000_000).version == 1_772_323_200_000_000
    with pytest.raises(InvalidEventError, match="is a time 400 s ahead"):
        parse_event(data, "test", now_microseconds=1_772_322_800_000_000)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("12.10", "12.10"),
        ("12345678901234567.89", "12345678901234567.89"),
        ("100", "100"),
        ('"1.50"', "1.50"),
        ("1e2", "100"),
    ],
)
def test_money_is_taken_by_its_digits(written, kept):
    data = b'{"entity_id":"a","entity_type":"account","payload":{"balance":%s}}' % written.encode()
    assert parse_event(data, "test").payload == {"balance": kept}


def test_other_numbers_stay_numbers():
    event = parse(payload={"limit": 1.5, "nested": {"list": [1.25, 2]}}, metadata={"load": 0.5})
    assert event.payload == {"limit": 1.5, "nested": {"list": [1.25, 2]}}
    assert event.metadata == {"load": 0.5}
    assert isinstance(event.metadata["load"], float)


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({"entity_id": "a b"}, "entity_id", "white space"),
        ({"entity_id": 7}, "entity_id", "Expected `str`"),
        ({"entity_type": "acount"}, "entity_type", "expected one of person, account"),
        ({"event_type": "upsert"}, "event_type", "create, update, delete"),
        ({"payload": []}, "payload", "Expected `object`"),
        ({"paylaod": {}}, "paylaod", "is no field of an event"),
        ({"version": -1}, "version", "0 to 2"),
        ({"version": 1.5}, "version", "an integer"),
        ({"version": "1"}, "version", "an integer"),
        ({"event_id": ""}, "event_id", "1 to 256"),
        ({"timestamp": "0001-01-01T00:00:00+05:00"}, "timestamp", "years 1 to 9999"),
        ({"version": 4_000_000_000_000_000}, "version", "ahead"),
        ({"timestamp": "2024-01-01T00:00:00"}, "timestamp", "time zone"),
        ({"timestamp": "yesterday"}, "timestamp", "RFC3339"),
        ({"source": ""}, "source", "1 to 256"),
        ({"schema_version": "2.0"}, "schema_version", "expected 1.x"),
        ({"payload": {"balance": True}}, "payload.balance", "decimal"),
        ({"payload": {"balance": "12,50"}}, "payload.balance", "decimal"),
        ({"payload": {"opened_on": "2024-02-30"}}, "payload.opened_on", "day"),
        ({"payload": {"opened_on": "30.01.2024"}}, "payload.opened_on", "YYYY-MM-DD"),
        ({"payload": {"created_at": "2024-01-01T00:00:00"}}, "payload.created_at", "offset"),
        ({"entity_type": "person", "payload": {"is_pep": "no"}}, "payload.is_pep", "true or false"),
        ({"payload": {"owner_id": "p-1"}}, "payload.owner_type", "one of person, company"),
        ({"event_type": "delete", "payload": {"balance": "1"}}, "payload", "delete"),
    ],
)
def test_what_is_wrong_is_named_by_its_field(fields, field, problem):
    with pytest.raises(InvalidEventError, match=problem) as caught:
        parse(**fields)
    assert caught.value.field == field


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"7", b"\xff", b'{"entity_id":"\xff"}', b"[" * 100_000])
def test_what_is_no_event_at_all_is_named_event(data):
    with pytest.raises(InvalidEventError) as caught:
        parse_event(data, "test")
    assert caught.value.field == "event"


def test_a_missing_field_is_named():
    with pytest.raises(InvalidEventError, match="is missing") as caught:
        parse_event(b'{"entity_id":"a"}', "test")
    assert caught.value.field == "entity_type"


def test_unknown_fields_of_a_newer_minor_schema_are_passed_on():
    event = parse(schema_version="1.9", colour="blue", payload={"balance": 5})
    written = json.loads(encode_event(event))
    assert (written["colour"], written["schema_version"], written["payload"]) == ("blue", "1.9", {"balance": "5"})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    ["entity_id", "entity_type", "payload", "version", "timestamp", "metadata", "schema_version", "x"]
)


@given(st.dictionaries(names, json_values | st.sampled_from(["account", "1.0", "1.7"])))
def test_any_object_is_an_event_that_survives_or_is_refused(fields):
    try:
        event = parse_event(json.dumps(fields).encode(), "test")
        data = encode_event(event)
    except EventError:
        return
    assert decode_event(data).key == event.key


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_are_refused(data):
    try:
        parse_event(data, "test")
    except EventError:
        return
