"""Traces of events on their way, by OpenTelemetry; off unless they are asked for, and nothing of it is imported then.

A trace begins with a request to the producer, or in the program that publishes. Its context travels in each message, as
the property `traceparent` of W3C Trace Context. A leg takes events of many traces at once, so a batch is a trace of its
own, linked to them, and each of them gets a span that says what became of its events.

Spans hold counts, times and the names of parts of the fleet: no id, no content, no text of an error.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
    from opentelemetry.trace import Span, SpanContext, TracerProvider

    from banking.streaming.broker import Delivery

TRACEPARENT = "traceparent"
"""The message property, and the HTTP header, that carries a trace's context."""

MAX_TRACES_PER_BATCH = 128
"""A batch with events of more traces than that has spans and links for the first ones, and counts the others."""

_PATTERN = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)
_PREFIX = "banking.events."
_QUEUE_SPANS = 2048
_SEND_SECONDS = 5.0
_FLUSH_SECONDS = 3.0
_WARN_SECONDS = 60.0

_log = logging.getLogger(__name__)

active: Tracing | None = None
"""What traces this process; None while tracing is off."""


def traceparent_of(carrier: Mapping[str, str]) -> str | None:
    """The context that message properties or headers carry; None for none, and for one that is not well formed."""
    text = carrier.get(TRACEPARENT)
    return text if text is not None and _PATTERN.fullmatch(text) else None


def message_properties() -> dict[str, str] | None:
    """The properties that carry the current span's context; None where nothing is traced. Not to be changed."""
    return None if active is None else active.message_properties()


def start_tracing(provider: TracerProvider | None = None) -> None:
    """From now on, let published events carry the context of the span that is current when they are handed over.

    Needs the extra `tracing`.

    Args:
        provider: What makes spans; None takes the one that the program has set as OpenTelemetry's own.
    """
    global active  # noqa: PLW0603 - one for the process, looked at once an event
    active = Tracing(provider)


def stop_tracing() -> None:
    """Trace no more."""
    global active  # noqa: PLW0603 - see above
    active = None


@contextlib.contextmanager
def traced(service: str, endpoint: str | None, sample_ratio: float) -> Iterator[None]:
    """Trace what the body does and send the spans to a collector; without an endpoint, do nothing.

    A collector that is away costs spans, of which a bounded number waits, and at the end a few seconds at most.

    Args:
        service: The service's name, as in its logs.
        endpoint: Where an OTLP/HTTP collector takes traces.
        sample_ratio: The share of the traces that begin here that is recorded, 0 to 1.
    """
    if endpoint is None:
        yield
        return
    provider = _exporting(service, endpoint, sample_ratio)
    start_tracing(provider)
    try:
        yield
    finally:
        stop_tracing()
        # The exporter waits for an answer or for its next try, which nothing may wait for.
        flushing = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
        flushing.start()
        flushing.join(_FLUSH_SECONDS)


def publishing(counts: Callable[[], Mapping[str, int]]) -> contextlib.AbstractContextManager[None]:
    """A span of events being published, current in the body; with its counts at the end."""
    return contextlib.nullcontext() if active is None else active.publishing(counts)


def batch_trace(name: str, deliveries: Sequence[Delivery]) -> BatchTrace | None:
    """The trace of a batch that begins to be settled; None where none of its events is traced."""
    return None if active is None else active.batch(name, deliveries)


def writing(batch: BatchTrace | None, events: int) -> contextlib.AbstractContextManager[None]:
    """A span of one write to the store."""
    return contextlib.nullcontext() if batch is None else batch.writing(events)


