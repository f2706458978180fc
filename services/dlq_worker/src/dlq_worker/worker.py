"""The service: the dead-letter loop with its subscription, its archive and its watch over both."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from banking.streaming.archive import ArchiveUnavailableError
from banking.streaming.broker import Publisher, Subscription
from banking.streaming.dlq_handler import ARCHIVE, DeadLetterLoop
from banking.streaming.leg import BROKER, watch_broker
from banking.streaming.service import CHECK_SECONDS, TOPICS, drain_limit, keep_topics, run_service, wait_for_stop
from dlq_worker.waiting import watch_waiting

if TYPE_CHECKING:
    from banking.streaming.archive import DeadLetterArchive
    from banking.streaming.health import Health
    from banking.streaming.service import Service
    from dlq_worker.settings import DlqWorkerSettings

log = structlog.get_logger(__name__)

_DRAIN_SECONDS = 20.0
_PROBE_SECONDS = 60.0


def serve(settings: DlqWorkerSettings) -> None:
    """Run the service until it is told to stop."""

    async def main(service: Service) -> None:
        await work(service, settings)

    run_service("dlq_worker", settings, main)


async def work(service: Service, settings: DlqWorkerSettings) -> None:
    """Everything that the service does, until `service.stop` is set."""
    health, stop = service.health, service.stop
    health.expect(BROKER, ARCHIVE)
    if settings.provision_topics:
        health.expect(TOPICS)
    subscription = Subscription(settings.broker, settings.subscription())
    publisher = Publisher(settings.broker)
    archive = settings.archive()

    async def reopen() -> None:
        await publisher.reset()
        await subscription.reopen()

    loop = DeadLetterLoop(subscription, publisher, archive, health, delays=settings.dlq_retry_delays_seconds)
    await service.start_http()
    try:
        async with asyncio.TaskGroup() as tasks:
            watches = [
                tasks.create_task(
                    keep_topics(settings.provisioner(), health, stop, reopen, enabled=settings.provision_topics)
                ),
                tasks.create_task(watch_broker(service, [subscription])),
                tasks.create_task(_watch_archive(archive, loop, health, stop)),
                tasks.create_task(watch_waiting(settings, stop)),
            ]
            await _run(loop, stop)
            for watch in watches:
                watch.cancel()
    finally:
        await publisher.close()
        await subscription.close()


async def _run(loop: DeadLetterLoop, stop: asyncio.Event) -> None:
    """Run the loop, and give it a while to settle the batch in hand once a stop was asked for."""
    try:
        async with drain_limit(stop, _DRAIN_SECONDS):
            await loop.run(stop)
    except TimeoutError:
        log.warning("gave up the batch in hand; the broker will deliver it again")


async def _watch_archive(archive: DeadLetterArchive, loop: DeadLetterLoop, health: Health, stop: asyncio.Event) -> None:
    """Write to the archive now and then, so that readiness tells of it while no letters come."""
    while not stop.is_set():
        wait_seconds = _PROBE_SECONDS
        if loop.waiting_for != ARCHIVE:  # else the loop tells of it: there may be room for a probe but not for letters
            try:
                await archive.check()
            except ArchiveUnavailableError as error:
                health.report(ARCHIVE, str(error))
                wait_seconds = CHECK_SECONDS
            else:
                health.clear(ARCHIVE)
        await wait_for_stop(stop, wait_seconds)
