"""The dead letters of both legs: those that wait in the topics, and those that the archive holds."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pulsar

from banking.streaming.broker import BrokerUnavailableError, connect
from banking.streaming.dead_letters import DeadLetter, received_letter
from banking.streaming.events import EventDecodeError, decode_event
from banking.streaming.sink import Leg
from banking.streaming.topics import DLQ_SUBSCRIPTION, DLQ_TOPIC, LEG_SUBSCRIPTIONS, RETRY_TOPICS
from dlq_worker.inventory import Selection, State, find
from verify.entities import Key, LetterState
from verify.reading import PartitionReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from banking.streaming.archive import ArchivedLetter, DeadLetterArchive
    from banking.streaming.broker import BrokerOptions
    from banking.streaming.events import EntityEvent
    from dlq_worker.waiting import Unsettled
    from verify.topics import Topics

_FIRST = (-1, -1)

LETTER_TOPICS = ((DLQ_TOPIC, DLQ_SUBSCRIPTION), *((RETRY_TOPICS[leg], LEG_SUBSCRIPTIONS[leg]) for leg in Leg))
"""Where letters wait, and who settles them."""


@dataclass(frozen=True, slots=True)
class LetterMessage:
    """A letter as a topic holds it.

    Attributes:
        letter: The letter.
        topic: The topic's short name.
        message_id: The message's id.
        published_ms: When it was stored, in milliseconds since 1970.
        waits: Whether it is still to be settled.
    """

    letter: DeadLetter
    topic: str
    message_id: str
    published_ms: int
    waits: bool


class Letters:
    """Reads dead letters, and takes them from nobody.

    Attributes:
        archive: Where letters end.

    Args:
        topics: The admin API.
        broker: Where the broker is.
        archive: Where letters end.
    """

    def __init__(self, topics: Topics, broker: BrokerOptions, archive: DeadLetterArchive) -> None:
        self._topics = topics
        self._broker = broker
        self.archive = archive

    async def read_waiting(self, take: Callable[[Iterator[LetterMessage]], None], *, settled: bool = False) -> None:
        """Give out the letters that wait for a retry or for the archive.

        Args:
            take: Called in a thread with the letters of one topic.
            settled: Whether to give out those too that the topics still hold though they are settled.

        Raises:
            BrokerUnavailableError: The broker or its admin API is away, or lacks a topic.
        """
        stop = threading.Event()
        try:
            # A letter goes back and forth: one that leaves a retry topic after that was read shows at the second look.
            for topic, subscription in (*LETTER_TOPICS, LETTER_TOPICS[0]):
                unsettled = await self._topics.unsettled(topic, subscription)
                if settled or not unsettled.empty:
                    await asyncio.to_thread(self._read, topic, unsettled, settled, take, stop)
        finally:
            stop.set()

    async def archived(self) -> AsyncIterator[ArchivedLetter]:
        """The letters that wait in the archive, with their content.

        Raises:
            ArchiveUnavailableError: The archive cannot be read.
        """
        places: dict[str, set[int]] = {}
        for letter in await find(self.archive, Selection(state=State.WAITING)):
            places.setdefault(letter.place, set()).add(letter.line)
        for place, lines in places.items():
            contents = await self.archive.letters(place)
            for line in sorted(lines):
                if line < len(contents):  # else purged meanwhile
                    yield contents[line]

    def _read(
        self,
        topic: str,
        unsettled: Unsettled,
        settled: bool,
        take: Callable[[Iterator[LetterMessage]], None],
        stop: threading.Event,
    ) -> None:
        client = connect(self._broker)
        try:
            start = pulsar.MessageId(-1, *(_FIRST if settled else unsettled.before), -1)
            reader = PartitionReader(client, self._broker, topic, 0, start)
            take(_letters(reader, topic, unsettled, settled, stop))
        except pulsar.PulsarException as error:
            raise BrokerUnavailableError(f"cannot read {topic}: {error}") from error
        finally:
            client.close()


def _letters(
    reader: PartitionReader, topic: str, unsettled: Unsettled, settled: bool, stop: threading.Event
) -> Iterator[LetterMessage]:
    for delivery, place in reader.messages(unsettled.last, stop):
        waits = unsettled.holds((place.ledger, place.entry))
        if not waits and not settled:
            continue
        try:
            letter = received_letter(delivery)
        except ValueError:
            continue  # put there by hand, or a repair
        yield LetterMessage(letter, topic, delivery.message_id, delivery.message.publish_timestamp(), waits)


def event_of(letter: DeadLetter | ArchivedLetter) -> EntityEvent | None:
    """The event that a letter holds; None where it is none."""
    try:
        return decode_event(letter.data)
    except EventDecodeError:
        return None


def leg_of(letter: DeadLetter | ArchivedLetter) -> Leg | None:
    """The leg that refused it; None for what no leg has sent."""
    return Leg(letter.leg) if letter.leg in set(Leg) else None


def noted(letter: DeadLetter | ArchivedLetter, state: LetterState) -> tuple[Key, Leg, int, LetterState] | None:
    """A letter as the audit notes it; None where it is of no entity or of no leg."""
    event, leg = event_of(letter), leg_of(letter)
    if event is None or leg is None:
        return None
    return Key(event.entity_type.value, event.entity_id), leg, event.version, state
