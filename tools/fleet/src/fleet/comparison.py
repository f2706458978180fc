"""Comparing what was published with what a store holds, entity by entity: version and content."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from banking.streaming.events import EventType, content_hash
from fleet.stores import Held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from banking.streaming.entities import EntityType
    from banking.streaming.events import EntityEvent
    from fleet.stores import StoreReader

_POLL_SECONDS = 1.0
_MAX_DIFFERENCES_KEPT = 20


@dataclass(slots=True)
class Expectation:
    """The newest published state of every entity.

    Attributes:
        entities: By type and id.
    """

    entities: dict[EntityType, dict[str, Held]] = field(default_factory=dict)

    def add(self, event: EntityEvent) -> None:
        """Note a published event, unless a newer one of the entity is noted."""
        held = self.entities.setdefault(event.entity_type, {})
        known = held.get(event.entity_id)
        if known is None or event.version > known.version:
            deleted = event.event_type is EventType.DELETE
            held[event.entity_id] = Held(event.version, content_hash(event), deleted)

    def add_all(self, events: Iterable[EntityEvent]) -> None:
        """Note published events."""
        for event in events:
            self.add(event)

    def count(self) -> Counter[EntityType]:
        """How many entities there are of each type."""
        return Counter({entity_type: len(held) for entity_type, held in self.entities.items()})


@dataclass(slots=True)
class Comparison:
    """What a store holds of an expectation.

    Attributes:
        equal: Entities that it holds at the expected version with the expected content, by type.
        different: How many it does not.
        differences: The first of them, in words.
    """

    equal: Counter[EntityType] = field(default_factory=Counter)
    different: int = 0
    differences: list[str] = field(default_factory=list)


async def compare(reader: StoreReader, expectation: Expectation) -> Comparison:
    """Look every expected entity up in a store."""
    comparison = Comparison()
    for entity_type, expected in expectation.entities.items():
        found = await reader.lookup(entity_type, list(expected))
        for entity_id, wanted in expected.items():
            held = found.get(entity_id)
            if held == wanted:
                comparison.equal[entity_type] += 1
                continue
            comparison.different += 1
            if len(comparison.differences) < _MAX_DIFFERENCES_KEPT:
                comparison.differences.append(f"{reader.name}: {entity_type} {entity_id}: {_difference(held, wanted)}")
    return comparison


def _difference(held: Held | None, wanted: Held) -> str:
    if held is None:
        return f"missing, expected version {wanted.version}"
    if held.version != wanted.version:
        return f"version {held.version}, expected {wanted.version}"
    if held.deleted != wanted.deleted:
        return "deleted, expected alive" if held.deleted else "alive, expected deleted"
    return f"other content under version {held.version}"


async def wait_until_equal(
    reader: StoreReader,
    expectation: Expectation,
    timeout_seconds: float,
    on_progress: Callable[[Comparison], None] = lambda _comparison: None,
) -> Comparison:
    """Compare until nothing differs or the time is up; the last comparison says which."""
    remaining = Expectation(dict(expectation.entities))
    equal: Counter[EntityType] = Counter()
    deadline = asyncio.get_running_loop().time() + timeout_seconds
    while True:
        comparison = await compare(reader, remaining)
        late = comparison.different > 0 and asyncio.get_running_loop().time() > deadline
        # A type that is complete needs no second look.
        for entity_type in list(remaining.entities):
            if comparison.equal[entity_type] == len(remaining.entities[entity_type]):
                equal[entity_type] = comparison.equal[entity_type]
                del remaining.entities[entity_type]
        comparison.equal = comparison.equal | equal
        on_progress(comparison)
        if comparison.different == 0 or late:
            return comparison
        await asyncio.sleep(_POLL_SECONDS)
