"""In-memory stand-ins for a store and a broker, for unit tests of code that uses this library."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from banking.streaming.broker import Delivery
from banking.streaming.events import EventType
from banking.streaming.repairs import RepairEvent
from banking.streaming.sink import APPLIED, STALE, Leg, Outcome, SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from banking.streaming.dead_letters import DeadLetter
    from banking.streaming.entities import EntityType
    from banking.streaming.events import EntityEvent


class InMemorySink:
    """A store that keeps the newest event of each entity, tombstones included.

    Attributes:
        stored: What it holds.
        writes: The events of each write, in order.
        away: While set, every call fails with `SinkUnavailableError` and this message.
        judge: Called with each event before it is stored; an outcome in place of None is what it gets.
    """

    def __init__(self, leg: Leg = Leg.GRAPH) -> None:
        self.leg = leg
        self.stored: dict[tuple[EntityType, str], EntityEvent] = {}
        self.writes: list[list[EntityEvent]] = []
        self.away: str | None = None
        self.judge: Callable[[EntityEvent], Outcome | None] = lambda _event: None
        self.opened = 0
        self.closed = 0

    async def open(self) -> None:
        """Count the call."""
        await self.check()
        self.opened += 1

    async def check(self) -> None:
        """Fail while `away` is set."""
        await asyncio.sleep(0)
        if self.away is not None:
            raise SinkUnavailableError(self.away)

    async def write(self, events: Sequence[EntityEvent]) -> Sequence[Outcome]:
        """Store what is newer than what is there, and a repair also where it is as new."""
        await self.check()
        self.writes.append(list(events))
        outcomes: list[Outcome] = []
        for event in events:
            outcome = self.judge(event)
            if outcome is None:
                held = self.stored.get(event.key)
                oldest = event.version + isinstance(event, RepairEvent)
                outcome = STALE if held is not None and held.version >= oldest else APPLIED
                if outcome is APPLIED:
                    self.stored[event.key] = event
            outcomes.append(outcome)
        return outcomes

    async def close(self) -> None:
        """Count the call."""
        self.closed += 1

    def live(self) -> dict[tuple[EntityType, str], EntityEvent]:
        """What it holds, without the tombstones."""
        return {key: event for key, event in self.stored.items() if event.event_type is not EventType.DELETE}


class InMemoryMessage:
    """A message as `Delivery` reads it."""

    def __init__(
        self,
        data: bytes,
        topic: str,
        key: str,
        number: int,
        properties: Mapping[str, str],
        published_seconds: float = 0.0,
    ) -> None:
        self._data = data
        self._topic = topic
        self._key = key
        self._number = number
        self._properties = dict(properties)
        self._published_seconds = published_seconds

    def data(self) -> bytes:
        """The content."""
        return self._data

    def topic_name(self) -> str:
        """The topic."""
        return self._topic

    def partition_key(self) -> str:
        """The key."""
        return self._key

    def properties(self) -> dict[str, str]:
        """The properties."""
        return self._properties

    def publish_timestamp(self) -> int:
        """When it was published, in milliseconds since 1970."""
        return round(self._published_seconds * 1000)

    def message_id(self) -> int:
        """Its place in the source."""
        return self._number


class InMemorySource:
    """A topic in memory: gives out what was put in, in batches, and remembers what was acknowledged.

    Args:
        batch_messages: Messages in one batch, at most.
    """

    def __init__(self, batch_messages: int = 100) -> None:
        self._batch_messages = batch_messages
        self._waiting: list[Delivery] = []
        self._count = 0
        self.acknowledged: list[Delivery] = []

    def put(
        self,
        data: bytes,
        *,
        topic: str = "persons-events",
        key: str = "",
        properties: Mapping[str, str] | None = None,
        published_seconds: float | None = None,
    ) -> Delivery:
        """Append a message, published now unless it is said when."""
        self._count += 1
        published = time.time() if published_seconds is None else published_seconds
        delivery = Delivery(InMemoryMessage(data, topic, key, self._count, properties or {}, published))
        self._waiting.append(delivery)
        return delivery

    async def receive(self) -> Sequence[Delivery]:
        """The next batch; empty, after a moment, when nothing waits."""
        if not self._waiting:
            await asyncio.sleep(0.001)
        batch, self._waiting = self._waiting[: self._batch_messages], self._waiting[self._batch_messages :]
        return batch

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Remember what is settled."""
        await asyncio.sleep(0)
        self.acknowledged.extend(deliveries)


class InMemoryDeadLetters:
    """Keeps dead letters in a list."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []

    async def write(self, letters: Sequence[DeadLetter]) -> None:
        """Keep letters."""
        await asyncio.sleep(0)
        self.letters.extend(letters)
