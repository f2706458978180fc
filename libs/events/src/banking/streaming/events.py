"""The event contract: `EntityEvent`, its JSON encoding, and the functions that make events.

An event carries the whole state of one entity at one version (never a patch), so the newest version alone decides what
a store holds. On the wire it is one JSON object; `docs/events.md` and `event.schema.json` describe it for
producers in other languages.
"""

from __future__ import annotations

import hashlib
import math
import re
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from banking.streaming.entities import ENTITY_MODELS, EntityType
from banking.streaming.sink import RejectionReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SCHEMA_VERSION = "1.0"
"""The version of the event schema, `major.minor`. A newer minor only adds fields."""

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""The largest encoded event, so that its dead letter, with its properties, still fits the broker's 5 MiB."""

MAX_EVENT_VALUES = 100_000
"""The most values that an event holds, its own fields and nested ones counted: in memory an empty object takes 30
times as much as the two bytes that it is written with, so that the bytes alone bound nothing."""

MAX_DEPTH = 64
"""The most levels that payload and metadata are nested."""

MAX_VERSION = 2**63 - 1
_MICROSECONDS = 1_000_000
_TIME_LIKE_FROM = 10**15
# `$` alone would let a final line feed through; the look-ahead means the same in Python and in JSON Schema.
ID_PATTERN = r"^[\x21-\x7e]{1,256}$(?!\n)"
"""What an entity's id looks like."""

