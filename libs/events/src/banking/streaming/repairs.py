"""Repairs: an entity's newest event, written again to the one leg whose store does not hold it as it was published.

A repair is the original bytes in the leg's retry topic, marked by a property. It differs from a retry in one thing: a
store that holds the same version takes it all the same, since what it holds under that version is what is to be mended.
A newer version in the store still wins, so that a repair that comes late undoes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from banking.streaming.broker import Outgoing
from banking.streaming.events import EntityEvent
from banking.streaming.topics import RETRY_TOPICS

if TYPE_CHECKING:
    from banking.streaming.broker import Delivery
    from banking.streaming.sink import Leg

REPAIR_PROPERTY = "repair"
"""The message property that marks a repair; it means something in the retry topics alone."""

_EQUAL_VERSION = "equal-version"


class RepairEvent(EntityEvent, frozen=True, kw_only=True):
    """An event that a sink writes where the store holds an older version or the same one, and not only an older one."""


def repair_message(leg: Leg, data: bytes, key: str | None) -> Outgoing:
    """The message that has a leg write an event again; `data` and `key` are those that it was published with."""
    return Outgoing(RETRY_TOPICS[leg], data, key, {REPAIR_PROPERTY: _EQUAL_VERSION})


def as_received(event: EntityEvent, delivery: Delivery) -> EntityEvent:
    """The event of a message: a `RepairEvent` where a retry topic brought it and it is marked as one."""
    if delivery.topic not in RETRY_TOPICS.values() or delivery.properties.get(REPAIR_PROPERTY) != _EQUAL_VERSION:
        return event
    return RepairEvent(**{name: getattr(event, name) for name in EntityEvent.__struct_fields__})
