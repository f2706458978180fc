"""An event of a topic as the audit keeps it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from banking.streaming.events import EventType, content_hash
from verify import graph, index
from verify.entities import Published, hash_of

if TYPE_CHECKING:
    from banking.streaming.events import EntityEvent
    from verify.entities import Place


def to_published(event: EntityEvent, place: Place, published_ms: int, *, contents: bool) -> Published:
    """The event without its content.

    Args:
        event: The event.
        place: Where it stands.
        published_ms: When the broker took it, in milliseconds since 1970.
        contents: Whether to add the hashes of what each store has to hold of it.
    """
    deleted = event.event_type is EventType.DELETE
    states = (graph.state_of(event, datetime.now(UTC)), index.state_of(event)) if contents else (b"", b"")
    return Published(event.version, place, published_ms, deleted, hash_of(content_hash(event)), *states)
