"""The batch consumer loop that both legs run: receive, decode, keep the newest per entity, write, settle.

An event is acknowledged only when the store holds it or a newer version, or when its dead letter is stored. A store
that is busy or away pauses the loop: the backlog waits in the broker and memory stays flat.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from banking.streaming.broker import BrokerError
from banking.streaming.dead_letters import rejected_letter
from banking.streaming.entities import EntityType
from banking.streaming.events import EventDecodeError, decode_event, to_microseconds, version_skew_seconds
from banking.streaming.metrics import METRICS, PauseReason, StreamingMetrics
from banking.streaming.repairs import RepairEvent, as_received
from banking.streaming.service import back_off, drain_limit
from banking.streaming.sink import (
    STALE,
    BatchFailedError,
    Outcome,
    RejectionReason,
    SinkUnavailableError,
    Status,
    rejected,
)
from banking.streaming.topics import RETRY_TOPICS
from banking.streaming.tracing import BatchTrace, batch_trace, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from banking.streaming.broker import Delivery
    from banking.streaming.dead_letters import DeadLetter
    from banking.streaming.events import EntityEvent
    from banking.streaming.health import Health
    from banking.streaming.sink import Sink

log = structlog.get_logger(__name__)

PAUSED = "paused"
REJECTIONS = "rejections"
"""The names under which the loop reports to `Health`."""

_NO_EVENT = "unknown"
"""The entity type of bytes that are no event, in metrics."""


class Source(Protocol):
    """Where batches come from; `banking.streaming.broker.Subscription` is one."""

    async def receive(self) -> Sequence[Delivery]:
        """The next batch, empty when nothing came for a while; raises `BrokerError` when the broker is away."""

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Settle messages for good."""


class DeadLetterWriter(Protocol):
    """Where rejected events go."""

    async def write(self, letters: Sequence[DeadLetter]) -> None:
        """Store letters; raises `BrokerError` when not all of them are stored."""


@dataclass(frozen=True, slots=True)
class ConsumerOptions:
    """How the loop behaves.

    Attributes:
        max_in_flight: Batches received and not yet settled, at most.
        write_timeout_seconds: A write that takes longer counts as a store that is away.
        retry_base_seconds: The first pause after a store was busy or away; it doubles.
        retry_max_seconds: The longest pause.
        max_clock_skew_seconds: A time-like version further ahead is rejected.
        rejection_window: How many of the last settled events the rejection limit looks at.
        rejection_share: The share of rejections in a full window at which the leg stops.
        rejection_run: The number of rejections without one success between at which the leg stops.
        drain_seconds: How long batches in flight may take to finish after a stop was asked for.
    """

    max_in_flight: int = 3
    write_timeout_seconds: float = 60.0
    retry_base_seconds: float = 0.2
    retry_max_seconds: float = 15.0
    max_clock_skew_seconds: float = 300.0
    rejection_window: int = 2000
    rejection_share: float = 0.5
    rejection_run: int = 500
    drain_seconds: float = 20.0


class RejectionLimit:
    """Tells a flood of rejections, the mark of a bad deployment, from single bad events.

    Args:
        window: How many of the last events are looked at.
        share: The share of rejections in a full window that is too much.
        run: The number of rejections in a row that is too much.
    """

    def __init__(self, window: int, share: float, run: int) -> None:
        self._recent: deque[bool] = deque(maxlen=window)
        self._rejected = 0
        self._share = share
        self._max_run = run
        self._run = 0

    def count(self, *, rejected: int, stored: int) -> str | None:
        """Count a batch's events; a sentence when the limit is passed, else None."""
        for is_rejection in (*(True,) * rejected, *(False,) * stored):
            if len(self._recent) == self._recent.maxlen:
                self._rejected -= self._recent[0]
            self._recent.append(is_rejection)
            self._rejected += is_rejection
        self._run = self._run + rejected if stored == 0 else 0
        if self._run >= self._max_run:
            return f"{self._run} events in a row were rejected"
        if len(self._recent) == self._recent.maxlen and self._rejected > self._share * len(self._recent):
            return f"{self._rejected} of the last {len(self._recent)} events were rejected"
        return None


class _Stopped(Exception):  # noqa: N818 - not an error: a batch that is given back to the broker
    """The loop was told to stop while a batch waited for its store."""


@dataclass(slots=True)
class _Batch:
    """A received batch while it is worked on."""

    deliveries: Sequence[Delivery]
    # The events of each entity, newest first: the head is what is written, the rest are settled with it.
    entities: list[list[tuple[EntityEvent, Delivery]]] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    outcomes: Counter[tuple[EntityType, Status]] = field(default_factory=Counter)
    reasons: Counter[tuple[str, RejectionReason]] = field(default_factory=Counter)
    consumed: list[EntityEvent] = field(default_factory=list)
    trace: BatchTrace | None = None


