"""An OpenTelemetry collector of the tests': takes traces over OTLP/HTTP and keeps their spans."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@dataclass(frozen=True)
class Span:
    """A span as it was received; ids in hex."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    links: frozenset[str]
    attributes: dict[str, Any]
    failed: bool
    raw: bytes


class Collector:
    """Keeps what it receives.

    Attributes:
        endpoint: What TRACING_ENDPOINT names it by.
        spans: All spans, in the order in which they came.
    """

    endpoint = ""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    async def take(self, request: web.Request) -> web.Response:
        for of_resource in ExportTraceServiceRequest.FromString(await request.read()).resource_spans:
            resource = attributes_of(of_resource.resource)
            for of_scope in of_resource.scope_spans:
                self.spans += [span_of(resource["service.name"], span) for span in of_scope.spans]
        return web.Response(content_type="application/x-protobuf")

    def named(self, service: str, name: str, trace: str | None = None) -> list[Span]:
        return [
            span for span in self.spans if (span.service, span.name) == (service, name) and trace in (None, span.trace)
        ]

    async def until(self, found: Callable[[], list[Span]], number: int = 1, seconds: float = 60) -> list[Span]:
        """Wait for so many spans."""
        async with asyncio.timeout(seconds):
            while len(spans := found()) < number:
                await asyncio.sleep(0.05)
        return spans


def attributes_of(message: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in message.attributes}


def span_of(service: str, span: Any) -> Span:
    return Span(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        frozenset(link.span_id.hex() for link in span.links),
        attributes_of(span),
        span.status.code == span.status.STATUS_CODE_ERROR,
        span.SerializeToString(),
    )


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    application = web.Application(client_max_size=64 << 20)
    application.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        collector.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
        yield collector
    finally:
        await runner.cleanup()
