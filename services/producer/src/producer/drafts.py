"""Events as callers write them: what may be left out is filled in, what is wrong is named by its field."""

from __future__ import annotations

import re
import time
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import msgspec

from banking.streaming.entities import ENTITY_MODELS, EntityType, Kind
from banking.streaming.events import (
    SCHEMA_VERSION,
    EventError,
    EventType,
    InvalidEventError,
    create_event,
    version_skew_seconds,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from banking.streaming.events import EntityEvent

MAX_CLOCK_SKEW_SECONDS = 300.0
"""Both legs reject a version that is a time further ahead than this, so it is refused here already."""

_MONEY = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?")
_TIMESTAMP = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_AT_PATH = re.compile(r"^(?P<problem>.*) - at `\$\.?(?P<path>.*)`$", re.DOTALL)
_FIELD_NAMED = re.compile(r"^Object (?P<problem>missing required|contains unknown) field `(?P<field>.*)`", re.DOTALL)
_MAJOR = SCHEMA_VERSION.partition(".")[0]


class EventDraft(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An event as it is posted; everything but `entity_id` and `entity_type` may be left out."""

    entity_id: str
    entity_type: str
    event_type: str = "create"
    payload: dict[str, Any] = {}
    text_for_embedding: str | None = None
    version: int | None = None
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
    data: bytes | bytearray | memoryview, source: str, *, max_clock_skew_seconds: float = MAX_CLOCK_SKEW_SECONDS
) -> EntityEvent:
    """The event that a caller wrote as one JSON object.

    Left out, `event_type` is create, `payload` and `metadata` are empty, `timestamp` is now, `version` the event's time
    in microseconds, `event_id` a new UUID, and `text_for_embedding` is composed of the payload's text fields. Numbers
    in money fields are taken by their digits and become decimal strings.

    Args:
        data: The JSON object.
        source: What its `source` is where it names none.
        max_clock_skew_seconds: How far in the future a version that is a time may lie.

    Raises:
        InvalidEventError: It is no valid event; it names the field, or `event` where no field is at fault.
    """
    try:
        draft, unknown = _decoder.decode(data), None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidOperation) as error:
        draft, unknown = _other_minor(data, error)
    if draft.schema_version != SCHEMA_VERSION and unknown is None:
        _check_schema_version(draft.schema_version)
    event = create_event(
        draft.entity_type,
        draft.entity_id,
        _without_decimals(draft.payload),
        source=source if draft.source is None else draft.source,
        event_type=draft.event_type,
        text_for_embedding=draft.text_for_embedding,
        version=draft.version,
        timestamp=draft.timestamp,
        event_id=draft.event_id,
        metadata=_floats(draft.metadata),
    )
    check_declared_fields(event.entity_type, event.payload)
    skew = version_skew_seconds(event.version, time.time_ns() // 1000)
    if skew > max_clock_skew_seconds:
        raise InvalidEventError("version", f"is a time {skew:.0f} s ahead, more than {max_clock_skew_seconds:g} s")
    if event.event_type is EventType.DELETE and event.payload:
        raise InvalidEventError("payload", "a delete carries no payload")
    if draft.schema_version != SCHEMA_VERSION:
        fields: dict[str, Any] = {"schema_version": draft.schema_version}
        event = msgspec.structs.replace(event, **fields, **({"unknown_fields": unknown} if unknown else {}))
    return event


def check_declared_fields(entity_type: EntityType, payload: dict[str, Any]) -> None:
    """Check the payload's declared fields of an exact kind, and write money as decimal strings, in place.

    Raises:
        InvalidEventError: A value is not of its field's kind; it names the field.
    """
    for name, convert in _CHECKED_FIELDS[entity_type]:
        value = payload.get(name)
        if value is not None:
            try:
                payload[name] = convert(value)
            except ValueError as error:
                raise InvalidEventError(f"payload.{name}", str(error)) from None
    for name, value in payload.items():
        if type(value) is Decimal:
            payload[name] = float(value)


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
        raise ValueError(f"expected a decimal number, got {value!r:.80}")
    if _MONEY.fullmatch(text) is None:
        raise ValueError(f"expected a decimal number such as 1234.50, got {value!s:.80}")
    return text


def _checked_date(value: object) -> object:
    if not isinstance(value, str) or _DATE.fullmatch(value) is None:
        raise ValueError(f"expected a date such as 2024-03-31, got {value!r:.80}")
    date.fromisoformat(value)  # raises where no such day is
    return value


def _checked_timestamp(value: object) -> object:
    if not isinstance(value, str) or _TIMESTAMP.fullmatch(value) is None:
        raise ValueError(f"expected a time with an offset such as 2024-03-31T12:00:00Z, got {value!r:.80}")
    datetime.fromisoformat(value[:19])  # raises where no such day or hour is
    return value


def _checked_boolean(value: object) -> object:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {value!r:.80}")  # noqa: TRY004 - one kind is caught
    return value


def _checked_integer(value: object) -> object:
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise ValueError(f"expected an integer of 64 bits, got {value!r:.80}")
    return value


def _checked_number(value: object) -> object:
    if not isinstance(value, int | float | Decimal) or isinstance(value, bool):
        raise ValueError(f"expected a number, got {value!r:.80}")  # noqa: TRY004
    return value


_CHECKS: dict[Kind, Callable[[object], object]] = {
    Kind.MONEY: exact_decimal,
    Kind.DATE: _checked_date,
    Kind.TIMESTAMP: _checked_timestamp,
    Kind.BOOLEAN: _checked_boolean,
    Kind.INTEGER: _checked_integer,
    Kind.NUMBER: _checked_number,
}
_CHECKED_FIELDS = {
    entity_type: tuple((field.name, _CHECKS[field.kind]) for field in model.fields if field.kind in _CHECKS)
    for entity_type, model in ENTITY_MODELS.items()
}


def _without_decimals(values: dict[str, Any]) -> dict[str, Any]:
    """Nested decimals as floats again; those of the first level are left, for one of them may be money."""
    for name, value in values.items():
        if type(value) is dict or type(value) is list:
            values[name] = _floats(value)
    return values


def _floats(value: Any) -> Any:
    if type(value) is Decimal:
        return float(value)
    if type(value) is dict:
        return {name: _floats(item) for name, item in value.items()}
    if type(value) is list:
        return [_floats(item) for item in value]
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
        raise InvalidEventError("schema_version", f"expected {_MAJOR}.x, got {schema_version!r:.40}")


def _named(error: Exception) -> EventError:
    """The error in the contract's words, with the field that it is about."""
    text = str(error)
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
