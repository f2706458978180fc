"""Publishing events: `AsyncEntityProducer`, `EntityProducer` for code without an event loop, and a mock for tests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterable
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec

from banking.streaming.broker import (
    BREATH_MESSAGES,
    MAX_IN_FLIGHT,
    BrokerError,
    BrokerOptions,
    BrokerUnavailableError,
    Outgoing,
    Publisher,
    PublishError,
    connect,
    failure,
    open_producer,
    send,
)
from banking.streaming.events import EntityEvent, InvalidEventError, encode_event
from banking.streaming.metrics import METRICS, StreamingMetrics
from banking.streaming.topics import ENTITY_TOPICS
from banking.streaming.tracing import message_properties

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any, Self

    import pulsar

    from banking.streaming.entities import EntityType

    Receipt = Callable[[PublishError | None], None]


COUNT_SECONDS = 0.5
"""How long receipts may lie uncounted while events are handed over."""

MAX_FAILURES_KEPT = 1000
"""A report names that many failed events; all of them are counted."""


class PublishFailure(msgspec.Struct, frozen=True):
    """An event that was not published, and why."""

    event_id: str
    entity_id: str
    error: str


class PublishReport(msgspec.Struct):
    """What became of the events handed over.

    Attributes:
        published: Events that the broker has stored.
        failed: Events that were refused or not confirmed.
        failures: The first `MAX_FAILURES_KEPT` of them.
    """

    published: int = 0
    failed: int = 0
    failures: list[PublishFailure] = msgspec.field(default_factory=list)

    def note(self, event: EntityEvent, error: Exception | None) -> None:
        """Count one event by its receipt."""
        if error is None:
            self.published += 1
        else:
            self.add_failure(event, error)

    def add_failure(self, event: EntityEvent, error: Exception) -> None:
        """Count one failed event and keep its name while there is room."""
        self.failed += 1
        if len(self.failures) < MAX_FAILURES_KEPT:
            self.failures.append(PublishFailure(event.event_id, event.entity_id, str(error)))


class FlushTimeoutError(BrokerError):
    """A flush that ran out of time.

    Attributes:
        unsettled: How many events have neither been stored nor failed.
        report: What became of the others, where it was `send_many` that waited.
    """

    def __init__(self, unsettled: int, timeout_seconds: float) -> None:
        super().__init__(f"{unsettled} events are unsettled after {timeout_seconds:g} s")
        self.unsettled = unsettled
        self.report: PublishReport | None = None


class EventsNotPublishedError(BrokerError):
    """Events handed over earlier that the broker did not confirm.

    Attributes:
        report: How many, and the first of them by id.
    """

    def __init__(self, report: PublishReport) -> None:
        first = report.failures[0]
        super().__init__(
            f"{report.failed} events were not published; the first is event {first.event_id} of {first.entity_id}: "
            f"{first.error}"
        )
        self.report = report


class Producer(Protocol):
    """What `EntityProducer` and `MockEntityProducer` have in common."""

    def send(self, event: EntityEvent) -> None:
        """Hand one event over."""

    def send_many(self, events: Iterable[EntityEvent]) -> PublishReport:
        """Publish events and wait for their receipts."""

    def flush(self, timeout_seconds: float = 30.0) -> None:
        """Wait for the receipts of all events handed over."""

    def close(self) -> None:
        """Flush and release the connection."""


class AsyncEntityProducer:
    """Publishes events from an event loop. What is in flight is bounded by waiting.

    Args:
        pulsar_url: The broker's address.
        broker: All that can be said of the broker, in place of `pulsar_url`.
        max_in_flight: Events without a receipt, at most.
        metrics: Where it counts.
    """

    def __init__(
        self,
        pulsar_url: str = "pulsar://localhost:6650",
        *,
        broker: BrokerOptions | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        metrics: StreamingMetrics = METRICS,
    ) -> None:
        self._publisher = Publisher(broker or BrokerOptions(pulsar_url), max_in_flight=max_in_flight)
        self._tally = _Tally(metrics)
        self._tally_due = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        """Whether every topic's producer is open and connected."""
        return self._publisher.connected(ENTITY_TOPICS.values())

    async def open(self) -> None:
        """Connect to every topic now, and not with its first event.

        Raises:
            BrokerUnavailableError: The broker is away or lacks a topic; call again later.
        """
        await self._publisher.open(ENTITY_TOPICS.values())

    async def reset(self) -> None:
        """Drop the connection; the next event opens a new one. For a broker that lost its topics."""
        await self._publisher.reset()

    async def send(self, event: EntityEvent) -> None:
        """Publish one event; it is stored when this returns.

        Raises:
            InvalidEventError: The event breaks the contract; it names the field.
            BrokerUnavailableError: The broker is away; the event was not sent.
            PublishError: The broker did not confirm the event; it may or may not be stored.
        """
        message = self._encode(event)
        started = time.perf_counter()
        try:
            await self._publisher.publish(message)
        except BrokerError as error:
            self._settle(event, started, error)
            raise
        self._settle(event, started, None)

    async def send_many(self, events: Iterable[EntityEvent] | AsyncIterable[EntityEvent]) -> PublishReport:
        """Publish any number of events, in order and in constant memory, and wait for their receipts.

        Events that fail are reported; the others are published all the same.

        Raises:
            BrokerUnavailableError: The broker is away. Events before the failing one are reported nowhere: with
                their ids unchanged, publishing all again is harmless.
        """
        report = PublishReport()
        if isinstance(events, AsyncIterable):
            async for event in events:
                if not self._try_submit(event, report):
                    await self._submit(event, report)
        else:
            for number, event in enumerate(events, 1):
                if not self._try_submit(event, report):
                    await self._submit(event, report)
                if number % BREATH_MESSAGES == 0:
                    await asyncio.sleep(0)
        await self._publisher.flush()
        return report

    async def submit(self, event: EntityEvent, receipt: Receipt) -> None:
        """Hand one event over, waiting for room but not for its receipt.

        Args:
            event: What to publish.
            receipt: Called in the loop with None once the broker has stored the event, or with the error.

        Raises:
            InvalidEventError: The event breaks the contract; it names the field. `receipt` is not called.
            BrokerUnavailableError: The broker is away; the event was not sent. `receipt` is not called.
        """
        message = self._encode(event)
        started = time.perf_counter()

        def settle(error: PublishError | None) -> None:
            self._settle(event, started, error)
            receipt(error)

        try:
            await self._publisher.submit(message, settle)
        except BrokerUnavailableError as error:
            self._settle(event, started, error)
            raise

    async def flush(self, timeout_seconds: float = 30.0) -> None:
        """Wait for the receipts of all events handed over.

        Raises:
            FlushTimeoutError: Some are still unsettled; it says how many.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._publisher.flush()
        except TimeoutError:
            raise FlushTimeoutError(self._publisher.in_flight, timeout_seconds) from None

    async def close(self) -> None:
        """Flush, for as long as the broker is given to confirm, and release the connection."""
        await self._publisher.flush()
        await self._publisher.close()

    def _try_submit(self, event: EntityEvent, report: PublishReport) -> bool:
        """Hand one event over if that takes no waiting; one that breaks the contract is done with as well."""
        try:
            message = self._encode(event)
        except InvalidEventError as error:
            report.add_failure(event, error)
            return True
        return self._publisher.try_submit(message, partial(self._note, event, report, time.perf_counter()))

    async def _submit(self, event: EntityEvent, report: PublishReport) -> None:
        await self.submit(event, partial(report.note, event))

    def _note(self, event: EntityEvent, report: PublishReport, started: float, error: PublishError | None) -> None:
        self._settle(event, started, error)
        report.note(event, error)

    def _encode(self, event: EntityEvent) -> Outgoing:
        try:
            return _message(event)
        except InvalidEventError as error:
            self._settle(event, 0.0, error)
            raise

    def _settle(self, event: EntityEvent, started: float, error: Exception | None) -> None:
        """Note one event; what receipts that came together have noted is counted after the last of them."""
        self._tally.note(event, started, error)
        if not self._tally_due:
            self._tally_due = True
            asyncio.get_running_loop().call_soon(self._count)

    def _count(self) -> None:
        self._tally_due = False
        self._tally.count()


class EntityProducer:
    """Publishes events from code without an event loop, on the client's own threads. Safe to share between threads.

    `send` hands over and returns; failures are raised by the next `flush` or `close`.

    Args:
        pulsar_url: The broker's address.
        broker: All that can be said of the broker, in place of `pulsar_url`.
        max_in_flight: Events without a receipt, at most; `send` waits for room.
        metrics: Where it counts.
    """

    def __init__(
        self,
        pulsar_url: str = "pulsar://localhost:6650",
        *,
        broker: BrokerOptions | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        metrics: StreamingMetrics = METRICS,
    ) -> None:
        self._broker = broker or BrokerOptions(pulsar_url)
        self._max_in_flight = max_in_flight
        self._tally = _Tally(metrics)
        self._client: pulsar.Client | None = connect(self._broker)
        self._producers: dict[str, pulsar.Producer] = {}
        self._report = PublishReport()
        self._in_flight = 0
        self._full = False
        self._waiting = 0
        self._taken = 0.0
        # Its own lock: while the client opens a producer, the client's thread must be able to notify.
        self._opening = threading.Lock()
        self._lock = threading.Lock()  # guards all but the client and its producers
        self._settled = threading.Condition(self._lock)
        self._receipts: deque[tuple[EntityEvent, PublishReport, float, Any]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, event: EntityEvent) -> None:
        """Hand one event over; wait for room, not for the receipt.

        Raises:
            InvalidEventError: The event breaks the contract; it names the field.
            BrokerUnavailableError: The broker is away; the event was not sent.
        """
        self._submit(event, self._report)

    def send_many(self, events: Iterable[EntityEvent]) -> PublishReport:
        """Publish any number of events, in order and in constant memory, and wait for their receipts.

        Raises:
            BrokerUnavailableError: The broker is away; publishing all again is harmless.
            FlushTimeoutError: Some receipts did not come; it says how many.
        """
        report = PublishReport()
        for event in events:
            try:
                self._submit(event, report)
            except InvalidEventError as error:
                report.add_failure(event, error)
        try:
            self._wait(self._broker.send_timeout_seconds + 10.0)
        except FlushTimeoutError as error:
            error.report = report
            raise
        return report

    def flush(self, timeout_seconds: float = 30.0) -> None:
        """Wait for the receipts of all events handed over.

        Raises:
            FlushTimeoutError: Some are still unsettled; it says how many.
            EventsNotPublishedError: Some were not confirmed; it names them.
        """
        self._wait(timeout_seconds)
        with self._lock:
            report, self._report = self._report, PublishReport()
        if report.failed:
            raise EventsNotPublishedError(report)

    def close(self) -> None:
        """Flush and release the connection. A second call does nothing.

        Raises:
            FlushTimeoutError: Some events are still unsettled; it says how many.
            EventsNotPublishedError: Some were not confirmed; it names them.
        """
        client, self._client = self._client, None
        if client is None:
            return
        try:
            self.flush(self._broker.send_timeout_seconds + 10.0)
        finally:
            client.close()

    def _wait(self, timeout_seconds: float) -> None:
        """Take receipts until no event is without one."""
        deadline = time.monotonic() + timeout_seconds
        with self._settled:
            self._waiting += 1  # before looking: a receipt that comes after it notifies
            try:
                while True:
                    while self._receipts:
                        self._take_receipts()
                    if self._in_flight == 0:
                        return
                    if not self._settled.wait(deadline - time.monotonic()) and not self._receipts:
                        raise FlushTimeoutError(self._in_flight, timeout_seconds)
            finally:
                self._waiting -= 1

    def _take_receipts(self) -> None:
        """Settle what has come; with the lock held. Receipts of one moment cost one look at the metrics."""
        receipts = self._receipts
        for _ in range(len(receipts)):
            event, report, started, result = receipts.popleft()
            self._in_flight -= 1
            error = failure(result)
            self._tally.note(event, started, error)
            report.note(event, error)
        self._tally.count()
        self._taken = time.perf_counter()
        if self._in_flight == 0:
            self._full = False

    def _submit(self, event: EntityEvent, report: PublishReport) -> None:
        try:
            message = _message(event)
            producer = self._producers.get(message.topic) or self._open(message.topic)
        except (InvalidEventError, BrokerUnavailableError) as error:
            with self._lock:
                self._tally.note(event, 0.0, error)
                self._tally.count()
            raise
        while True:
            started = time.perf_counter()
            with self._lock:
                if started - self._taken > COUNT_SECONDS:
                    self._take_receipts()
                self._full = self._full or self._in_flight >= self._max_in_flight
                if not self._full:
                    self._in_flight += 1
                    break
            # The client gives every event a receipt in time, so this ends.
            self._wait(self._broker.send_timeout_seconds + 10.0)
        send(producer, message, partial(self._on_client_thread, event, report, started))

    def _on_client_thread(
        self, event: EntityEvent, report: PublishReport, started: float, result: Any, _message_id: Any
    ) -> None:
        self._receipts.append((event, report, started, result))
        # A waiter has counted itself and emptied the queue before it waits: the last receipt sees both as they are.
        if self._waiting and len(self._receipts) >= self._in_flight:
            with self._settled:
                self._settled.notify_all()

    def _open(self, topic: str) -> pulsar.Producer:
        with self._opening:
            producer = self._producers.get(topic)
            if producer is None:
                if self._client is None:
                    raise BrokerUnavailableError("the producer is closed")
                producer = open_producer(self._client, self._broker, topic, self._max_in_flight + 1)
                self._producers[topic] = producer
            return producer


class MockEntityProducer:
    """Keeps events in memory in place of publishing them, after the same checks. For tests that ask for it.

    Attributes:
        events: What was handed over, in order.
    """

    def __init__(self) -> None:
        self.events: list[EntityEvent] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, event: EntityEvent) -> None:
        """Keep one event.

        Raises:
            InvalidEventError: The event breaks the contract; it names the field.
        """
        encode_event(event)
        self.events.append(event)

    def send_many(self, events: Iterable[EntityEvent]) -> PublishReport:
        """Keep events; the invalid ones are reported."""
        report = PublishReport()
        for event in events:
            try:
                self.send(event)
            except InvalidEventError as error:
                report.add_failure(event, error)
            else:
                report.published += 1
        return report

    def flush(self, timeout_seconds: float = 30.0) -> None:
        """Do nothing: nothing is in flight."""

    def close(self) -> None:
        """Do nothing: there is no connection."""


def get_producer(
    pulsar_url: str = "pulsar://localhost:6650", *, use_mock: bool = False, **options: Any
) -> EntityProducer | MockEntityProducer:
    """A producer; a mock only when it is asked for, never because the broker is away."""
    return MockEntityProducer() if use_mock else EntityProducer(pulsar_url, **options)


class _Tally:
    """What became of events since it was last counted. Looking a metric up costs more than what it stands for."""

    def __init__(self, metrics: StreamingMetrics) -> None:
        self._metrics = metrics
        self._stored: Counter[tuple[EntityType, str]] = Counter()
        self._failed: Counter[tuple[EntityType, str]] = Counter()
        self._oldest: dict[EntityType, float] = {}
        # They begin at 0: of a counter that begins at its first increase, Prometheus does not see that one.
        for entity_type in ENTITY_TOPICS:
            metrics.publish_latency.labels(entity_type.value)
            for error in (BrokerUnavailableError, PublishError):
                metrics.events_publish_failed.labels(entity_type.value, error.__name__)

    def note(self, event: EntityEvent, started: float, error: Exception | None) -> None:
        """Note one event that was handed over at `started`, as `time.perf_counter` has it."""
        entity_type = event.entity_type
        if error is not None:
            self._failed[entity_type, type(error).__name__] += 1
            return
        self._stored[entity_type, event.source] += 1
        if entity_type not in self._oldest:
            self._oldest[entity_type] = started

    def count(self) -> None:
        """Bring what was noted into the metrics."""
        metrics = self._metrics
        if self._stored:
            now = time.perf_counter()
            for (entity_type, source), number in self._stored.items():
                metrics.events_published.labels(entity_type.value, metrics.source_label(source)).inc(number)
            for entity_type, started in self._oldest.items():
                metrics.publish_latency.labels(entity_type.value).observe(now - started)
            self._stored.clear()
            self._oldest.clear()
        if self._failed:
            for (named, error_type), number in self._failed.items():
                metrics.events_publish_failed.labels(str(named), error_type).inc(number)
            self._failed.clear()


def _message(event: EntityEvent) -> Outgoing:
    return Outgoing(ENTITY_TOPICS[event.entity_type], encode_event(event), event.entity_id, message_properties())
