"""Publishing events: `AsyncEntityProducer`, `EntityProducer` for code without an event loop, and a mock for tests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Protocol

import msgspec
import pulsar

from banking.streaming.broker import (
    BrokerError,
    BrokerOptions,
    BrokerUnavailableError,
    Outgoing,
    Publisher,
    PublishError,
    connect,
    open_producer,
    send,
)
from banking.streaming.events import EntityEvent, InvalidEventError, encode_event
from banking.streaming.metrics import METRICS, StreamingMetrics
from banking.streaming.topics import ENTITY_TOPICS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any, Self

    Receipt = Callable[[PublishError | None], None]

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

    def add_failure(self, event: EntityEvent, error: Exception) -> None:
        """Count one failed event and keep its name while there is room."""
        self.failed += 1
        if len(self.failures) < MAX_FAILURES_KEPT:
            self.failures.append(PublishFailure(event.event_id, event.entity_id, str(error)))


class FlushTimeoutError(BrokerError):
    """A flush that ran out of time.

    Attributes:
        unsettled: How many events have neither been stored nor failed.
    """

    def __init__(self, unsettled: int, timeout_seconds: float) -> None:
        super().__init__(f"{unsettled} events are unsettled after {timeout_seconds:g} s")
        self.unsettled = unsettled


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
        max_in_flight: int = 20_000,
        metrics: StreamingMetrics = METRICS,
    ) -> None:
        self._publisher = Publisher(broker or BrokerOptions(pulsar_url), max_in_flight=max_in_flight)
        self._metrics = metrics

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
        message = _message(event, self._metrics)
        started = time.perf_counter()
        try:
            await self._publisher.publish(message)
        except BrokerError as error:
            _count_failure(self._metrics, event, error)
            raise
        _count_success(self._metrics, event, time.perf_counter() - started)

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
                await self._submit(event, report)
        else:
            for event in events:
                await self._submit(event, report)
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
        message = _message(event, self._metrics)
        started = time.perf_counter()

        def settle(error: PublishError | None) -> None:
            if error is None:
                _count_success(self._metrics, event, time.perf_counter() - started)
            else:
                _count_failure(self._metrics, event, error)
            receipt(error)

        try:
            await self._publisher.submit(message, settle)
        except BrokerUnavailableError as error:
            _count_failure(self._metrics, event, error)
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

    async def _submit(self, event: EntityEvent, report: PublishReport) -> None:
        def receipt(error: PublishError | None) -> None:
            if error is None:
                report.published += 1
            else:
                report.add_failure(event, error)

        try:
            await self.submit(event, receipt)
        except InvalidEventError as error:
            report.add_failure(event, error)


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
        max_in_flight: int = 20_000,
        metrics: StreamingMetrics = METRICS,
    ) -> None:
        self._broker = broker or BrokerOptions(pulsar_url)
        self._max_in_flight = max_in_flight
        self._metrics = metrics
        self._client: pulsar.Client | None = connect(self._broker)
        self._producers: dict[str, pulsar.Producer] = {}
        self._changed = threading.Condition()
        self._in_flight = 0
        self._report = PublishReport()

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
                with self._changed:
                    report.add_failure(event, error)
        self._wait(self._broker.send_timeout_seconds + 10.0)
        return report

    def flush(self, timeout_seconds: float = 30.0) -> None:
        """Wait for the receipts of all events handed over.

        Raises:
            FlushTimeoutError: Some are still unsettled; it says how many.
            EventsNotPublishedError: Some were not confirmed; it names them.
        """
        self._wait(timeout_seconds)
        with self._changed:
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
        with self._changed:
            if not self._changed.wait_for(lambda: self._in_flight == 0, timeout_seconds):
                raise FlushTimeoutError(self._in_flight, timeout_seconds)

    def _submit(self, event: EntityEvent, report: PublishReport) -> None:
        message = _message(event, self._metrics)
        try:
            producer = self._producer(message.topic)
        except BrokerUnavailableError as error:
            _count_failure(self._metrics, event, error)
            raise
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight < self._max_in_flight)
            self._in_flight += 1
        started = time.perf_counter()

        def on_client_thread(result: Any, _message_id: Any) -> None:
            with self._changed:
                self._in_flight -= 1
                if result == pulsar.Result.Ok:
                    report.published += 1
                    _count_success(self._metrics, event, time.perf_counter() - started)
                else:
                    error = PublishError(f"not confirmed by the broker: {result}")
                    report.add_failure(event, error)
                    _count_failure(self._metrics, event, error)
                self._changed.notify_all()

        send(producer, message, on_client_thread)

    def _producer(self, topic: str) -> pulsar.Producer:
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


def _message(event: EntityEvent, metrics: StreamingMetrics) -> Outgoing:
    try:
        data = encode_event(event)
    except InvalidEventError as error:
        _count_failure(metrics, event, error)
        raise
    return Outgoing(ENTITY_TOPICS[event.entity_type], data, event.entity_id)


def _count_success(metrics: StreamingMetrics, event: EntityEvent, seconds: float) -> None:
    metrics.events_published.labels(event.entity_type.value, event.source).inc()
    metrics.publish_latency.labels(event.entity_type.value).observe(seconds)


def _count_failure(metrics: StreamingMetrics, event: EntityEvent, error: Exception) -> None:
    metrics.events_publish_failed.labels(event.entity_type, type(error).__name__).inc()