class BatchConsumer:
    """Drives one sink from any number of sources.

    Args:
        sink: The leg's store.
        sources: Where batches come from.
        dead_letters: Where rejected events go.
        health: Where the loop reports what it waits for.
        options: How it behaves.
        metrics: Where it counts.
        now: The time in seconds since 1970.
    """

    def __init__(
        self,
        sink: Sink,
        sources: Sequence[Source],
        dead_letters: DeadLetterWriter,
        health: Health,
        options: ConsumerOptions | None = None,
        *,
        metrics: StreamingMetrics = METRICS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._sink = sink
        self._sources = sources
        self._dead_letters = dead_letters
        self._health = health
        self._options = options or ConsumerOptions()
        self._metrics = metrics
        self._now = now
        self._leg = sink.leg.value
        self._limit = RejectionLimit(
            self._options.rejection_window, self._options.rejection_share, self._options.rejection_run
        )
        self._slots = asyncio.Semaphore(self._options.max_in_flight)
        self._paused: dict[object, PauseReason] = {}
        # When the oldest event of each batch in flight was published, in seconds since 1970.
        self._published: dict[object, float] = {}
        self._stopping = asyncio.Event()
        self._halted = False
        health.report(PAUSED, "not started")
        self._show_paused()
        self._start_metrics()

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set, then finish what is in flight within the drain time.

        Raises:
            Exception: What neither sink nor broker declare; unacknowledged events are then delivered again.
        """
        self._stopping = stop
        try:
            async with drain_limit(stop, self._options.drain_seconds):
                if await self._open_sink():
                    async with asyncio.TaskGroup() as tasks:
                        for source in self._sources:
                            tasks.create_task(self._receive_from(source, tasks))
        except TimeoutError:
            log.warning("gave up batches in flight; the broker will deliver them again", leg=self._leg)
        finally:
            await self._sink.close()

    async def _open_sink(self) -> bool:
        """Open the sink, however long its store stays away; False when stopped before."""
        attempt = 0
        try:
            while True:
                try:
                    async with asyncio.timeout(self._options.write_timeout_seconds):
                        await self._sink.open()
                except (SinkUnavailableError, TimeoutError) as error:
                    attempt = await self._pause(self, attempt, PauseReason.STORE_AWAY, _describe(error))
                else:
                    self._health.clear(PAUSED)
                    self._resume(self)
                    return True
        except _Stopped:
            return False

    async def _receive_from(self, source: Source, tasks: asyncio.TaskGroup) -> None:
        attempt = 0
        while not self._stopping.is_set():
            await self._slots.acquire()
            try:
                deliveries = [] if self._stopping.is_set() else await source.receive()
                attempt = 0
            except BrokerError as error:
                self._slots.release()
                log.warning("broker unavailable", error=str(error))
                attempt = await self._back_off(attempt)
                continue
            if not deliveries:
                self._slots.release()
                continue
            self._metrics.in_flight.labels(self._leg).inc()
            tasks.create_task(self._settle(source, deliveries))

    async def _settle(self, source: Source, deliveries: Sequence[Delivery]) -> None:
        """Take one batch from its bytes to its acknowledgement."""
        token = object()
        trace = batch_trace(self._leg, deliveries)
        if not _are_retries(deliveries):
            self._published[token] = min(delivery.published_seconds for delivery in deliveries)
        try:
            self._metrics.batch_events.labels(self._leg).observe(len(deliveries))
            self._metrics.batch_bytes.labels(self._leg).observe(sum(len(delivery.data) for delivery in deliveries))
            batch = self._decode(deliveries, trace)
            await self._write_newest(batch, token)
            if not self._within_limit(batch):
                # Batches that are kept so, unacknowledged, soon hold every slot: nothing more is received.
                await self._stopping.wait()
                return
            await self._store_letters(batch.letters, token)
            await source.acknowledge(deliveries)
            self._count(batch)
        except _Stopped:
            log.info("stopped with a batch unsettled; the broker will deliver it again", events=len(deliveries))
        finally:
            if trace is not None:
                trace.end()
            self._resume(token)
            self._published.pop(token, None)
            self._metrics.in_flight.labels(self._leg).dec()
            self._slots.release()

    def _decode(self, deliveries: Sequence[Delivery], trace: BatchTrace | None) -> _Batch:
        batch = _Batch(deliveries, trace=trace)
        entities: dict[tuple[EntityType, str], list[tuple[EntityEvent, Delivery]]] = {}
        now_microseconds = int(self._now() * 1_000_000)
        for delivery in deliveries:
            try:
                event = as_received(decode_event(delivery.data), delivery)
            except EventDecodeError as error:
                self._reject(batch, delivery, None, rejected(error.reason, str(error)))
                continue
            skew = version_skew_seconds(event.version, now_microseconds)
            if skew > self._options.max_clock_skew_seconds:
                problem = f"version: {event.version} lies {skew:,.0f} s in the future"
                self._reject(batch, delivery, event, rejected(RejectionReason.CLOCK_SKEW, problem))
                continue
            entities.setdefault(event.key, []).append((event, delivery))
        for events in entities.values():
            if len(events) > 1:
                events.sort(key=lambda pair: (pair[0].version, isinstance(pair[0], RepairEvent)), reverse=True)
            batch.entities.append(events)
        return batch

    async def _write_newest(self, batch: _Batch, token: object) -> None:
        """Write each entity's newest event; where that one is rejected, the next older one in its place."""
        waiting = batch.entities
        while waiting:
            outcomes = await self._write([events[0][0] for events in waiting], token, batch.trace)
            again: list[list[tuple[EntityEvent, Delivery]]] = []
            for events, outcome in zip(waiting, outcomes, strict=True):
                event, delivery = events[0]
                if outcome.status is Status.REJECTED:
                    self._reject(batch, delivery, event, outcome)
                    if events[1:]:
                        again.append(events[1:])
                    continue
                batch.outcomes[event.entity_type, outcome.status] += 1
                batch.consumed.append(event)
                if older := len(events) - 1:
                    batch.outcomes[event.entity_type, STALE.status] += older
                if batch.trace is not None:
                    batch.trace.note(delivery, outcome.status)
                    for _, settled in events[1:]:
                        batch.trace.note(settled, STALE.status)
            waiting = again

    async def _write(self, events: Sequence[EntityEvent], token: object, trace: BatchTrace | None) -> Sequence[Outcome]:
        """Write until every event has a final outcome, pausing while the store is busy or away."""
        outcomes: list[Outcome] = [STALE] * len(events)
        waiting = list(range(len(events)))
        attempt = 0
        while True:
            try:
                answers = await self._attempt([events[index] for index in waiting], trace)
            except SinkUnavailableError as error:
                attempt = await self._pause(token, attempt, PauseReason.STORE_AWAY, _describe(error))
                continue
            again: list[int] = []
            for index, outcome in zip(waiting, answers, strict=True):
                outcomes[index] = outcome
                if outcome.status is Status.RETRY:
                    again.append(index)
            if not again:
                self._resume(token)
                return outcomes
            waiting = again
            attempt = await self._pause(token, attempt, PauseReason.STORE_BUSY, outcomes[again[0]].detail)

    async def _attempt(self, events: Sequence[EntityEvent], trace: BatchTrace | None) -> Sequence[Outcome]:
        """Write once; a request that fails as a whole while the store is well is halved down to its failing event."""
        started = time.perf_counter()
        try:
            with writing(trace, len(events)):
                async with asyncio.timeout(self._options.write_timeout_seconds):
                    return await self._sink.write(events)
        except TimeoutError as error:
            raise SinkUnavailableError(f"no answer in {self._options.write_timeout_seconds:.0f} s") from error
        except BatchFailedError as error:
            await self._check_sink()
            if len(events) == 1:
                return [rejected(RejectionReason.REFUSED_BY_STORE, str(error))]
            log.warning("halving a batch that failed as a whole", events=len(events), error=str(error))
        finally:
            self._metrics.store_write.labels(self._leg).observe(time.perf_counter() - started)
        middle = len(events) // 2
        return [*await self._attempt(events[:middle], trace), *await self._attempt(events[middle:], trace)]

    async def _check_sink(self) -> None:
        try:
            async with asyncio.timeout(self._options.write_timeout_seconds):
                await self._sink.check()
        except TimeoutError as error:
            raise SinkUnavailableError("the store does not answer its health query") from error

    def _reject(self, batch: _Batch, delivery: Delivery, event: EntityEvent | None, outcome: Outcome) -> None:
        reason = outcome.reason or RejectionReason.REFUSED_BY_STORE
        letter = rejected_letter(delivery, self._sink.leg, reason, outcome.detail)
        batch.letters.append(letter)
        if batch.trace is not None:
            batch.trace.note(delivery, Status.REJECTED)
        if event is not None:
            batch.outcomes[event.entity_type, Status.REJECTED] += 1
        batch.reasons[event.entity_type.value if event else _NO_EVENT, reason] += 1
        log.warning(
            "event rejected",
            leg=self._leg,
            reason=reason.value,
            error=letter.error,
            letter_id=letter.letter_id,
            attempt=letter.attempt,
            event_id=event.event_id if event else None,
            entity_id=event.entity_id if event else None,
        )

    def _within_limit(self, batch: _Batch) -> bool:
        """Count a batch towards the rejection limit; retried letters do not count, they have failed before."""
        if self._halted:
            return False
        fresh = sum(letter.attempt == 0 for letter in batch.letters)
        problem = self._limit.count(rejected=fresh, stored=len(batch.deliveries) - len(batch.letters))
        if problem is None:
            return True
        self._halted = True
        last = batch.letters[-1].error if batch.letters else "see the log"
        message = f"{problem} (last: {last}). Nothing more is taken; mend the cause, then restart this service"
        self._health.report(REJECTIONS, message)
        self._show_paused()
        log.error("stopped at the rejection limit", leg=self._leg, problem=message)
        return False

    async def _store_letters(self, letters: Sequence[DeadLetter], token: object) -> None:
        attempt = 0
        while letters:
            try:
                await self._dead_letters.write(letters)
            except BrokerError as error:
                problem = f"dead letters cannot be stored: {error}"
                attempt = await self._pause(token, attempt, PauseReason.BROKER, problem)
            else:
                return

    def _start_metrics(self) -> None:
        """Let them begin at 0: of a counter that begins at its first increase, Prometheus does not see that one."""
        metrics = self._metrics
        for metric in (
            *(metrics.store_retries, metrics.in_flight, metrics.store_write),
            *(metrics.batch_events, metrics.batch_bytes, metrics.event_to_store),
        ):
            metric.labels(self._leg)
        metrics.backlog_age.labels(self._leg).set_function(self._backlog_age)
        for entity_type in EntityType:
            metrics.events_consumed.labels(entity_type.value, self._leg)
        for entity_type_name in (*EntityType, _NO_EVENT):
            for reason in RejectionReason:
                metrics.dlq_messages.labels(entity_type_name, reason.value)

    def _count(self, batch: _Batch) -> None:
        now = int(self._now() * 1_000_000)
        totals: Counter[EntityType] = Counter()
        for (entity_type, status), number in batch.outcomes.items():
            self._metrics.outcomes.labels(self._leg, entity_type.value, status.value).inc(number)
            totals[entity_type] += number
        for entity_type, number in totals.items():
            self._metrics.events_consumed.labels(entity_type.value, self._leg).inc(number)
        for (entity_type_name, reason), number in batch.reasons.items():
            self._metrics.dlq_messages.labels(entity_type_name, reason.value).inc(number)
        latency = self._metrics.event_to_store.labels(self._leg)
        self._count_retries(batch)
        for event in batch.consumed:
            latency.observe(max(0.0, (now - to_microseconds(event.timestamp)) / 1_000_000))

    def _count_retries(self, batch: _Batch) -> None:
        """Count the results of a batch of retries."""
        if not _are_retries(batch.deliveries):
            return
        results = Counter({Status.REJECTED: len(batch.letters)})
        for (_, status), number in batch.outcomes.items():
            if status is not Status.REJECTED:
                results[status] += number
        for status, number in results.items():
            self._metrics.dlq_retries.labels(self._leg, status.value).inc(number)

    def _backlog_age(self) -> float:
        """Asked for by a scrape, on a thread of its own."""
        published = list(self._published.values())
        return max(0.0, self._now() - min(published)) if published else 0.0

    async def _pause(self, token: object, attempt: int, reason: PauseReason, problem: str) -> int:
        """Note that a batch waits and wait a while; the number of the next attempt."""
        if not self._paused:
            log.warning("paused", leg=self._leg, reason=reason.value, problem=problem)
        self._paused[token] = reason
        self._health.report(PAUSED, problem)
        self._show_paused()
        self._metrics.store_retries.labels(self._leg).inc()
        attempt = await self._back_off(attempt)
        if self._stopping.is_set():
            raise _Stopped
        return attempt

    async def _back_off(self, attempt: int) -> int:
        return await back_off(
            attempt,
            self._stopping,
            base_seconds=self._options.retry_base_seconds,
            max_seconds=self._options.retry_max_seconds,
        )

    def _resume(self, token: object) -> None:
        if token not in self._paused:
            return
        del self._paused[token]
        self._show_paused()
        if not self._paused and not self._halted:
            self._health.clear(PAUSED)
            log.info("resumed", leg=self._leg)

    def _show_paused(self) -> None:
        halted = {PauseReason.REJECTION_LIMIT} if self._halted else set()
        self._metrics.show_paused(self._leg, halted.union(self._paused.values()))


def _are_retries(deliveries: Sequence[Delivery]) -> bool:
    """A batch comes from one source, so the first message tells."""
    return deliveries[0].topic in RETRY_TOPICS.values()


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__
