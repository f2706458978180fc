"""Events as callers write them: what may be left out is filled in, what is wrong is named by its field."""

from __future__ import annotations

import re
import time
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from banking.streaming.entities import ENTITY_MODELS, EntityType, Kind
from banking.streaming.events import (
    MAX_DEPTH,
    SCHEMA_VERSION,
    EventError,
    EventType,
    InvalidEventError,
    check_number_of_values,
    create_event,
    version_skew_seconds,
    without_values,
)
from banking.streaming.payloads import DECIMAL_PATTERN, check_payload
from producer.lines import MAX_LINE_BYTES

if TYPE_CHECKING:
    from banking.streaming.events import EntityEvent

MAX_CLOCK_SKEW_SECONDS = 300.0
"""Both legs reject a version that is a time further ahead than this, so it is refused here already."""

_MONEY = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?")
_DECIMAL = re.compile(DECIMAL_PATTERN)
_AT_PATH = re.compile(r"^(?P<problem>.*) - at `\$\.?(?P<path>.*)`$", re.DOTALL)
_FIELD_NAMED = re.compile(r"^Object (?P<problem>missing required|contains unknown) field `(?P<field>.*)`", re.DOTALL)
_MAJOR = SCHEMA_VERSION.partition(".")[0]


# Not `int`: with numbers read as decimals, msgspec would refuse 5.0, which JSON Schema counts among the integers.
_INTEGER_OR_NULL = {"anyOf": [{"type": "integer"}, {"type": "null"}]}


