"""The producer service: the API, its connection to the broker, and the watch over both."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from banking.streaming.broker import BrokerUnavailableError
from banking.streaming.leg import BROKER
from banking.streaming.producer import AsyncEntityProducer
from banking.streaming.service import TOPICS, keep_topics, run_service, wait_for_stop
from producer.api import ApiLimits, EventsApi, trace_requests
from producer.idempotency import RequestIndex
from producer.problems import answer_problems
from producer.request_log import PulsarRequestLog

if TYPE_CHECKING:
    from banking.streaming.service import Service
    from producer.settings import ProducerSettings

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
_RESET_AFTER_SECONDS = 30.0


def run(settings: ProducerSettings) -> None:
    """Run the service until it is told to stop."""

    async def main(service: Service) -> None:
        await serve(service, settings)

    run_service("producer", settings, main)


async def serve(service: Service, settings: ProducerSettings) -> None:
    """Everything that the service does, until `service.stop` is set."""
    health, stop = service.health, service.stop
    health.expect(BROKER)
    if settings.provision_topics:
        health.expect(TOPICS)
    producer = AsyncEntityProducer(broker=settings.broker, max_in_flight=settings.max_in_flight_events)
    request_log = PulsarRequestLog(
        settings.broker,
        RequestIndex(settings.idempotency_window_seconds, settings.max_idempotency_keys),
        window_seconds=settings.idempotency_window_seconds,
    )
    api = EventsApi(
        producer,
        health,
        stop,
        keys=settings.api_keys(),
        limits=ApiLimits(
            body_bytes=settings.max_body_bytes,
            stream_bytes=settings.max_stream_bytes,
            concurrent_requests=settings.max_concurrent_requests,
            rejections=settings.max_rejections_per_request,
            body_idle_seconds=settings.body_idle_seconds,
            clock_skew_seconds=settings.max_clock_skew_seconds,
        ),
        source=settings.default_source,
        request_log=request_log,
    )
    if not settings.api_authentication:
        log.warning("API_AUTHENTICATION is false: everybody who reaches this port may publish")
    service.http.middlewares.extend((trace_requests, answer_problems))
    service.http.add_routes(api.routes())
    await service.start_http()

    async def connect_anew() -> None:
        await producer.reset()
        await request_log.reset()

    watches = [
        asyncio.create_task(
            keep_topics(settings.provisioner(), health, stop, connect_anew, enabled=settings.provision_topics)
        ),
        asyncio.create_task(_watch_broker(service, producer)),
    ]
    try:
        await stop.wait()
        # Requests end at their next event and wait for the receipts of those before it.
        await service.stop_http()
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        await producer.close()
        await request_log.close()


async def _watch_broker(service: Service, producer: AsyncEntityProducer) -> None:
    """Keep a producer open to every topic, and start over when the client does not bring a lost one back."""
    loop = asyncio.get_running_loop()
    connected_at = loop.time()
    while not service.stop.is_set():
        try:
            await producer.open()
        except BrokerUnavailableError as error:
            service.health.report(BROKER, str(error))
        else:
            if producer.connected:
                connected_at = loop.time()
                service.health.clear(BROKER)
            else:
                service.health.report(BROKER, f"not connected to {service.settings.pulsar_url}")
                if loop.time() - connected_at > _RESET_AFTER_SECONDS:
                    log.warning("connecting anew")
                    connected_at = loop.time()
                    await producer.reset()
        await wait_for_stop(service.stop, _LOOK_SECONDS)