class Tracing:
    """Makes spans. The functions above are the way to it.

    Args:
        provider: As in `start_tracing`.
    """

    def __init__(self, provider: TracerProvider | None) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - see the module's first line

        self.api = trace
        self.tracer = trace.get_tracer("banking.streaming", tracer_provider=provider)
        self._last: tuple[SpanContext, dict[str, str] | None] = (trace.INVALID_SPAN_CONTEXT, None)

    def message_properties(self) -> dict[str, str] | None:
        """See the function. Events of one span follow each other, so the last answer is kept."""
        context = self.api.get_current_span().get_span_context()
        last, properties = self._last
        if context is not last:
            properties = None
            if context.is_valid and context.trace_flags.sampled:
                flags = int(context.trace_flags)
                properties = {TRACEPARENT: f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"}
            self._last = context, properties
        return properties

    @contextlib.contextmanager
    def publishing(self, counts: Callable[[], Mapping[str, int]]) -> Iterator[None]:
        """See the function."""
        attributes = {"messaging.system": "pulsar", "messaging.operation.type": "send"}
        span = self.tracer.start_span("publish events", kind=self.api.SpanKind.PRODUCER, attributes=attributes)
        with self._ending(span), self.api.use_span(span, record_exception=False, set_status_on_exception=False):
            try:
                yield
            finally:
                _set_counts(span, counts())

    @contextlib.contextmanager
    def request(self, method: str, route: str, headers: Mapping[str, str]) -> Iterator[Callable[[int], None]]:
        """A span of an HTTP request, in the caller's trace where it names one; what is given takes the status."""
        attributes = {"http.request.method": method, "http.route": route}
        span = self.tracer.start_span(
            f"{method} {route}",
            context=self.context_of(traceparent_of(headers)),
            kind=self.api.SpanKind.SERVER,
            attributes=attributes,
        )

        def answered(status: int) -> None:
            span.set_attribute("http.response.status_code", status)
            if status >= 500:
                span.set_status(self.api.StatusCode.ERROR)

        with self._ending(span), self.api.use_span(span, record_exception=False, set_status_on_exception=False):
            yield answered

    def batch(self, name: str, deliveries: Sequence[Delivery]) -> BatchTrace | None:
        """See `batch_trace`."""
        found = (traceparent_of(delivery.properties) for delivery in deliveries)
        traces = Counter(text for text in found if text is not None and int(text[-2:], 16) & 1)
        return BatchTrace(self, name, len(deliveries), traces) if traces else None

    def context_of(self, traceparent: str | None) -> Context | None:
        """The context with that span as the current one; None for a span of its own trace, or of the current one."""
        if traceparent is None:
            return None
        return self.api.set_span_in_context(self.api.NonRecordingSpan(self.remote(traceparent)))

    def remote(self, traceparent: str) -> SpanContext:
        """The context of a span of another process."""
        _, trace_id, span_id, flags = traceparent.split("-")
        return self.api.SpanContext(
            int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=self.api.TraceFlags(int(flags, 16))
        )

    @contextlib.contextmanager
    def _ending(self, span: Span) -> Iterator[None]:
        """End a span after the body; of an error, tell its kind alone, since its text may hold a value."""
        try:
            yield
        except BaseException as error:
            span.set_status(self.api.StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            span.end()


class BatchTrace:
    """The span of a batch, and those that its events' own traces get.

    Args:
        tracing: What makes spans.
        name: What settles the batch, such as `graph`.
        events: How many events it has.
        traces: How many of them belong to each trace, by `traceparent`.
    """

    def __init__(self, tracing: Tracing, name: str, events: int, traces: Counter[str]) -> None:
        self._tracing = tracing
        self._name = name
        self._started = time.time_ns()
        self._results: dict[str, Counter[str]] = {
            traceparent: Counter() for traceparent in list(traces)[:MAX_TRACES_PER_BATCH]
        }
        api = tracing.api
        self._span = tracing.tracer.start_span(
            f"{name} batch",
            context=api.set_span_in_context(api.INVALID_SPAN),
            kind=api.SpanKind.CONSUMER,
            links=[api.Link(tracing.remote(traceparent)) for traceparent in self._results],
            start_time=self._started,
            attributes={
                "messaging.system": "pulsar",
                "messaging.operation.type": "process",
                "messaging.batch.message_count": events,
                "banking.events.traced": traces.total(),
                "banking.traces.left_out": len(traces) - len(self._results),
            },
        )

    def note(self, delivery: Delivery, result: str) -> None:
        """Note what became of one event, if it is traced."""
        results = self._results.get(delivery.properties.get(TRACEPARENT, ""))
        if results is not None:
            results[result] += 1

    @contextlib.contextmanager
    def writing(self, events: int) -> Iterator[None]:
        """See the function."""
        api = self._tracing.api
        span = self._tracing.tracer.start_span(
            f"{self._name} write",
            context=api.set_span_in_context(self._span),
            kind=api.SpanKind.CLIENT,
            attributes={"banking.events.written": events},
        )
        with self._tracing._ending(span):
            yield

    def end(self) -> None:
        """End the batch's span and give each trace its own; one without results was given back to the broker."""
        api = self._tracing.api
        link = api.Link(self._span.get_span_context())
        for traceparent, results in self._results.items():
            span = self._tracing.tracer.start_span(
                f"{self._name} settle",
                context=self._tracing.context_of(traceparent),
                kind=api.SpanKind.CONSUMER,
                links=[link],
                start_time=self._started,
            )
            _set_counts(span, results)
            if results["rejected"]:
                span.set_status(api.StatusCode.ERROR)
            span.end()
        _set_counts(self._span, sum(self._results.values(), Counter()))
        self._span.end()


def _set_counts(span: Span, counts: Mapping[str, int]) -> None:
    span.set_attributes({f"{_PREFIX}{name}": number for name, number in counts.items()})


def _exporting(service: str, endpoint: str, sample_ratio: float) -> SdkTracerProvider:
    """What makes spans and sends them from a thread of its own, some thousand of which may wait."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased  # noqa: PLC0415

    class Sampler(TraceIdRatioBased):
        """A share of the traces that begin; of batches, each that is linked to one of them."""

        def should_sample(self, parent_context: Any, trace_id: int, name: str, *args: Any, **options: Any) -> Any:
            chooses = ALWAYS_ON.should_sample if options.get("links") else super().should_sample
            return chooses(parent_context, trace_id, name, *args, **options)

    class Exporter(OTLPSpanExporter):
        """Tells of spans that are lost once in a while, where the library would tell of every try."""

        _lost = 0
        _warned = float("-inf")

        def export(self, spans: Sequence[Any]) -> SpanExportResult:
            result = super().export(spans)
            if result is not SpanExportResult.SUCCESS:
                self._lost += len(spans)
                if time.monotonic() - self._warned >= _WARN_SECONDS:
                    self._warned = time.monotonic()
                    _log.warning("the collector of TRACING_ENDPOINT takes no spans: %d are lost so far", self._lost)
            return result

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    provider = TracerProvider(
        sampler=ParentBased(Sampler(sample_ratio)),
        resource=Resource.create({"service.name": service}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(
        BatchSpanProcessor(
            Exporter(endpoint=endpoint, timeout=_SEND_SECONDS),
            max_queue_size=_QUEUE_SPANS,
            max_export_batch_size=_QUEUE_SPANS // 4,
            schedule_delay_millis=1000,
        )
    )
    return provider