class EventDraft(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An event as it is posted; everything but `entity_id` and `entity_type` may be left out.

    Attributes:
        entity_id: Names the entity, in both stores: 1 to 256 printable ASCII characters without white space.
        entity_type: What kind of entity it is. One id under two types is two entities.
        event_type: Create and update both carry the whole state; a delete carries no payload.
        payload: The whole state of the entity, never a patch.
        text_for_embedding: What the search by meaning goes by. Left out: the payload's text fields; empty: nothing.
        version: Grows with every event of the entity. Left out: the event's time in microseconds since 1970; so give
            versions for all events of an entity or for none. From 10^15 on it counts as such a time, and may not lie
            more than a few minutes ahead.
        event_id: Unique to the event. Left out: a new one.
        timestamp: When it happened, with an offset, not before 1970. Left out: now.
        source: The system that the event comes from.
        metadata: Anything about the event that is not the entity's state.
        schema_version: The version of this schema. An event of a newer `1.x` may have fields that are not known here;
            they are kept.
    """

    entity_id: str
    entity_type: str
    event_type: str = "create"
    payload: dict[str, Any] = {}
    text_for_embedding: str | None = None
    version: Annotated[Any, msgspec.Meta(extra_json_schema=_INTEGER_OR_NULL)] = None
    event_id: str | None = None
    timestamp: datetime | None = None
    source: str | None = None
    metadata: dict[str, Any] = {}
    schema_version: str = SCHEMA_VERSION


_KNOWN_FIELDS = frozenset(EventDraft.__struct_fields__)


class _Schema(msgspec.Struct):
    schema_version: str


# Decimals keep the digits of a JSON number until it is known whether it is money.
_decoder = msgspec.json.Decoder(EventDraft, float_hook=Decimal)
_object_decoder = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)
_schema_decoder = msgspec.json.Decoder(_Schema)


def parse_event(
    data: bytes | bytearray | memoryview,
    source: str,
    *,
    event_id: str | None = None,
    timestamp: datetime | None = None,
    now_microseconds: int | None = None,
    max_clock_skew_seconds: float = MAX_CLOCK_SKEW_SECONDS,
) -> EntityEvent:
    """The event that a caller wrote as one JSON object.

    Left out, `event_type` is create, `payload` and `metadata` are empty, `timestamp` is now, `version` the event's time
    in microseconds, `event_id` a new UUID, and `text_for_embedding` is composed of the payload's text fields. Numbers
    in money fields are taken by their digits and become decimal strings.

    Args:
        data: The JSON object.
        source: What its `source` is where it names none.
        event_id: What its `event_id` is where it names none; None makes one.
        timestamp: What its `timestamp` is where it names none; None is now.
        now_microseconds: What counts as now for a version that is a time; None is now.
        max_clock_skew_seconds: How far in the future a version that is a time may lie.

    Raises:
        InvalidEventError: It is no valid event; it names the field, or `event` where no field is at fault.
    """
    # Before it is decoded: that may take thirty times the memory.
    if len(data) > MAX_LINE_BYTES:
        raise InvalidEventError("event", f"has more than {MAX_LINE_BYTES:,} bytes")
    check_number_of_values(data)
    try:
        draft, unknown = _decoder.decode(data), None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidOperation) as error:
        draft, unknown = _other_minor(data, error)
    if draft.schema_version != SCHEMA_VERSION and unknown is None:
        _check_schema_version(draft.schema_version)
    if draft.event_id == "":
        raise InvalidEventError("event_id", "expected 1 to 256 characters, got none")
    event = create_event(
        draft.entity_type,
        draft.entity_id,
        _without_decimals(draft.payload),
        source=source if draft.source is None else draft.source,
        event_type=draft.event_type,
        text_for_embedding=draft.text_for_embedding,
        version=_whole(draft.version),
        timestamp=draft.timestamp or timestamp,
        event_id=draft.event_id or event_id,
        metadata=_floats(draft.metadata),
    )
    check_declared(event.entity_type, event.payload)
    now = time.time_ns() // 1000 if now_microseconds is None else now_microseconds
    skew = version_skew_seconds(event.version, now)
    if skew > max_clock_skew_seconds:
        raise InvalidEventError("version", f"is a time {skew:.0f} s ahead, more than {max_clock_skew_seconds:g} s")
    if event.event_type is EventType.DELETE and event.payload:
        raise InvalidEventError("payload", "a delete carries no payload")
    if draft.schema_version != SCHEMA_VERSION:
        fields: dict[str, Any] = {"schema_version": draft.schema_version}
        event = msgspec.structs.replace(event, **fields, **({"unknown_fields": unknown} if unknown else {}))
    return event


def check_declared(entity_type: EntityType, payload: dict[str, Any]) -> None:
    """Check what is declared of the payload, and write money as decimal strings, in place.

    Raises:
        InvalidEventError: A value does not fit; it names the field.
    """
    for name in _MONEY_FIELDS[entity_type]:
        value = payload.get(name)
        if value is not None:
            try:
                payload[name] = exact_decimal(value)
            except ValueError as error:
                raise InvalidEventError(f"payload.{name}", str(error)) from None
    for name, value in payload.items():
        if type(value) is Decimal:
            payload[name] = float(value)
    check_payload(entity_type, payload)


def exact_decimal(value: object) -> str:
    """Money as a plain decimal string: `1.50`, `12`, and not `1E+1`.

    Raises:
        ValueError: It is no decimal number, or one of more than 30 digits before or after the point.
    """
    if isinstance(value, Decimal) and abs(value.adjusted()) <= 60:
        text = format(value, "f")
    elif isinstance(value, int | str | Decimal) and not isinstance(value, bool):
        text = str(value)
    else:
        raise ValueError(f"expected a decimal number, got a value of type {type(value).__name__}")
    if _MONEY.fullmatch(text) is None:
        got = "one of too many digits" if _DECIMAL.fullmatch(text) else "another text"
        raise ValueError(f"expected a decimal number such as 1234.50, got {got}")
    return text


_MONEY_FIELDS = {
    entity_type: tuple(field.name for field in model.fields if field.kind is Kind.MONEY)
    for entity_type, model in ENTITY_MODELS.items()
}


def _whole(version: Any) -> Any:
    """A version that was written as a number of another form but is an integer, as one."""
    # By its exponent first: arithmetic with `1e999999999` overflows.
    if isinstance(version, Decimal) and version.adjusted() < 20 and version == version.to_integral_value():
        return int(version)
    return version


def _without_decimals(values: dict[str, Any]) -> dict[str, Any]:
    """Nested decimals as floats again; those of the first level are left, for one of them may be money."""
    for name, value in values.items():
        if type(value) is dict or type(value) is list:
            values[name] = _floats(value)
    return values


def _floats(value: Any, depth: int = 0) -> Any:
    if type(value) is Decimal:
        return float(value)
    # Decoding has a limit of its own, which on some versions of Python is far deeper than the interpreter's.
    if depth > MAX_DEPTH:
        raise InvalidEventError("event", f"nested deeper than {MAX_DEPTH} levels")
    if type(value) is dict:
        return {name: _floats(item, depth + 1) for name, item in value.items()}
    if type(value) is list:
        return [_floats(item, depth + 1) for item in value]
    return value


def _other_minor(data: bytes | bytearray | memoryview, error: Exception) -> tuple[EventDraft, dict[str, Any] | None]:
    """An event of a newer minor schema, whose unknown fields are kept; else the error that names the field."""
    try:
        schema_version = _schema_decoder.decode(data).schema_version
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _named(error) from None
    if schema_version == SCHEMA_VERSION:
        raise _named(error) from None
    _check_schema_version(schema_version)
    try:
        fields = _object_decoder.decode(data)
        unknown = _floats({name: value for name, value in fields.items() if name not in _KNOWN_FIELDS})
        known = {name: value for name, value in fields.items() if name in _KNOWN_FIELDS}
        return msgspec.convert(known, EventDraft), unknown
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidOperation) as failure:
        raise _named(failure) from None


def _check_schema_version(schema_version: str) -> None:
    major, _, minor = schema_version.partition(".")
    if major != _MAJOR or not minor.isascii() or not minor.isdigit() or len(minor) > 6:
        raise InvalidEventError(
            "schema_version", f"expected {_MAJOR}.x, got another text of {len(schema_version)} characters"
        )


def _named(error: Exception) -> EventError:
    """The error in the contract's words, with the field that it is about."""
    text = without_values(str(error))
    if isinstance(error, msgspec.ValidationError):
        if match := _FIELD_NAMED.match(text):
            problem = "is missing" if match["problem"].startswith("missing") else "is no field of an event"
            return InvalidEventError(f"{match['field']:.80}", problem)
        if match := _AT_PATH.match(text):
            return InvalidEventError(match["path"] or "event", match["problem"])
        return InvalidEventError("event", text)
    if isinstance(error, RecursionError):
        return InvalidEventError("event", "is nested too deeply")
    return InvalidEventError("event", f"is no JSON in UTF-8: {text}")