_ID = re.compile(ID_PATTERN)
# Texts, one without an end too, and what stands between them. It never goes back, so that no input takes long.
_PIECES = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|([^"]++)', re.DOTALL)
_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}")
_ENUM_VALUE = re.compile(r"Invalid enum value (?:'.*'|\".*\"|-?[0-9]+)", re.DOTALL)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_OFFSET = timedelta(hours=18)  # the largest one of Java, and so of both stores
_PLAIN = frozenset({str, int, bool, type(None)})  # values that JSON holds as they are


class EventType(StrEnum):
    """What happened to the entity. Create and update both carry the whole state."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class EventError(ValueError):
    """Base of the errors that this module raises."""


class InvalidEventError(EventError):
    """An event that may not be published.

    Attributes:
        field: The offending field, as a path such as `payload.balance`.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class EventDecodeError(EventError):
    """Bytes that are no event of a schema that is known here.

    Attributes:
        reason: Why, from the fixed list that dead letters carry.
    """

    def __init__(self, reason: RejectionReason, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason


class EntityEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The whole state of one entity at one version.

    Make one with `create_event` or a `create_…_event`, which fill in id, time and version. `encode_event` checks the
    limits that are stated here.

    Attributes:
        entity_id: 1 to 256 printable ASCII characters without white space; a UUID as a rule.
        entity_type: One of `EntityType`.
        event_type: One of `EventType`.
        payload: The entity's whole state. Empty for a delete. Money is a `Decimal` or a decimal string.
        text_for_embedding: The text that the vector leg embeds; None or empty: no vector.
        version: Grows with every event of the entity, from 0 to 2**63 - 1.
        event_id: Unique to this event.
        timestamp: When it happened, in UTC.
        source: The system it comes from.
        metadata: Anything about the event that is not the entity's state.
        schema_version: `major.minor` of the schema it was written by.
        unknown_fields: Fields of a newer minor schema, kept so that they are passed on.
    """

    entity_id: Annotated[str, Meta(pattern=ID_PATTERN)]
    entity_type: EntityType
    event_type: EventType
    payload: dict[str, Any]
    version: Annotated[int, Meta(ge=0, le=MAX_VERSION)]
    event_id: Annotated[str, Meta(min_length=1, max_length=256)]
    timestamp: Annotated[datetime, Meta(tz=True)]
    source: Annotated[str, Meta(min_length=1, max_length=256)]
    text_for_embedding: str | None = None
    metadata: dict[str, Any] = {}
    schema_version: Annotated[str, Meta(pattern=r"^[0-9]{1,6}\.[0-9]{1,6}$(?!\n)")] = SCHEMA_VERSION
    unknown_fields: dict[str, Any] | UnsetType = UNSET

    @property
    def key(self) -> tuple[EntityType, str]:
        """The identity of the entity: one id under two types is two entities."""
        return (self.entity_type, self.entity_id)

    def to_bytes(self) -> bytes:
        """The event as it stands on the wire; see `encode_event`."""
        return encode_event(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> EntityEvent:
        """The event that was written as `data`; see `decode_event`."""
        return decode_event(data)


class EntityEventBatch:
    """Events that are handed on together, in order.

    Args:
        events: The events; they are checked when they are published, not here.
    """

    def __init__(self, events: Iterable[EntityEvent] = ()) -> None:
        self.events: list[EntityEvent] = list(events)

    def add(self, event: EntityEvent) -> None:
        """Append one event."""
        self.events.append(event)

    def newest(self) -> EntityEventBatch:
        """The newest event of each entity; the first of equals."""
        newest: dict[tuple[EntityType, str], EntityEvent] = {}
        for event in self.events:
            held = newest.get(event.key)
            if held is None or event.version > held.version:
                newest[event.key] = event
        return EntityEventBatch(newest.values())

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator[EntityEvent]:
        return iter(self.events)


class VersionClock:
    """Microseconds since 1970 that strictly grow, whatever the system clock does. Safe to share between threads."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        """The next reading, in microseconds."""
        with self._lock:
            self._last = max(self._last + 1, time.time_ns() // 1000)
            return self._last


_clock = VersionClock()


def to_microseconds(moment: datetime) -> int:
    """A moment as whole microseconds since 1970."""
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * _MICROSECONDS + delta.microseconds


def from_microseconds(microseconds: int) -> datetime:
    """The moment, in UTC, that many microseconds after 1970."""
    seconds, rest = divmod(microseconds, _MICROSECONDS)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)


def version_skew_seconds(version: int, now_microseconds: int) -> float:
    """How far a time-like version lies in the future, in seconds; 0 for versions that are counters."""
    if version < _TIME_LIKE_FROM:
        return 0.0
    return max(0.0, (version - now_microseconds) / _MICROSECONDS)


def create_event(
    entity_type: EntityType | str,
    entity_id: str,
    payload: Mapping[str, Any] | None = None,
    *,
    source: str,
    event_type: EventType | str = EventType.CREATE,
    text_for_embedding: str | None = None,
    version: int | None = None,
    timestamp: datetime | None = None,
    event_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> EntityEvent:
    """Make an event and fill in what is not given.

    Args:
        entity_type: The entity's type.
        entity_id: The entity's id.
        payload: The whole state; copied one level deep. A delete needs none.
        source: The system the event comes from.
        event_type: Create, update or delete.
        text_for_embedding: Text to embed; None composes it from the payload's fields that are declared for it, an
            empty text embeds nothing.
        version: A version that grows per entity. None takes the event's time in microseconds, so give versions for
            every event of an entity or for none.
        timestamp: When it happened, with a time zone; None is now.
        event_id: A unique id; None makes one.
        metadata: Anything about the event that is not the entity's state.

    Raises:
        InvalidEventError: A value breaks the contract; it names the field.
    """
    entity_kind = _member(EntityType, "entity_type", entity_type)
    event_kind = _member(EventType, "event_type", event_type)
    if timestamp is None:
        now = _clock()
        moment = from_microseconds(now)
        version = now if version is None else version
    else:
        if timestamp.tzinfo is None:
            raise InvalidEventError("timestamp", f"needs a time zone, got {timestamp.isoformat()}")
        try:
            moment = timestamp.astimezone(UTC)
        except OverflowError:
            problem = f"lies outside the years 1 to 9999 in UTC, got {timestamp.isoformat()}"
            raise InvalidEventError("timestamp", problem) from None
        version = to_microseconds(moment) if version is None else version
    state = dict(payload or {})
    if text_for_embedding is None and event_kind is not EventType.DELETE:
        text_for_embedding = compose_text(entity_kind, state)
    event = EntityEvent(
        entity_id=entity_id,
        entity_type=entity_kind,
        event_type=event_kind,
        payload=state,
        text_for_embedding=text_for_embedding,
        version=version,
        event_id=event_id or str(uuid.uuid4()),
        timestamp=moment,
        source=source,
        metadata=dict(metadata or {}),
    )
    _check_fields(event)
    return event


def create_person_event(
    person_id: str, name: str, payload: Mapping[str, Any] | None = None, source: str = "unknown", **options: Any
) -> EntityEvent:
    """Make an event of a person. `name` becomes the payload's name; `options` are those of `create_event`."""
    return create_event(EntityType.PERSON, person_id, {"name": name, **(payload or {})}, source=source, **options)


def create_company_event(
    company_id: str, name: str, payload: Mapping[str, Any] | None = None, source: str = "unknown", **options: Any
) -> EntityEvent:
    """Make an event of a company. `name` becomes the payload's name; `options` are those of `create_event`."""
    return create_event(EntityType.COMPANY, company_id, {"name": name, **(payload or {})}, source=source, **options)


def create_account_event(
    account_id: str, payload: Mapping[str, Any] | None = None, source: str = "unknown", **options: Any
) -> EntityEvent:
    """Make an event of an account; `options` are those of `create_event`."""
    return create_event(EntityType.ACCOUNT, account_id, payload, source=source, **options)


def create_transaction_event(
    transaction_id: str, payload: Mapping[str, Any] | None = None, source: str = "unknown", **options: Any
) -> EntityEvent:
    """Make an event of a transaction; `options` are those of `create_event`."""
    return create_event(EntityType.TRANSACTION, transaction_id, payload, source=source, **options)


def create_communication_event(
    communication_id: str, payload: Mapping[str, Any] | None = None, source: str = "unknown", **options: Any
) -> EntityEvent:
    """Make an event of a communication; `options` are those of `create_event`."""
    return create_event(EntityType.COMMUNICATION, communication_id, payload, source=source, **options)


def compose_text(entity_type: EntityType, payload: Mapping[str, Any]) -> str:
    """The text to embed of an entity: its declared text fields that are there, joined by spaces."""
    values = (payload.get(field.name) for field in ENTITY_MODELS[entity_type].fields if field.embedded)
    return " ".join(str(value) for value in values if isinstance(value, str | int | float | Decimal) and value != "")


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(EntityEvent)
_object_decoder = msgspec.json.Decoder(dict[str, Any])
_canonical_encoder = msgspec.json.Encoder(order="sorted")


def encode_event(event: EntityEvent) -> bytes:
    """Encode an event as UTF-8 JSON.

    Raises:
        InvalidEventError: The event breaks the contract, cannot be written as JSON, or is larger than
            `MAX_EVENT_BYTES`; it names the field.
    """
    _check_fields(event)
    if event.event_type is EventType.DELETE and event.payload:
        raise InvalidEventError("payload", "a delete carries no payload")
    _check_contents(event)
    try:
        if event.unknown_fields is UNSET:
            data = _encoder.encode(event)
        else:
            plain = msgspec.to_builtins(event)
            data = _encoder.encode(plain | plain.pop("unknown_fields"))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidEventError(_unencodable_field(event), f"cannot be written as JSON: {error}") from error
    if len(data) > MAX_EVENT_BYTES:
        raise InvalidEventError("payload", f"the event has {len(data):,} bytes, more than {MAX_EVENT_BYTES:,}")
    check_number_of_values(data)
    return data


def decode_event(data: bytes) -> EntityEvent:
    """Decode and check the bytes of one event.

    Raises:
        EventDecodeError: They are no valid event; it says why. Nothing else is raised.
    """
    try:
        check_number_of_values(data)
        event = _decoder.decode(data)
        if event.schema_version != SCHEMA_VERSION:
            event = _decode_other_minor(data, event)
        _check_decoded(data, event)
    except EventDecodeError:
        raise
    except InvalidEventError as error:
        raise EventDecodeError(RejectionReason.UNDECODABLE, str(error)) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, OverflowError) as error:
        raise _decode_error(data, error) from error
    return event


def _check_decoded(data: bytes, event: EntityEvent) -> None:
    """Check what the types above do not say and `encode_event` promises."""
    offset = event.timestamp.utcoffset()
    if offset and abs(offset) > _MAX_OFFSET:
        raise InvalidEventError("timestamp", "expected an offset of at most 18 hours")
    if event.event_type is EventType.DELETE and event.payload:
        raise InvalidEventError("payload", "a delete carries no payload")
    # Every level has a bracket: few brackets, no deep nesting.
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH:
        _check_contents(event)


def check_number_of_values(data: bytes | bytearray | memoryview) -> None:
    """Refuse JSON that would take far more memory than its bytes, before it is decoded.

    Raises:
        InvalidEventError: It holds more than `MAX_EVENT_VALUES` values.
    """
    # Each value has a byte and a separator, or else a bracket: most events are too short to be looked at.
    if len(data) <= 2 * MAX_EVENT_VALUES:
        return
    data = bytes(data)
    if data.count(b",") + data.count(b"[") + data.count(b"{") <= MAX_EVENT_VALUES:
        return
    left = MAX_EVENT_VALUES
    for piece in _PIECES.finditer(data):
        if piece[1] is None:
            continue
        # What holds one value more than commas has a bracket too, and what is empty has the bracket alone.
        bare = piece[1].translate(None, b" \t\r\n")
        left += bare.count(b"[]") + bare.count(b"{}") - bare.count(b",") - bare.count(b"[") - bare.count(b"{")
        if left < 0:
            raise InvalidEventError("event", f"holds more than {MAX_EVENT_VALUES:,} values")


def content_hash(event: EntityEvent) -> str:
    """A 128-bit hash, in hex, of what an event says of its entity: two contents under one version differ in it."""
    content = (event.entity_type, event.entity_id, event.event_type, event.payload, event.text_for_embedding or "")
    return hashlib.blake2b(_canonical_encoder.encode(content), digest_size=16).hexdigest()


_Member = TypeVar("_Member", bound=StrEnum)


def _member(enum: type[_Member], field: str, value: str) -> _Member:
    try:
        return enum(value)
    except ValueError:
        expected = ", ".join(member.value for member in enum)
        raise InvalidEventError(field, f"expected one of {expected}, got {_told(value)}") from None


def _check_fields(event: EntityEvent) -> None:
    """Check the fields that all events have: constraints of the types above are enforced by decoding only."""
    if not isinstance(event.entity_id, str) or _ID.match(event.entity_id) is None:
        raise InvalidEventError(
            "entity_id",
            f"expected 1 to 256 printable ASCII characters without white space, got {_told(event.entity_id)}",
        )
    version = event.version
    if not isinstance(version, int) or isinstance(version, bool) or not 0 <= version <= MAX_VERSION:
        raise InvalidEventError("version", f"expected an integer from 0 to 2**63 - 1, got {_told(version)}")
    for name, value in (("event_id", event.event_id), ("source", event.source)):
        if not isinstance(value, str) or not 0 < len(value) <= 256:
            raise InvalidEventError(name, f"expected 1 to 256 characters, got {_told(value)}")
    if event.timestamp.tzinfo is None:
        raise InvalidEventError("timestamp", "needs a time zone")
    if event.text_for_embedding is not None and not isinstance(event.text_for_embedding, str):
        raise InvalidEventError("text_for_embedding", f"expected a text, got {type(event.text_for_embedding).__name__}")


def _check_contents(event: EntityEvent) -> None:
    _check_values("payload", event.payload)
    if event.metadata:
        _check_values("metadata", event.metadata)
    if isinstance(event.unknown_fields, dict):
        for name, value in event.unknown_fields.items():
            _check_values(name, value, 1)


def _told(value: object) -> str:
    """What a value is, for messages that end in logs: a number, but not what a text holds."""
    if isinstance(value, int):
        # Of more digits than some thousand, Python makes no text.
        return f"{value!r:.80}" if value.bit_length() < 256 else f"an integer of {value.bit_length()} bits"
    return f"a text of {len(value)} characters" if isinstance(value, str) else f"a value of type {type(value).__name__}"


def without_values(message: str) -> str:
    """An error message of msgspec without the value that it is about; it names the field all the same."""
    return _ENUM_VALUE.sub("Invalid enum value", message)


def _check_values(path: str, value: object, depth: int = 0) -> None:
    """Refuse what JSON would change in silence: NaN and infinities, and nesting that no store takes."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidEventError(path, f"expected a finite number, got {value}")
    elif isinstance(value, Decimal):
        if not value.is_finite():
            raise InvalidEventError(path, f"expected a finite decimal, got {value}")
    elif isinstance(value, dict):
        if depth >= MAX_DEPTH:
            raise InvalidEventError(path, f"nested deeper than {MAX_DEPTH} levels")
        for key, item in value.items():
            if type(item) not in _PLAIN:
                _check_values(f"{path}.{key}", item, depth + 1)
    elif isinstance(value, list | tuple):
        if depth >= MAX_DEPTH:
            raise InvalidEventError(path, f"nested deeper than {MAX_DEPTH} levels")
        for index, item in enumerate(value):
            if type(item) not in _PLAIN:
                _check_values(f"{path}[{index}]", item, depth + 1)


def _unencodable_field(event: EntityEvent) -> str:
    """The first field, one level into the payload, that cannot be encoded by itself."""
    for name in event.__struct_fields__:
        value = getattr(event, name)
        parts = value.items() if isinstance(value, dict) else ()
        for key, item in parts:
            if not _encodable({key: item}):
                return f"{name}.{key}"
        if not _encodable(value):
            return name
    return "event"


def _encodable(value: object) -> bool:
    try:
        _encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return False
    return True


class _Schema(msgspec.Struct):
    schema_version: str


def _decode_error(data: bytes, error: Exception) -> EventDecodeError:
    """The error for bytes that did not decode: an event of another major version is told apart from rubbish."""
    try:
        version = msgspec.json.decode(data, type=_Schema).schema_version
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, OverflowError):
        return EventDecodeError(RejectionReason.UNDECODABLE, without_values(str(error)))
    if version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        return _unsupported(version)
    return EventDecodeError(RejectionReason.UNDECODABLE, without_values(str(error)))


def _unsupported(version: str) -> EventDecodeError:
    shown = version if _VERSION.fullmatch(version) else _told(version)
    return EventDecodeError(
        RejectionReason.UNSUPPORTED_SCHEMA,
        f"schema_version: {shown} is not supported, expected {SCHEMA_VERSION.partition('.')[0]}.x",
    )


def _decode_other_minor(data: bytes, event: EntityEvent) -> EntityEvent:
    """Keep what a newer minor schema has beside the known fields."""
    if event.schema_version.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise _unsupported(event.schema_version)
    known = frozenset(EntityEvent.__struct_fields__)
    unknown = {name: value for name, value in _object_decoder.decode(data).items() if name not in known}
    return msgspec.structs.replace(event, unknown_fields=unknown) if unknown else event
