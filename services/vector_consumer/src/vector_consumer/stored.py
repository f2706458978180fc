"""A document that the store holds, as the event that it was made of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from banking.streaming.entities import EntityType
from banking.streaming.events import EntityEvent, EventType

if TYPE_CHECKING:
    from vector_consumer.embedder import Vector

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class StoredDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The fields from which a document can be made anew, whatever its index's mapping was.

    Attributes:
        entity_id: The entity's id.
        entity_type: Its type.
        version: Its version.
        content_hash: The hash of the event's content.
        source: The system that it came from; empty for a tombstone.
        event_time: When it happened.
        text: The text that was embedded, empty where there was none.
        payload: The entity's state, without what is too long to be indexed.
        payload_whole: The same with it, where anything was left out.
        embedding: The vector, None where there is none.
        deleted: Whether it is a tombstone.
        deleted_at: When the tombstone was written.
    """

    entity_id: str
    entity_type: EntityType
    version: int
    content_hash: str
    source: str = ""
    event_time: datetime = _EPOCH
    text: str = ""
    payload: dict[str, Any] = {}
    payload_whole: dict[str, Any] | None = None
    embedding: list[float] | None = None
    deleted: bool = False
    deleted_at: datetime = _EPOCH

    def to_event(self) -> EntityEvent:
        """What the document was made of. Create and update are not told apart any more."""
        return EntityEvent(
            entity_id=self.entity_id,
            entity_type=self.entity_type,
            event_type=EventType.DELETE if self.deleted else EventType.UPDATE,
            payload=self.payload if self.payload_whole is None else self.payload_whole,
            text_for_embedding=self.text,
            version=self.version,
            event_id="",
            timestamp=self.event_time,
            source=self.source,
        )

    @property
    def vector(self) -> Vector | None:
        """The vector as the embedder gave it."""
        return None if self.embedding is None else np.array(self.embedding, dtype=np.float32)


def read_stored(source: Any) -> StoredDocument:
    """Read the source of a document.

    Raises:
        ValueError: It was not written by this fleet; it names the field, never its value.
    """
    return msgspec.convert(source, StoredDocument)
