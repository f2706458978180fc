"""A consumer service: the batch loop, its subscriptions, its dead letters and its watch over store and broker."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

import structlog
from pydantic import Field

from banking.streaming.broker import Publisher, Subscription, SubscriptionOptions
from banking.streaming.consumer import BatchConsumer, ConsumerOptions
from banking.streaming.metrics import METRICS, StreamingMetrics
from banking.streaming.service import CHECK_SECONDS, TOPICS, drain_limit, keep_topics, run_service, wait_for_stop
from banking.streaming.settings import TombstoneSettings
from banking.streaming.sink import SinkError, SinkUnavailableError
from banking.streaming.topics import ENTITY_TOPICS, LEG_SUBSCRIPTIONS, RETRY_TOPICS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from banking.streaming.dead_letters import DeadLetter
    from banking.streaming.service import Service
    from banking.streaming.sink import Leg, Sink

log = structlog.get_logger(__name__)

BROKER = "pulsar"
"""The name under which a lost broker connection is reported to `Health`."""

STORE = "store"
"""The name under which a store that fails its health query is reported to `Health`."""

_REOPEN_AFTER_SECONDS = 30.0


class LegSettings(TombstoneSettings):
    """What both consumer services read from their environment."""

    batch_max_events: int = Field(500, ge=1, le=10_000)
    """Events in one batch, at most."""
    batch_max_bytes: int = Field(4 * 1024 * 1024, ge=1024)
    """Bytes of a batch, at most, save a single larger event."""
    batch_wait_seconds: float = Field(0.02, gt=0, le=10)
    """How long a batch may wait to fill."""
    receiver_queue_events: int = Field(1000, ge=1)
    """Events that the client fetches ahead, per topic, at most."""
    receiver_queue_bytes: int = Field(16 * 1024 * 1024, ge=1024)
    """Their bytes in all, by the mean size of those that came last."""
    max_in_flight_batches: int = Field(3, ge=1, le=64)
    """Batches received and not yet settled, at most."""
    write_timeout_seconds: float = Field(60, gt=0)
    """A write that takes longer counts as a store that is away."""
    max_clock_skew_seconds: float = Field(300, ge=0)
    """A time-like version further ahead than this is rejected."""
    rejection_window_events: int = Field(2000, ge=1)
    """How many of the last events the rejection limit looks at."""
    rejection_max_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The share of rejections in a full window at which the leg stops."""
    rejection_max_run: int = Field(500, ge=1)
    """The number of rejections without a success between at which the leg stops."""
    drain_seconds: float = Field(20, gt=0)
    """How long batches in flight may take to finish after SIGTERM."""
    tombstone_purge_interval_seconds: float = Field(3600, gt=0)
    """How often tombstones that were kept for long enough are removed."""

    def consumer_options(self) -> ConsumerOptions:
        """The settings of the batch loop."""
        return ConsumerOptions(
            max_in_flight=self.max_in_flight_batches,
            write_timeout_seconds=self.write_timeout_seconds,
            max_clock_skew_seconds=self.max_clock_skew_seconds,
            rejection_window=self.rejection_window_events,
            rejection_share=self.rejection_max_share,
            rejection_run=self.rejection_max_run,
            drain_seconds=self.drain_seconds,
        )

    def subscription(self, leg: Leg, topics: Sequence[str], *, key_shared: bool) -> SubscriptionOptions:
        """What a leg receives from some topics."""
        return SubscriptionOptions(
            topics,
            LEG_SUBSCRIPTIONS[leg],
            key_shared=key_shared,
            batch_messages=self.batch_max_events,
            batch_bytes=self.batch_max_bytes,
            batch_wait_seconds=self.batch_wait_seconds,
            receiver_queue=self.receiver_queue_events,
            receiver_queue_bytes=self.receiver_queue_bytes,
        )


