"""Bytes from anybody: one error that says why, or an event that is passed on equal."""

from __future__ import annotations

import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from banking.streaming.entities import EntityType
from banking.streaming.events import (
    MAX_EVENT_VALUES,
    EventDecodeError,
    InvalidEventError,
    create_event,
    decode_event,
    encode_event,
)
from banking.streaming.payloads import InvalidPayloadError, check_payload
from tests.hostile import IDS, NO_EVENTS, STRANGE_EVENTS, TEXTS, WRONG_PAYLOADS, event_with, with_payload


@pytest.mark.parametrize("data", NO_EVENTS.values(), ids=NO_EVENTS)
def test_what_is_no_event_raises_the_one_error(data):
    with pytest.raises(EventDecodeError) as caught:
        decode_event(data)
    assert len(str(caught.value)) < 300
    assert "DROP TABLE" not in str(caught.value)


@pytest.mark.parametrize("name", STRANGE_EVENTS)
def test_what_is_an_event_after_all_is_passed_on_equal(name):
    event = decode_event(STRANGE_EVENTS[name])
    if name == "large_text":
        with pytest.raises(InvalidEventError, match="more than 4,194,304"):
            encode_event(event)
    else:
        assert decode_event(encode_event(event)) == event


def test_the_last_of_equal_keys_counts():
    assert decode_event(STRANGE_EVENTS["duplicate_keys"]).entity_id == "hostile-raw"
    assert decode_event(STRANGE_EVENTS["duplicate_payload_keys"]).payload == {"x": {"a": 2}}


@pytest.mark.parametrize("entity_type", list(EntityType))
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_is_a_text(entity_type, text):
    event = event_with(entity_type, "hostile-1", text)
    check_payload(entity_type, event.payload)
    assert decode_event(encode_event(event)) == event


@pytest.mark.parametrize("entity_id", IDS)
def test_an_awkward_id_is_an_id(entity_id):
    event = event_with(EntityType.ACCOUNT, entity_id, "", target_id=entity_id)
    check_payload(EntityType.ACCOUNT, event.payload)
    assert decode_event(encode_event(event)).entity_id == entity_id


@pytest.mark.parametrize("payload", WRONG_PAYLOADS.values(), ids=WRONG_PAYLOADS)
def test_a_payload_that_breaks_its_declaration_is_named(payload):
    event = decode_event(with_payload(payload))
    with pytest.raises(InvalidPayloadError, match=r"^payload\.\w+(\[0\])?(\.\w+)?: expected "):
        check_payload(event.entity_type, event.payload)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_event(data):
    with pytest.raises(EventDecodeError):
        decode_event(data)


SEEDS = [data for data in (*NO_EVENTS.values(), *STRANGE_EVENTS.values()) if 0 < len(data) < 3000]


@given(seed=st.sampled_from(SEEDS), other=st.sampled_from(SEEDS), data=st.data())
def test_spliced_bytes_are_an_event_or_raise_the_one_error(seed, other, data):
    cut, onward = data.draw(st.integers(0, len(seed))), data.draw(st.integers(0, len(other)))
    mutated = bytearray(seed[:cut] + data.draw(st.binary(max_size=4)) + other[onward:])
    for _ in range(data.draw(st.integers(0, 3))):
        if mutated:
            mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    try:
        event = decode_event(bytes(mutated))
    except EventDecodeError:
        return
    assert decode_event(encode_event(event)) == event


@pytest.mark.parametrize("value", [{}, [], 0, "x"], ids=["objects", "arrays", "numbers", "texts"])
def test_an_event_of_too_many_values_is_not_published(value):
    payload = {"list": [value] * (MAX_EVENT_VALUES - 12)}
    assert encode_event(create_event("person", "p-1", payload, source="test"))
    payload["list"] += [value] * 12
    with pytest.raises(InvalidEventError, match="more than 100,000 values"):
        encode_event(create_event("person", "p-1", payload, source="test"))


def test_fields_of_a_newer_minor_schema_may_not_be_nested_too_deep_either():
    nested: list[object] = []
    for _ in range(63):
        nested = [nested]
    event = msgspec.structs.replace(decode_event(STRANGE_EVENTS["newer_minor"]), unknown_fields={"lineage": nested})
    with pytest.raises(InvalidEventError, match="nested deeper than 64 levels") as caught:
        encode_event(event)
    assert caught.value.field.startswith("lineage[0]")


@pytest.mark.parametrize("piece", [b'\\"', b'"', b"\\", b'\\",', b'",', b"[", b'"x":'], ids=range(7))
def test_counting_values_takes_no_longer_than_reading_them(piece):
    started = time.perf_counter()
    for data in (piece * 1_000_000, b'"' + piece * 1_000_000, b"," * 200_000 + b'"' + piece * 1_000_000):
        with pytest.raises(EventDecodeError):
            decode_event(data)
    assert time.perf_counter() - started < 10


def test_commas_in_a_text_are_no_values():
    event = create_event("person", "p-1", {"note": ",[{" * 200_000}, source="test")
    assert decode_event(encode_event(event)) == event


def test_an_integer_of_more_digits_than_python_prints_is_refused_by_name():
    with pytest.raises(InvalidEventError, match=r"version: .*an integer of 16610 bits"):
        create_event("person", "p-1", {}, source="test", version=10**5000)
    with pytest.raises(InvalidPayloadError, match=r"payload\.balance: expected a decimal string"):
        check_payload(EntityType.ACCOUNT, {"balance": 10**5000})
