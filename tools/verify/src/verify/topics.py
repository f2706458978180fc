"""Reading the topics: every event that they still hold, and how far each leg has acknowledged them."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import pulsar

from banking.streaming.broker import BrokerUnavailableError, connect
from banking.streaming.events import EventDecodeError, decode_event
from banking.streaming.topics import LEG_SUBSCRIPTIONS, NAMESPACE, admin_session
from dlq_worker.waiting import Unsettled
from verify.reading import READ_AHEAD_BYTES, PartitionReader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from banking.streaming.events import EntityEvent
    from banking.streaming.settings import ServiceSettings
    from banking.streaming.sink import Leg
    from verify.entities import Place

    Take = Callable[[list[tuple[EntityEvent, Place, int]]], None]

_REQUEST_SECONDS = 30.0
_ROWS_AT_ONCE = 5000
_BYTES_AT_ONCE = 32 * 1024 * 1024
"""Of the rows that wait to be given out, of all partitions together."""


class Topics:
    """The broker's admin API, as far as the audit asks it.

    Args:
        settings: Where it is.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._token = settings.broker.token
        self._trusted = settings.pulsar_tls_trust_certs_file
        self._base = f"{settings.pulsar_admin_url.rstrip('/')}/admin/v2"

    async def __aenter__(self) -> Self:
        self._session = admin_session(self._token, self._trusted, _REQUEST_SECONDS)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def partitions(self, topics: Sequence[str]) -> list[str]:
        """The short names of the topics' partitions, or of the topic itself where it has none.

        Raises:
            BrokerUnavailableError: The admin API is away, or lacks a topic.
        """
        found: list[str] = []
        for topic in topics:
            metadata = await self._get(f"persistent/{NAMESPACE}/{topic}/partitions")
            count = int(metadata["partitions"])
            found += [f"{topic}-partition-{number}" for number in range(count)] if count else [topic]
        return found

    async def state(self, partition: str) -> dict[str, Any]:
        """What the broker knows of a partition: its entries and each subscription's position.

        Raises:
            BrokerUnavailableError: The admin API is away, or lacks the partition.
        """
        stats: dict[str, Any] = await self._get(f"persistent/{NAMESPACE}/{partition}/internalStats")
        return stats

    async def unsettled(self, partition: str, subscription: str) -> Unsettled:
        """What a subscription has not acknowledged.

        Raises:
            BrokerUnavailableError: The admin API is away, or there is no such subscription.
        """
        return _unsettled(await self.state(partition), partition, subscription)

    async def keeps_all(self) -> bool:
        """Whether the namespace's retention keeps acknowledged events for ever."""
        policy = await self._get(f"namespaces/{NAMESPACE}/retention")
        return bool(policy) and policy["retentionTimeInMinutes"] == policy["retentionSizeInMB"] == -1

    async def _get(self, path: str) -> Any:
        url = f"{self._base}/{path}"
        try:
            async with self._session.get(url) as response:
                if response.status not in {200, 204}:
                    raise BrokerUnavailableError(f"GET {url}: {response.status} {(await response.text())[:200]}")
                return await response.json(content_type=None) if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise BrokerUnavailableError(f"GET {url}: {type(error).__name__} {error}") from error


def _unsettled(state: dict[str, Any], partition: str, subscription: str) -> Unsettled:
    try:
        return Unsettled(state, subscription)
    except LookupError as error:
        raise BrokerUnavailableError(f"topic {partition} has no subscription {subscription}") from error


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """How far a leg had come at a moment.

    Attributes:
        unsettled: What it had not acknowledged, by the number of the partition.
    """

    unsettled: Mapping[int, Unsettled]

    def __call__(self, place: Place) -> bool:
        """Whether the leg had acknowledged the message at a place; what came later, it had not."""
        unsettled = self.unsettled[place.partition]
        position = (place.ledger, place.entry)
        return position <= unsettled.last and not unsettled.holds(position)


@dataclass(slots=True)
class Trimmed:
    """What of a partition can no longer be read.

    Attributes:
        entries: How many of its entries are known to be gone.
        may_be: Whether the retention lets some go.
    """

    entries: int
    may_be: bool


