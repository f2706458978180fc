"""An event as the two lines of a bulk request: the action and the document."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from banking.streaming.entities import ENTITY_MODELS, EntityType, Kind
from banking.streaming.events import EventType, content_hash
from vector_consumer.mappings import EMBEDDING_FIELD, LONGEST_TERM_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from banking.streaming.events import EntityEvent
    from vector_consumer.embedder import Vector

_encode = msgspec.json.Encoder().encode
_DECIMAL = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_PAYLOAD_PATH_BYTES = len("payload")
_DEEPEST_INDEXED = 64

EXPECTED: dict[Kind, str] = {
    Kind.KEYWORD: "a string",
    Kind.TEXT: "a text",
    Kind.MONEY: "a decimal string such as 12.50",
    Kind.NUMBER: "a number",
    Kind.INTEGER: "a whole number of 64 bits",
    Kind.BOOLEAN: "true or false",
    Kind.DATE: "a date as YYYY-MM-DD",
    Kind.TIMESTAMP: "a time as RFC 3339 with an offset",
}
"""What a field of each kind holds, for messages."""


def encode_document(event: EntityEvent, index: str, vector: Vector | None, now: datetime) -> bytes:
    """The two lines, each with its line break, that write an event's state under its version.

    Args:
        event: The event; a delete becomes a tombstone, which holds nothing of what the entity was.
        index: The concrete index to write to.
        vector: The embedding of the event's text, or None.
        now: The time of writing, from which a tombstone's age counts.

    Raises:
        ValueError, TypeError, RecursionError: The payload cannot be written as JSON.
    """
    action = {
        "index": {
            "_index": index,
            "_id": event.entity_id,
            "version": event.version,
            "version_type": "external",
        }
    }
    document = _tombstone(event, now) if event.event_type is EventType.DELETE else _state(event, vector)
    return b"%b\n%b\n" % (_encode(action), _encode(document))


def find_invalid_field(event: EntityEvent) -> str | None:
    """The first declared field whose value OpenSearch would take although it does not fit; None when all fit.

    OpenSearch itself refuses what does not fit in every other way. But it takes 30 February for 29 February, `0x1p3`
    for a number, an empty string for false and 5.0 for a whole number.
    """
    for name, kind, fits in _CHECKS[event.entity_type]:
        value = event.payload.get(name)
        if value is not None and not fits(value):
            return f"payload.{name}: expected {EXPECTED[kind]}"
    return None


def _tombstone(event: EntityEvent, now: datetime) -> dict[str, Any]:
    return {
        "entity_id": event.entity_id,
        "entity_type": event.entity_type,
        "version": event.version,
        "content_hash": content_hash(event),
        "deleted": True,
        "deleted_at": now,
    }


def _state(event: EntityEvent, vector: Vector | None) -> dict[str, Any]:
    payload = event.payload
    encoded = _encode(payload)
    document: dict[str, Any] = {
        "entity_id": event.entity_id,
        "entity_type": event.entity_type,
        "version": event.version,
        "content_hash": content_hash(event),
        "source": event.source,
        "event_time": event.timestamp,
    }
    for name in _DECLARED[event.entity_type]:
        value = payload.get(name)
        if value is not None:
            document[name] = value
    if event.text_for_embedding:
        document["text"] = event.text_for_embedding
    # JSON is never shorter than the terms that are made of it, so short payloads need no closer look.
    indexable = payload if len(encoded) < LONGEST_TERM_BYTES - 1024 else _without_long_values(payload)
    if indexable is payload:
        document["payload"] = msgspec.Raw(encoded)
    else:
        document["payload"] = indexable
        document["payload_whole"] = msgspec.Raw(encoded)
    if vector is not None:
        document[EMBEDDING_FIELD] = msgspec.Raw(orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY))
    return document


def _without_long_values(payload: dict[str, Any]) -> dict[str, Any]:
    """The payload without what is too long to be indexed; the payload itself where nothing is."""
    lacking, indexable = _prune(payload, _PAYLOAD_PATH_BYTES, 0)
    return indexable if lacking else payload


def _prune(value: Any, path_bytes: int, depth: int) -> tuple[bool, Any]:
    """Whether something was left out, and the rest.

    A `flat_object` makes the term `payload.path.to.key=value` of every leaf, and none may be too long.
    """
    if depth > _DEEPEST_INDEXED:
        return True, None
    if isinstance(value, dict):
        lacking, entries = False, {}
        for key, item in value.items():
            item_lacks, rest = _prune(item, path_bytes + 1 + len(str(key).encode()), depth + 1)
            lacking = lacking or item_lacks
            if rest is not None or item is None:
                entries[key] = rest
        return lacking, entries
    if isinstance(value, list | tuple):
        pruned = [_prune(item, path_bytes, depth + 1) for item in value]
        lacking = any(item_lacks for item_lacks, _ in pruned)
        return lacking, [rest for item_lacks, rest in pruned if rest is not None or not item_lacks]
    text = value if isinstance(value, str) else str(value)
    if path_bytes + 1 + len(text.encode("utf-8", "surrogatepass")) > LONGEST_TERM_BYTES:
        return True, None
    return False, value


def _is_money(value: object) -> bool:
    if isinstance(value, str):
        return _DECIMAL.fullmatch(value) is not None
    # JSON numbers keep their digits too: they are stored as they came.
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _is_date(value: object) -> bool:
    if isinstance(value, date):
        return True
    if not isinstance(value, str) or _DATE.fullmatch(value) is None:
        return False
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


def _is_boolean(value: object) -> bool:
    return isinstance(value, bool)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_FITS: dict[Kind, Callable[[object], bool]] = {
    Kind.MONEY: _is_money,
    Kind.DATE: _is_date,
    Kind.BOOLEAN: _is_boolean,
    Kind.INTEGER: _is_integer,
}
_CHECKS: dict[EntityType, tuple[tuple[str, Kind, Callable[[object], bool]], ...]] = {
    entity_type: tuple((field.name, field.kind, _FITS[field.kind]) for field in model.fields if field.kind in _FITS)
    for entity_type, model in ENTITY_MODELS.items()
}
_DECLARED: dict[EntityType, tuple[str, ...]] = {
    entity_type: tuple(field.name for field in model.fields) for entity_type, model in ENTITY_MODELS.items()
}
