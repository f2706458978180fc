"""An event as the two lines of a bulk request: the action and the document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from banking.streaming.entities import ENTITY_MODELS, EntityType
from banking.streaming.events import EventType, content_hash
from banking.streaming.repairs import RepairEvent
from vector_consumer.mappings import EMBEDDING_FIELD, LONGEST_TERM_BYTES

if TYPE_CHECKING:
    from datetime import datetime

    from banking.streaming.events import EntityEvent
    from vector_consumer.embedder import Vector

_encode = msgspec.json.Encoder().encode
_PAYLOAD_PATH_BYTES = len("payload")
_DEEPEST_INDEXED = 64


def encode_document(
    event: EntityEvent, index: str, vector: Vector | None, now: datetime, digest: str | None = None
) -> bytes:
    """The two lines, each with its line break, that write an event's state under its version.

    Args:
        event: The event; a delete becomes a tombstone, which holds nothing of what the entity was. A repair also
            takes the place of a document of the same version.
        index: The concrete index to write to.
        vector: The embedding of the event's text, or None.
        now: The time of writing, from which a tombstone's age counts.
        digest: The hash of the event's content, None to compute it.

    Raises:
        ValueError, TypeError, RecursionError: The payload cannot be written as JSON.
    """
    action = {
        "index": {
            "_index": index,
            "_id": event.entity_id,
            "version": event.version,
            "version_type": "external_gte" if isinstance(event, RepairEvent) else "external",
        }
    }
    digest = content_hash(event) if digest is None else digest
    deleted = event.event_type is EventType.DELETE
    document = _tombstone(event, digest, now) if deleted else _state(event, digest, vector)
    return b"%b\n%b\n" % (_encode(action), _encode(document))


def _tombstone(event: EntityEvent, digest: str, now: datetime) -> dict[str, Any]:
    return {
        "entity_id": event.entity_id,
        "entity_type": event.entity_type,
        "version": event.version,
        "content_hash": digest,
        "deleted": True,
        "deleted_at": now,
    }


def _state(event: EntityEvent, digest: str, vector: Vector | None) -> dict[str, Any]:
    payload = event.payload
    encoded = _encode(payload)
    document: dict[str, Any] = {
        "entity_id": event.entity_id,
        "entity_type": event.entity_type,
        "version": event.version,
        "content_hash": digest,
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


_DECLARED: dict[EntityType, tuple[str, ...]] = {
    entity_type: tuple(field.name for field in model.fields) for entity_type, model in ENTITY_MODELS.items()
}