class EventReader:
    """Reads the entity topics from their first message on, as far as it is told, and goes on from there.

    Args:
        topics: The admin API.
        settings: Where the broker is.
        entity_topics: The topics to read.
        entity_id: Only events that may be of entities with this id; None for all.

    Attributes:
        partitions: The topics' partitions; places name them by their number here.
        unreadable: Messages that are no event, by partition.
    """

    def __init__(
        self, topics: Topics, settings: ServiceSettings, entity_topics: Sequence[str], entity_id: str | None = None
    ) -> None:
        self._topics = topics
        self._settings = settings
        self._entity_topics = entity_topics
        self._readers: dict[int, PartitionReader] = {}
        self._mentioned = (entity_id or "").encode()
        self._stop = threading.Event()
        self._reading: list[asyncio.Future[None]] = []
        self.partitions: list[str] = []
        self.unreadable: dict[str, int] = {}
        self._counts: Counter[int] = Counter()

    async def __aenter__(self) -> Self:
        self.partitions = await self._topics.partitions(self._entity_topics)
        self._client = connect(self._settings.broker)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        # Not while a reader is being opened; see `open_reader`.
        await asyncio.gather(*self._reading, return_exceptions=True)
        await asyncio.to_thread(self._client.close)

    @property
    def events(self) -> int:
        """How many events were read."""
        return self._counts.total()

    async def acknowledged(self) -> dict[Leg, Acknowledged]:
        """How far each leg has come.

        Raises:
            BrokerUnavailableError: The admin API is away, or lacks a topic or a leg's subscription.
        """
        states = [await self._topics.state(partition) for partition in self.partitions]
        return {
            leg: Acknowledged(
                {
                    number: _unsettled(state, partition, subscription)
                    for number, (partition, state) in enumerate(zip(self.partitions, states, strict=True))
                }
            )
            for leg, subscription in LEG_SUBSCRIPTIONS.items()
        }

    async def trimmed(self) -> dict[str, Trimmed]:
        """What can no longer be read, by partition; those of which all can are absent."""
        keeps_all = await self._topics.keeps_all()
        found: dict[str, Trimmed] = {}
        for partition in self.partitions:
            state = await self._topics.state(partition)
            gone = max(0, int(state["entriesAddedCounter"]) - int(state["numberOfEntries"]))
            if gone or not keeps_all:
                found[partition] = Trimmed(gone, not keeps_all)
        return found

    async def read(self, take: Take) -> None:
        """Give out the events up to the last one that the topics hold now, from where the last call ended.

        Args:
            take: Called in threads with some events, each with its place and when it was published, in milliseconds
                since 1970.

        Raises:
            ExceptionGroup: Of `BrokerUnavailableError`: the broker is away or lacks a topic.
        """
        async with asyncio.TaskGroup() as tasks:
            for number in range(len(self.partitions)):
                tasks.create_task(self._read_partition(number, take))

    async def _read_partition(self, number: int, take: Take) -> None:
        partition = self.partitions[number]
        last, entry = (await self._topics.state(partition))["lastConfirmedEntry"].split(":")
        reading = asyncio.ensure_future(asyncio.to_thread(self._read_until, number, (int(last), int(entry)), take))
        self._reading.append(reading)
        try:
            await asyncio.shield(reading)
        except pulsar.PulsarException as error:
            raise BrokerUnavailableError(f"cannot read {partition}: {error}") from error

    def _read_until(self, number: int, last: tuple[int, int], take: Take) -> None:
        reader = self._readers.get(number)
        if reader is None:
            reader = PartitionReader(
                *(self._client, self._settings.broker, self.partitions[number], number, pulsar.MessageId.earliest),
                most_bytes=READ_AHEAD_BYTES // len(self.partitions),
            )
            self._readers[number] = reader
        events: list[tuple[EntityEvent, Place, int]] = []
        size, most_bytes = 0, _BYTES_AT_ONCE // len(self.partitions)
        for delivery, place in reader.messages(last, self._stop):
            data = delivery.data
            # What is escaped may be the id in other characters.
            if self._mentioned not in data and b"\\" not in data:
                continue
            try:
                event = decode_event(data)
            except EventDecodeError:
                topic = self.partitions[number]
                self.unreadable[topic] = self.unreadable.get(topic, 0) + 1
                continue
            events.append((event, place, delivery.message.publish_timestamp()))
            size += len(data)
            if len(events) == _ROWS_AT_ONCE or size >= most_bytes:
                self._counts[number] += len(events)
                take(events)
                events, size = [], 0
        self._counts[number] += len(events)
        take(events)
