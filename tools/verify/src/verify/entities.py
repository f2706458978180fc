"""What the audit knows of one entity: what was published of it, what a store holds, and which letters wait."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from banking.streaming.entities import EntityType
from banking.streaming.sink import Leg

UNKNOWN_TYPE = "unknown"
"""The type of a vertex that does not say which entity it is."""

TYPES = (*(entity_type.value for entity_type in EntityType), UNKNOWN_TYPE)
LEGS = tuple(Leg)


class Key(NamedTuple):
    """The identity of an entity: one id under two types is two entities."""

    entity_type: str
    entity_id: str


class Place(NamedTuple):
    """Where a message stands. Those of one partition are in order.

    Attributes:
        partition: The number of its topic, or of the topic's partition, in the audit.
        ledger: Pulsar's ledger.
        entry: The entry in it, which may hold several messages.
        batch: Its place in the entry, -1 where it is the only one.
    """

    partition: int
    ledger: int
    entry: int
    batch: int


class Published(NamedTuple):
    """An event of an entity as a topic holds it.

    Attributes:
        version: Its version.
        place: Where it stands.
        published_ms: When the broker took it, in milliseconds since 1970.
        deleted: Whether it deletes the entity.
        content: The hash of its content.
        graph_state: The hash of what the graph has to hold of it; empty where contents are not compared.
        vector_state: The same of the index.
    """

    version: int
    place: Place
    published_ms: int
    deleted: bool
    content: bytes
    graph_state: bytes = b""
    vector_state: bytes = b""

    def state(self, leg: Leg) -> bytes:
        """What a leg's store has to hold of it."""
        return self.graph_state if leg is Leg.GRAPH else self.vector_state


class Held(NamedTuple):
    """A vertex or document of an entity.

    Attributes:
        place: The vertex's id or the document's.
        version: Its version; None for a vertex that is no more than an identity.
        deleted: Whether it is a tombstone.
        content: The hash of the content that it was written from, as the store has it.
        state: The hash of what it holds; empty where contents are not compared.
        referred: Whether an edge leads to it, where it has no version.
    """

    place: str
    version: int | None
    deleted: bool = False
    content: bytes = b""
    state: bytes = b""
    referred: bool = False


class LetterState(StrEnum):
    """Where a dead letter is."""

    WAITING = "waiting"  # for its next retry or for the archive
    ARCHIVED = "archived"  # in the archive, and not sent to its leg since


def hash_of(text: object) -> bytes:
    """A content hash as the audit keeps it; what somebody else put in its place is kept as it is."""
    try:
        return bytes.fromhex(str(text or ""))
    except ValueError:
        return str(text).encode()
