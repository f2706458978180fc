"""The frame of every service: settings, JSON logs, health and metrics over HTTP, signals, and the broker's topics."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import signal
import sys
from typing import TYPE_CHECKING

import structlog
import uvloop
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from banking.streaming.health import Health
from banking.streaming.metrics import METRICS, get_metrics_output
from banking.streaming.sink import IncompatibleStoreError
from banking.streaming.topics import ProvisioningError
from banking.streaming.tracing import traced

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from banking.streaming.settings import ServiceSettings
    from banking.streaming.topics import TopicProvisioner

log = structlog.get_logger(__name__)

TOPICS = "topics"
"""The name under which missing topics are reported to `Health`."""

EXIT_STOPPED = 0
EXIT_FAILED = 1
EXIT_INCOMPATIBLE = 3
"""The exit statuses of a service; a wrong setting ends with 2."""

CHECK_SECONDS = 5.0
"""How often topics and dependencies are looked at."""


class Service:
    """A running service: what its parts share.

    Attributes:
        name: The service's name, as in its logs.
        health: What it lacks.
        stop: Set when it is asked to stop.
        http: The application that serves health and metrics; a service may add routes before it starts.
    """

    def __init__(self, name: str, settings: ServiceSettings) -> None:
        self.name = name
        self.settings = settings
        self.health = Health()
        self.stop = asyncio.Event()
        self.http = web.Application(client_max_size=64 * 1024 * 1024)
        self.http.add_routes(
            [
                web.get("/health/live", self._live),
                web.get("/health/ready", self._ready),
                web.get("/metrics", self._metrics),
            ]
        )
        self._runner: web.AppRunner | None = None

    async def start_http(self) -> None:
        """Serve health, metrics and the service's own routes."""
        # Who takes bodies unpacks them: aiohttp would answer an encoding that it does not know by itself.
        self._runner = web.AppRunner(self.http, access_log=None, shutdown_timeout=20.0, auto_decompress=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.settings.http_host, self.settings.http_port).start()
        log.info("listening", addresses=[str(address) for address in self._runner.addresses])

    async def stop_http(self) -> None:
        """Finish the requests that are open and stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _live(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "alive", "service": self.name})

    async def _ready(self, _request: web.Request) -> web.Response:
        problems = self.health.problems
        if problems:
            return web.json_response({"status": "not ready", "service": self.name, "missing": problems}, status=503)
        return web.json_response({"status": "ready", "service": self.name})

    async def _metrics(self, _request: web.Request) -> web.Response:
        METRICS.show_missing(self.name, self.health.problems)
        return web.Response(body=get_metrics_output().encode(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def run_service(name: str, settings: ServiceSettings, main: Callable[[Service], Awaitable[None]]) -> None:
    """Run a service until it is told to stop by SIGTERM or SIGINT.

    Args:
        name: The service's name.
        settings: Its settings.
        main: Its work; it returns when `Service.stop` is set and what was in flight is finished.

    Raises:
        SystemExit: Always, with one of the exit statuses above.
    """
    configure_logging(settings.log_level, name)
    with traced(name, settings.tracing_endpoint, settings.tracing_sample_ratio):
        # What was imported stays. A full collection that looks at it holds the loop for 50 ms, otherwise for 1 ms.
        gc.freeze()
        status = uvloop.run(_run(name, settings, main))
    raise SystemExit(status)


async def _run(name: str, settings: ServiceSettings, main: Callable[[Service], Awaitable[None]]) -> int:
    """Run the service; its exit status."""
    service = Service(name, settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop.set)
    log.info("starting")
    status = EXIT_STOPPED
    try:
        try:
            await main(service)
        finally:
            await service.stop_http()
    except* IncompatibleStoreError as group:
        status = EXIT_INCOMPATIBLE
        log.error(  # noqa: TRY400 - the message says it all, a stack trace would hide it
            "refusing to write", problems=[str(error) for error in _leaves(group)]
        )
    except* Exception:
        status = EXIT_FAILED
        log.exception("failed")
    log.info("stopped", status=status)
    return status


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def configure_logging(level: str, service: str) -> None:
    """Write every log line, those of libraries too, as one JSON object to standard output."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # The broker's client tells each reconnection at INFO, several lines a topic.
    logging.getLogger("pulsar").setLevel(max(logging.WARNING, root.level))
    structlog.contextvars.bind_contextvars(service=service)


async def keep_topics(
    provisioner: TopicProvisioner,
    health: Health,
    stop: asyncio.Event,
    on_made: Callable[[], Awaitable[None]],
    *,
    enabled: bool = True,
    period_seconds: float = CHECK_SECONDS,
) -> None:
    """Make topics and subscriptions exist, at start and again whenever somebody removed them, until `stop` is set.

    Args:
        provisioner: What makes them.
        health: Told when they cannot be made.
        stop: Ends the watch.
        on_made: Called after anything was made: connections to what was there before are worth nothing.
        enabled: False where another job provisions; then nothing is done.
        period_seconds: Between two looks.
    """
    async with provisioner:
        while enabled and not stop.is_set():
            try:
                if await provisioner.ensure():
                    log.info("topics and subscriptions made")
                    await on_made()
            except ProvisioningError as error:
                health.report(TOPICS, str(error))
            else:
                health.clear(TOPICS)
            await wait_for_stop(stop, period_seconds)


@contextlib.asynccontextmanager
async def drain_limit(stop: asyncio.Event, seconds: float) -> AsyncIterator[None]:
    """Let the body run for as long as it likes, but no longer than `seconds` after `stop` was set.

    Raises:
        TimeoutError: The time was up and the body was cancelled.
        ExceptionGroup: What the body raised.
    """

    async def limit(deadline: asyncio.Timeout) -> None:
        await stop.wait()
        deadline.reschedule(asyncio.get_running_loop().time() + seconds)

    async with asyncio.timeout(None) as deadline, asyncio.TaskGroup() as tasks:
        limiter = tasks.create_task(limit(deadline))
        yield
        limiter.cancel()


async def back_off(attempt: int, stop: asyncio.Event, *, base_seconds: float, max_seconds: float) -> int:
    """Wait before a repetition: longer at each attempt, with jitter, but no longer than until `stop` is set.

    Args:
        attempt: How many repetitions there were, from 0.
        stop: Ends the wait.
        base_seconds: The first wait; it doubles.
        max_seconds: The longest wait.

    Returns:
        The number of the next attempt.
    """
    longest = min(max_seconds, base_seconds * 2 ** min(attempt, 20))
    await wait_for_stop(stop, longest * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
    return attempt + 1


async def wait_for_stop(stop: asyncio.Event, seconds: float) -> None:
    """Wait that long, or until `stop` is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
