"""What a leg supplies: a sink that writes events to its store and says what became of each.

The consumer loop (`banking.streaming.consumer`) drives a sink; it knows nothing else of a store.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from banking.streaming.events import EntityEvent


class Leg(StrEnum):
    """The two consumers of the entity topics."""

    GRAPH = "graph"
    VECTOR = "vector"


class Status(StrEnum):
    """What became of one event."""

    APPLIED = "applied"  # the store now holds it
    STALE = "stale"  # the store already held this version or a newer one: success
    RETRY = "retry"  # the store is busy or away: the same event again, later
    REJECTED = "rejected"  # the store can never hold this event


class RejectionReason(StrEnum):
    """Why an event can never be stored. The list is fixed: it is a metric's label and a filter of the archive."""

    UNDECODABLE = "undecodable"  # the bytes are no event
    UNSUPPORTED_SCHEMA = "unsupported_schema"  # an unknown major schema version
    CLOCK_SKEW = "clock_skew"  # a time-like version too far ahead
    INVALID_FIELD = "invalid_field"  # a value that does not fit its declared type
    INVALID_REFERENCE = "invalid_reference"  # a reference that cannot be followed, such as one without a type
    REFUSED_BY_STORE = "refused_by_store"  # the store refused it for another reason


class Outcome(msgspec.Struct, frozen=True):
    """What became of one event, and for a rejection or a retry why."""

    status: Status
    reason: RejectionReason | None = None
    detail: str = ""


APPLIED = Outcome(Status.APPLIED)
STALE = Outcome(Status.STALE)


def rejected(reason: RejectionReason, detail: str) -> Outcome:
    """The outcome of an event that can never be stored; `detail` names the field and what was expected."""
    return Outcome(Status.REJECTED, reason, detail)


def retry(detail: str) -> Outcome:
    """The outcome of an event that the store could not take now."""
    return Outcome(Status.RETRY, None, detail)


class SinkError(Exception):
    """A write that failed as a whole. No outcome is known for any event of it; writing again is harmless."""


class SinkUnavailableError(SinkError):
    """The store is away, starting, read-only or overloaded: pause and write the same events again."""


class BatchFailedError(SinkError):
    """The request failed although the store answers: one of its events is to blame. The loop halves the batch."""


class IncompatibleStoreError(Exception):
    """The store holds something that this release must not write to; the message says what to do."""


class Sink(Protocol):
    """A store as the consumer loop sees it. Both legs and `banking.streaming.testing.InMemorySink` are sinks."""

    leg: Leg

    async def open(self) -> None:
        """Connect and make or check the schema.

        Raises:
            SinkUnavailableError: The store is not there yet; the loop calls again later.
            IncompatibleStoreError: The store is there and must not be written to; the service ends.
        """

    async def check(self) -> None:
        """Ask the store whether it can take writes, by a cheap query.

        Raises:
            SinkUnavailableError: It cannot; the message says what is missing.
            IncompatibleStoreError: It must not be written to; the service ends.
        """

    async def write(self, events: Sequence[EntityEvent]) -> Sequence[Outcome]:
        """Write events, each of another entity, and give one outcome per event in the same order.

        The write is durable when this returns, guarded by version, and may be called concurrently and repeatedly
        with the same events. A deleting event leaves a tombstone.

        Raises:
            SinkUnavailableError: Nothing is known of any event; the store is away.
            BatchFailedError: The request failed as a whole while the store answers.
        """

    async def close(self) -> None:
        """Release connections. Called once, also after a failed `open`."""
