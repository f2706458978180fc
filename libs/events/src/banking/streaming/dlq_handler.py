"""What becomes of dead letters: retried on a schedule by the leg that rejected them, and then archived.

`DeadLetterLoop` is the one loop that does it, in the service and in `DLQHandler` alike; the handlers put a function of
the user's before it. Both read the same subscription, so a letter is taken by one of them.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import structlog

from banking.streaming.archive import (
    NOT_A_LETTER,
    UNKNOWN_TYPE,
    ArchiveUnavailableError,
    DeadLetterArchive,
    archived_letter,
    read_store_options,
)
from banking.streaming.broker import BrokerError, BrokerOptions, Publisher, Subscription, SubscriptionOptions
from banking.streaming.dead_letters import DEFAULT_RETRY_DELAYS, received_letter, retry_delays
from banking.streaming.events import EventDecodeError, decode_event
from banking.streaming.health import Health
from banking.streaming.metrics import METRICS, PauseReason, StreamingMetrics
from banking.streaming.service import back_off
from banking.streaming.sink import Leg, RejectionReason
from banking.streaming.topics import DLQ_SUBSCRIPTION, DLQ_TOPIC
from banking.streaming.tracing import BatchTrace, batch_trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType

    from banking.streaming.broker import Delivery, Outgoing
    from banking.streaming.consumer import Source
    from banking.streaming.dead_letters import DeadLetter
    from banking.streaming.events import EntityEvent

    Handler = Callable[[EntityEvent], bool]
    AsyncHandler = Callable[[EntityEvent], bool | Awaitable[bool]]

log = structlog.get_logger(__name__)

ARCHIVE = "archive"
RETRIES = "retries"
DEAD_LETTERS = "dead letters"
"""The names under which the loop reports to `Health`."""

DEFAULT_ARCHIVE_URL = "file:///archive"

CONSUMER_TYPE = "dlq"
"""What the loop is called in metrics that are told apart by consumer."""

_PAUSE_REASONS = {
    ARCHIVE: PauseReason.ARCHIVE,
    RETRIES: PauseReason.BROKER,
    DEAD_LETTERS: PauseReason.BROKER,
}
_Result = TypeVar("_Result")
_PAUSE_BASE_SECONDS = 0.2
_PAUSE_MAX_SECONDS = 15.0
_REMEMBERED_RETRIES = 20_000


def dead_letter_subscription(
    *, batch_letters: int = 200, batch_bytes: int = 8 * 1024 * 1024, batch_wait_seconds: float = 2.0
) -> SubscriptionOptions:
    """What the service and the handlers receive. The client fetches little more ahead than a batch."""
    return SubscriptionOptions(
        [DLQ_TOPIC],
        DLQ_SUBSCRIPTION,
        key_shared=False,
        batch_messages=batch_letters,
        batch_bytes=batch_bytes,
        batch_wait_seconds=batch_wait_seconds,
        receiver_queue=batch_letters,
        receiver_queue_bytes=2 * batch_bytes,
    )


class RetryPublisher(Protocol):
    """Where retries go; `banking.streaming.broker.Publisher` is one."""

    async def publish_all(self, messages: Sequence[Outgoing]) -> None:
        """Store messages; raises `BrokerError` when not all of them are stored."""


@dataclass(slots=True)
class DLQReport:
    """What became of dead letters.

    Attributes:
        handled: The handler took them: settled.
        retried: Stored in their leg's retry topic.
        archived: Written to the archive.
        repeated: Came again after their retry had been stored: settled.
    """

    handled: int = 0
    retried: int = 0
    archived: int = 0
    repeated: int = 0

    @property
    def total(self) -> int:
        """All letters that were settled."""
        return self.handled + self.retried + self.archived + self.repeated


class DeadLetterLoop:
    """Takes dead letters batch by batch; a letter is acknowledged once its retry or its archive object is stored.

    A broker or archive that is away pauses the loop: nothing is acknowledged, the letters wait in the broker.

    Args:
        source: Where letters come from.
        publisher: Where retries go.
        archive: Where letters go whose retries are used up, and what is no dead letter.
        health: Where the loop reports what it waits for.
        delays: The delay before each retry, in seconds.
        handler: Called with each letter's event first; a letter whose event it takes is settled.
        patience_seconds: How long a pause may last before the error is raised; None for ever.
        metrics: Where it counts.

    Attributes:
        waiting_for: What it is paused for, as in `Health`; None while it is not.
    """

    def __init__(
        self,
        source: Source,
        publisher: RetryPublisher,
        archive: DeadLetterArchive,
        health: Health,
        *,
        delays: Sequence[float] = DEFAULT_RETRY_DELAYS,
        handler: AsyncHandler | None = None,
        patience_seconds: float | None = None,
        metrics: StreamingMetrics = METRICS,
    ) -> None:
        self._source = source
        self._publisher = publisher
        self._archive = archive
        self._health = health
        self._delays = tuple(delays)
        self._handler = handler
        self._patience_seconds = patience_seconds
        self._metrics = metrics
        self._trace: BatchTrace | None = None
        self._report = DLQReport()
        self._stored_retries: OrderedDict[_Identity, None] = OrderedDict()
        metrics.show_paused(CONSUMER_TYPE, ())
        # They begin at 0: of a counter that begins at its first increase, Prometheus does not see that one.
        for leg in Leg:
            for reason in RejectionReason:
                metrics.dlq_archived.labels(leg.value, reason.value)
        metrics.dlq_archived.labels(UNKNOWN_TYPE, NOT_A_LETTER)
        self.waiting_for: str | None = None

    async def run(
        self, stop: asyncio.Event, *, idle_seconds: float | None = None, max_letters: int | None = None
    ) -> DLQReport:
        """Take letters until `stop` is set, none came for `idle_seconds`, or `max_letters` are settled.

        Raises:
            BrokerError: The broker was away for longer than the loop is patient.
            ArchiveUnavailableError: The archive was.
        """
        self._report = DLQReport()
        clock = asyncio.get_running_loop().time
        last_letter = clock()
        while not stop.is_set() and (max_letters is None or self._report.total < max_letters):
            deliveries = await self._until_done(DEAD_LETTERS, self._source.receive, stop) or []
            if deliveries:
                self._trace = batch_trace(CONSUMER_TYPE, deliveries)
                try:
                    await self._settle(deliveries, stop)
                finally:
                    if self._trace is not None:
                        self._trace.end()
                last_letter = clock()
            elif idle_seconds is not None and clock() - last_letter >= idle_seconds:
                break
        return self._report

    async def _settle(self, deliveries: Sequence[Delivery], stop: asyncio.Event) -> None:
        """Settle a batch. What is not settled when a stop comes stays unacknowledged: the broker delivers it again."""
        handled: list[Delivery] = []
        retries: list[tuple[Delivery, DeadLetter]] = []
        final: list[Delivery] = []
        for delivery in deliveries:
            if self._handler is not None and stop.is_set():
                break
            letter = _letter_of(delivery)
            if letter is not None and await self._is_handled(letter):
                handled.append(delivery)
            elif letter is not None and letter.attempt < len(self._delays):
                retries.append((delivery, letter))
            else:
                final.append(delivery)
        await self._source.acknowledge(handled)
        self._report.handled += len(handled)
        self._note(handled, "handled")
        await self._retry(retries, stop)
        await self._archive_for_good(final, stop)

    async def _is_handled(self, letter: DeadLetter) -> bool:
        if self._handler is None:
            return False
        try:
            event = decode_event(letter.data)
        except EventDecodeError:
            return False
        try:
            result = self._handler(event)
            return bool(await result if inspect.isawaitable(result) else result)
        except Exception as error:  # noqa: BLE001 - the handler is the user's; its text may hold payload
            log.warning(
                "the handler failed",
                error=type(error).__name__,
                letter_id=letter.letter_id,
                event_id=event.event_id,
                entity_id=event.entity_id,
            )
            return False

    async def _retry(self, letters: Sequence[tuple[Delivery, DeadLetter]], stop: asyncio.Event) -> None:
        if not letters:
            return
        # One comes again where its acknowledgement was lost with the connection, and where its leg or an earlier
        # worker was killed between storing and acknowledging.
        fresh = {_identity(letter): letter for _, letter in letters if _identity(letter) not in self._stored_retries}
        messages = [
            letter.to_retry_message(timedelta(seconds=self._delays[letter.attempt])) for letter in fresh.values()
        ]

        async def publish() -> bool:
            await self._publisher.publish_all(messages)
            return True

        if not await self._until_done(RETRIES, publish, stop):
            return
        self._stored_retries.update(dict.fromkeys(fresh))
        while len(self._stored_retries) > _REMEMBERED_RETRIES:
            self._stored_retries.popitem(last=False)
        await self._source.acknowledge([delivery for delivery, _ in letters])
        self._note([delivery for delivery, _ in letters], "retried")
        self._report.retried += len(fresh)
        self._report.repeated += len(letters) - len(fresh)
        repeats = Counter(letter.leg for _, letter in letters) - Counter(letter.leg for letter in fresh.values())
        for leg, number in repeats.items():
            self._metrics.dlq_repeats.labels(leg.value).inc(number)
            log.info("recognised letters whose retries are stored", leg=leg.value, letters=number)
        for letter in fresh.values():
            self._metrics.dlq_scheduled.labels(letter.leg.value, str(letter.attempt + 1)).inc()
            log.info(
                "retry stored",
                letter_id=letter.letter_id,
                leg=letter.leg.value,
                attempt=letter.attempt + 1,
                delay_seconds=self._delays[letter.attempt],
            )

    async def _archive_for_good(self, deliveries: Sequence[Delivery], stop: asyncio.Event) -> None:
        if not deliveries:
            return
        letters = [archived_letter(delivery) for delivery in deliveries]
        places = await self._until_done(ARCHIVE, lambda: self._archive.write(letters), stop)
        if not places:
            return
        await self._source.acknowledge(deliveries)
        self._note(deliveries, "archived")
        self._report.archived += len(letters)
        for letter in letters:
            self._metrics.dlq_archived.labels(letter.leg or UNKNOWN_TYPE, letter.reason).inc()
            log.warning(
                "archived",
                letter_id=letter.letter_id,
                leg=letter.leg,
                reason=letter.reason,
                attempt=letter.attempt,
                event_id=letter.event_id,
                entity_id=letter.key,
            )

    def _note(self, deliveries: Sequence[Delivery], result: str) -> None:
        if self._trace is not None:
            for delivery in deliveries:
                self._trace.note(delivery, result)

    async def _until_done(
        self, name: str, action: Callable[[], Awaitable[_Result]], stop: asyncio.Event
    ) -> _Result | None:
        """Repeat an action until the broker or archive lets it through; None when a stop comes before."""
        started = time.monotonic()
        attempt = 0
        while True:
            try:
                result = await action()
            except (BrokerError, ArchiveUnavailableError) as error:
                if self._patience_seconds is not None and time.monotonic() - started > self._patience_seconds:
                    raise
                if attempt == 0:
                    log.warning("paused", waiting_for=name, problem=str(error))
                self.waiting_for = name
                self._metrics.show_paused(CONSUMER_TYPE, {_PAUSE_REASONS[name]})
                self._health.report(name, str(error))
                attempt = await back_off(
                    attempt, stop, base_seconds=_PAUSE_BASE_SECONDS, max_seconds=_PAUSE_MAX_SECONDS
                )
                if stop.is_set():
                    return None
            else:
                if attempt:
                    log.info("resumed", waiting_for=name)
                    self.waiting_for = None
                    self._metrics.show_paused(CONSUMER_TYPE, ())
                    self._health.clear(name)
                return result


class AsyncDLQHandler:
    """Handles dead letters with a function of the user's, in place of the `dlq_worker` service.

    A letter whose event the function takes is settled. The others go the way they go in the service: to their leg's
    retry topic, and to the archive once their retries are used up. It reads the service's subscription, so every letter
    is taken by the service or by a handler: run one of them. Bytes that are no event are not shown to the function.

    Args:
        pulsar_url: The broker's address.
        max_retries: Retries before a letter is archived.
        retry_delay_seconds: The delay before the first retry; see `retry_delays` for the later ones.
        archive_url: The archive, as in the service's `ARCHIVE_URL`; None takes that variable, or else `file:///archive`.
        broker: All that can be said of the broker, in place of `pulsar_url`.
        archive: An archive, in place of `archive_url`.
        patience_seconds: How long a broker or archive that is away is waited for before its error is raised; None: for
            ever.
    """

    def __init__(
        self,
        pulsar_url: str = "pulsar://localhost:6650",
        max_retries: int = 3,
        retry_delay_seconds: float = 60.0,
        *,
        archive_url: str | None = None,
        broker: BrokerOptions | None = None,
        archive: DeadLetterArchive | None = None,
        patience_seconds: float | None = 60.0,
    ) -> None:
        self._broker = broker or BrokerOptions(pulsar_url)
        self._delays = retry_delays(max_retries, retry_delay_seconds)
        self._archive = archive or _archive_of_environment(archive_url)
        self._patience_seconds = patience_seconds
        self._publisher = Publisher(self._broker)
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def process_with_retry(
        self,
        handler_func: AsyncHandler,
        batch_size: int = 100,
        *,
        idle_seconds: float | None = 5.0,
        max_letters: int | None = None,
    ) -> DLQReport:
        """Handle the dead letters that wait, and return what became of them.

        Args:
            handler_func: Called with each letter's event, a coroutine function or a plain one. False or an exception
                sends the letter on its way of retries. After a crash it may get an event again.
            batch_size: Letters settled together, at most.
            idle_seconds: Return when no letter came for so long; None: run until `stop`.
            max_letters: Return when so many are settled, the batch in hand included; None: no limit.

        Raises:
            BrokerError: The broker was away for longer than the patience.
            ArchiveUnavailableError: The archive was. The letters wait in the broker.
        """
        wait = 1.0 if idle_seconds is None else min(1.0, max(0.05, idle_seconds))
        options = dead_letter_subscription(batch_letters=batch_size, batch_wait_seconds=wait)
        subscription = Subscription(self._broker, options)
        loop = DeadLetterLoop(
            subscription,
            self._publisher,
            self._archive,
            Health(),
            delays=self._delays,
            handler=handler_func,
            patience_seconds=self._patience_seconds,
        )
        self._stop.clear()
        try:
            return await loop.run(self._stop, idle_seconds=idle_seconds, max_letters=max_letters)
        finally:
            await subscription.close()

    def stop(self) -> None:
        """Let `process_with_retry` return after the event in hand; letters that are not settled come again."""
        self._stop.set()

    async def close(self) -> None:
        """Close the connections."""
        self.stop()
        await self._publisher.close()


class DLQHandler:
    """`AsyncDLQHandler` for programs without an event loop: the same names and arguments.

    The function is called in the thread that calls `process_with_retry`.
    """

    def __init__(
        self,
        pulsar_url: str = "pulsar://localhost:6650",
        max_retries: int = 3,
        retry_delay_seconds: float = 60.0,
        *,
        archive_url: str | None = None,
        broker: BrokerOptions | None = None,
        archive: DeadLetterArchive | None = None,
        patience_seconds: float | None = 60.0,
    ) -> None:
        self._runner = asyncio.Runner()
        self._handler = AsyncDLQHandler(
            pulsar_url,
            max_retries,
            retry_delay_seconds,
            archive_url=archive_url,
            broker=broker,
            archive=archive,
            patience_seconds=patience_seconds,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def process_with_retry(
        self,
        handler_func: Handler,
        batch_size: int = 100,
        *,
        idle_seconds: float | None = 5.0,
        max_letters: int | None = None,
    ) -> DLQReport:
        """Handle the dead letters that wait; see `AsyncDLQHandler.process_with_retry`.

        Raises:
            BrokerError: The broker was away for longer than the patience.
            ArchiveUnavailableError: The archive was. The letters wait in the broker.
        """
        return self._runner.run(
            self._handler.process_with_retry(
                handler_func, batch_size, idle_seconds=idle_seconds, max_letters=max_letters
            )
        )

    def stop(self) -> None:
        """Let `process_with_retry` return after the event in hand; from the function itself or a signal handler."""
        self._handler.stop()

    def close(self) -> None:
        """Close the connections."""
        self._runner.run(self._handler.close())
        self._runner.close()


def _archive_of_environment(url: str | None) -> DeadLetterArchive:
    """The service's archive, by the variables that the service reads; `url` takes the place of `ARCHIVE_URL`."""
    options_file = os.environ.get("ARCHIVE_OPTIONS_FILE")
    return DeadLetterArchive(
        url or os.environ.get("ARCHIVE_URL") or DEFAULT_ARCHIVE_URL,
        read_store_options(Path(options_file)) if options_file else None,
    )


_Identity = tuple[str, int, int]


def _identity(letter: DeadLetter) -> _Identity:
    """What a repeat has in common with its letter: the id, the attempt and the bytes."""
    return letter.letter_id, letter.attempt, hash(letter.data)


def _letter_of(delivery: Delivery) -> DeadLetter | None:
    try:
        return received_letter(delivery)
    except ValueError:
        return None