class PulsarDeadLetterWriter:
    """Publishes dead letters and returns once the broker has stored every one of them."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def write(self, letters: Sequence[DeadLetter]) -> None:
        """Store letters.

        Raises:
            BrokerError: Not all of them are known to be stored. Writing all again is harmless: letters have ids.
        """
        await self._publisher.publish_all([letter.to_dead_letter_message() for letter in letters])


@runtime_checkable
class TombstonePurger(Protocol):
    """What a sink offers beside `Sink` when its store keeps tombstones."""

    async def purge_tombstones(self, before: datetime) -> int:
        """Remove the tombstones that were written before a moment and that nothing points to; how many those were.

        Writes go on meanwhile, and other replicas may do the same: no write may be lost, and a tombstone counts where
        it was removed. What one call leaves, the next one finds. It may be called before `open` has succeeded, and
        it is cancelled when the service stops.

        Args:
            before: In UTC.

        Raises:
            SinkError: It was cut short; what is removed is removed.
        """


def run_leg(name: str, settings: LegSettings, make_sink: Callable[[], Sink]) -> None:
    """Run a consumer service until it is told to stop."""

    async def main(service: Service) -> None:
        await consume(service, settings, make_sink())

    run_service(name, settings, main)


async def consume(service: Service, settings: LegSettings, sink: Sink) -> None:
    """Everything that a consumer service does, until `service.stop` is set."""
    health, stop, leg = service.health, service.stop, sink.leg
    health.expect(BROKER, STORE)
    if settings.provision_topics:
        health.expect(TOPICS)
    subscriptions = [
        Subscription(settings.broker, settings.subscription(leg, list(ENTITY_TOPICS.values()), key_shared=True)),
        Subscription(settings.broker, settings.subscription(leg, [RETRY_TOPICS[leg]], key_shared=False)),
    ]
    publisher = Publisher(settings.broker)

    async def reopen() -> None:
        await publisher.reset()
        for subscription in subscriptions:
            await subscription.reopen()

    consumer = BatchConsumer(
        sink, subscriptions, PulsarDeadLetterWriter(publisher), health, settings.consumer_options()
    )
    await service.start_http()
    try:
        async with asyncio.TaskGroup() as tasks:
            watches = [
                tasks.create_task(
                    keep_topics(settings.provisioner(), health, stop, reopen, enabled=settings.provision_topics)
                ),
                tasks.create_task(watch_broker(service, subscriptions)),
                tasks.create_task(_watch_store(service, sink)),
            ]
            if isinstance(sink, TombstonePurger):
                watches.append(tasks.create_task(keep_purging(sink, leg, settings, stop)))
            await consumer.run(stop)
            for watch in watches:
                watch.cancel()
    finally:
        await publisher.close()
        for subscription in subscriptions:
            await subscription.close()


async def watch_broker(service: Service, subscriptions: Sequence[Subscription]) -> None:
    """Report a lost connection, and start over with one that the client does not bring back by itself."""
    connected_at = dict.fromkeys(range(len(subscriptions)), time.monotonic())
    while not service.stop.is_set():
        now = time.monotonic()
        for index, subscription in enumerate(subscriptions):
            if subscription.connected:
                connected_at[index] = now
            elif now - connected_at[index] > _REOPEN_AFTER_SECONDS:
                log.warning("subscribing anew", subscription=subscription.name)
                connected_at[index] = now
                await subscription.reopen()
        if all(subscription.connected for subscription in subscriptions):
            service.health.clear(BROKER)
        else:
            service.health.report(BROKER, f"not connected to {service.settings.pulsar_url}")
        await wait_for_stop(service.stop, 1.0)


async def _watch_store(service: Service, sink: Sink) -> None:
    """Ask the store now and then, so that readiness tells of it while no events come."""
    while not service.stop.is_set():
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await sink.check()
        except (SinkUnavailableError, TimeoutError) as error:
            service.health.report(STORE, str(error) or "no answer to the health query")
        else:
            service.health.clear(STORE)
        await wait_for_stop(service.stop, CHECK_SECONDS)


async def keep_purging(
    purger: TombstonePurger,
    leg: Leg,
    settings: LegSettings,
    stop: asyncio.Event,
    *,
    metrics: StreamingMetrics = METRICS,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Purge at every interval until `stop` is set, which also ends a purge that is under way.

    The first time is at a random moment of the first interval: replicas that start together do not purge together, and
    a service that is restarted often purges all the same.
    """
    interval = settings.tombstone_purge_interval_seconds
    with contextlib.suppress(TimeoutError):
        async with drain_limit(stop, 0):
            await wait_for_stop(stop, interval * random.random())  # noqa: S311 - jitter, no secret
            while not stop.is_set():
                try:
                    purged = await purger.purge_tombstones(now() - settings.tombstone_retention)
                except SinkError as error:
                    metrics.tombstone_purges_failed.labels(leg.value).inc()
                    log.warning(
                        "purging tombstones failed; the next purge tries again", leg=leg.value, error=str(error)
                    )
                else:
                    metrics.tombstones_purged.labels(leg.value).inc(purged)
                    log.info("tombstones purged", leg=leg.value, number=purged)
                await wait_for_stop(stop, interval)
