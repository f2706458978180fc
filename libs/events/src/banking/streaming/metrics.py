"""Every Prometheus metric of the library, declared once. `docs/metrics.md` is kept equal to this file by a test."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

# They would be a second series for each counter and histogram, that nobody looks at.
disable_created_metrics()  # type: ignore[no-untyped-call] # the client declares no types for it

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class StreamingMetrics:
    """The metrics of one process. The module's `METRICS` is the one to use; tests make their own.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        self.events_published = Counter(
            "streaming_events_published_total",
            "Events that the broker has stored",
            ("entity_type", "source"),
            registry=registry,
        )
        self.events_publish_failed = Counter(
            "streaming_events_publish_failed_total",
            "Events that were not published",
            ("entity_type", "error_type"),
            registry=registry,
        )
        self.publish_latency = Histogram(
            "streaming_publish_latency_seconds",
            "From handing an event over to the broker's receipt",
            ("entity_type",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.events_consumed = Counter(
            "streaming_events_consumed_total",
            "Events that a leg has settled",
            ("entity_type", "consumer_type"),
            registry=registry,
        )
        self.outcomes = Counter(
            "streaming_outcomes_total",
            "What became of the events that a leg settled: applied, stale or rejected",
            ("consumer_type", "entity_type", "status"),
            registry=registry,
        )
        self.dlq_messages = Counter(
            "streaming_dlq_messages_total",
            "Dead letters, by the reason of the rejection",
            ("entity_type", "failure_reason"),
            registry=registry,
        )
        self.dlq_retries = Counter(
            "streaming_dlq_retries_total",
            "Dead letters handed to their leg's retry topic, by attempt",
            ("consumer_type", "attempt"),
            registry=registry,
        )
        self.dlq_archived = Counter(
            "streaming_dlq_archived_total",
            "Dead letters written to the archive",
            ("consumer_type", "failure_reason"),
            registry=registry,
        )
        self.event_to_store = Histogram(
            "streaming_event_to_store_seconds",
            "From the event's time to its storage",
            ("consumer_type",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_events = Histogram(
            "streaming_batch_events",
            "Events in a received batch",
            ("consumer_type",),
            buckets=_EVENTS,
            registry=registry,
        )
        self.store_write = Histogram(
            "streaming_store_write_seconds",
            "One write of a batch to the store, failed ones included",
            ("consumer_type",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.store_retries = Counter(
            "streaming_store_retries_total",
            "Writes that were repeated because the store was busy or away",
            ("consumer_type",),
            registry=registry,
        )
        self.in_flight = Gauge(
            "streaming_batches_in_flight",
            "Batches received and not yet settled",
            ("consumer_type",),
            registry=registry,
        )
        self.paused = Gauge(
            "streaming_paused",
            "1 while the leg waits for its store or has stopped at the rejection limit",
            ("consumer_type",),
            registry=registry,
        )
        self.build_info = Gauge(
            "streaming_build_info", "The version of the events library", ("version",), registry=registry
        )
        self.build_info.labels(_library_version()).set(1)


def _library_version() -> str:
    try:
        return version("banking-events")
    except PackageNotFoundError:
        return "unknown"


METRICS = StreamingMetrics()
"""The metrics of this process."""


def get_metrics_output(registry: CollectorRegistry = REGISTRY) -> str:
    """All metrics of this process in Prometheus' text format."""
    return generate_latest(registry).decode()
