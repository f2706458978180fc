"""Every Prometheus metric of the library, declared once. `docs/metrics.md` is kept equal to this file by a test."""

from __future__ import annotations

from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

if TYPE_CHECKING:
    from collections.abc import Collection

# They would be a second series for each counter and histogram, that nobody looks at.
disable_created_metrics()  # type: ignore[no-untyped-call] # the client declares no types for it

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BYTES = tuple(1024 * 4**power for power in range(8))  # 1 KiB to 16 MiB
_EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)

LONGEST_SECONDS = _SECONDS[-1]
"""What a histogram of seconds tells apart at most: a quantile is never above it."""

MAX_SOURCES = 100
"""How many sources are told apart in metrics."""

OTHER_SOURCES = "other"
"""The label of the rest."""


class PauseReason(StrEnum):
    """What a leg, or the dead letters' worker, waits for. The list is fixed: it is a metric's label."""

    STORE_AWAY = "store_away"  # it does not answer, or takes no writes at all
    STORE_BUSY = "store_busy"  # it asks for the same events again, later
    BROKER = "broker"  # it does not store dead letters or retries, or hand out letters
    ARCHIVE = "archive"
    REJECTION_LIMIT = "rejection_limit"  # somebody who mends the cause and restarts the service


class StreamingMetrics:
    """The metrics of one process. The module's `METRICS` is the one to use; tests make their own.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        self.events_published = Counter(
            "streaming_events_published_total",
            "Events that the broker has stored; "
            f"the first {MAX_SOURCES} sources that a process sees are told apart, the rest are `{OTHER_SOURCES}`",
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
            "From handing an event over to the broker's receipt; of receipts that come together, the longest",
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
            "Dead letters that a leg stored, by the reason of the rejection; one whose retry fails counts again",
            ("entity_type", "failure_reason"),
            registry=registry,
        )
        self.dlq_scheduled = Counter(
            "streaming_dlq_scheduled_total",
            "Dead letters stored in their leg's retry topic, by the number of the retry",
            ("consumer_type", "attempt"),
            registry=registry,
        )
        self.dlq_repeats = Counter(
            "streaming_dlq_repeats_total",
            "Dead letters that came again after their retry was stored, and were not stored twice",
            ("consumer_type",),
            registry=registry,
        )
        self.dlq_retries = Counter(
            "streaming_dlq_retries_total",
            "Retries that a leg settled, by result: applied, stale or rejected",
            ("consumer_type", "result"),
            registry=registry,
        )
        self.dlq_archived = Counter(
            "streaming_dlq_archived_total",
            "Dead letters written to the archive",
            ("consumer_type", "failure_reason"),
            registry=registry,
        )
        self.dlq_waiting = Gauge(
            "streaming_dlq_waiting",
            "Dead letters on their way, as the broker holds them, by the retry that they wait for, or `archive`; "
            "every replica tells of all",
            ("consumer_type", "attempt"),
            registry=registry,
        )
        self.dlq_oldest = Gauge(
            "streaming_dlq_oldest_seconds",
            "Since the first failure of the oldest dead letter on its way; 0 where there is none",
            ("consumer_type",),
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
        self.batch_bytes = Histogram(
            "streaming_batch_bytes",
            "Bytes in a received batch",
            ("consumer_type",),
            buckets=_BYTES,
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
        self.backlog_age = Gauge(
            "streaming_backlog_age_seconds",
            "Since the oldest event that a leg works on was published; 0 while it works on none. Retries, which come "
            "late on purpose, are left out",
            ("consumer_type",),
            registry=registry,
        )
        self.paused = Gauge(
            "streaming_paused",
            "1 while a leg waits for its store or has stopped at the rejection limit, and for the consumer type `dlq` "
            "while the dead letters' worker waits for its archive or for the broker",
            ("consumer_type",),
            registry=registry,
        )
        self.paused_reason = Gauge(
            "streaming_paused_reason",
            "1 for what is waited for, 0 for what is not: " + ", ".join(f"`{reason}`" for reason in PauseReason),
            ("consumer_type", "reason"),
            registry=registry,
        )
        self.ready = Gauge(
            "streaming_ready",
            "1 while `/health/ready` of the service says that nothing is missing",
            ("service",),
            registry=registry,
        )
        self.missing = Gauge(
            "streaming_missing",
            "1 for each thing that `/health/ready` names as missing",
            ("service", "dependency"),
            registry=registry,
        )
        self.tombstones_purged = Counter(
            "streaming_tombstones_purged_total",
            "Tombstones that a leg removed from its store for good",
            ("consumer_type",),
            registry=registry,
        )
        self.tombstone_purges_failed = Counter(
            "streaming_tombstone_purges_failed_total",
            "Purges of tombstones that failed; the next one tries again",
            ("consumer_type",),
            registry=registry,
        )
        self.audit_differences = Gauge(
            "streaming_audit_differences",
            "Entities that the last audit found wrong, in which store, or in `topics`, and by difference",
            ("consumer_type", "entity_type", "difference"),
            registry=registry,
        )
        self.audit_timestamp = Gauge(
            "streaming_audit_timestamp_seconds",
            "The moment that the last audit of each result tells of, since 1970: in step, differences, in doubt where "
            "topics have been trimmed, or not judged; 0 where there was none",
            ("result",),
            registry=registry,
        )
        self.build_info = Gauge(
            "streaming_build_info", "The version of the events library", ("version",), registry=registry
        )
        self.build_info.labels(_library_version()).set(1)
        self._sources: set[str] = set()

    def show_paused(self, consumer_type: str, reasons: Collection[PauseReason]) -> None:
        """Say what is waited for; nothing where it is not paused."""
        self.paused.labels(consumer_type).set(bool(reasons))
        for reason in PauseReason:
            self.paused_reason.labels(consumer_type, reason.value).set(reason in reasons)

    def show_missing(self, service: str, names: Collection[str]) -> None:
        """Say what a service lacks, by the names of its health report."""
        self.ready.labels(service).set(not names)
        self.missing.clear()
        for name in names:
            self.missing.labels(service, name).set(1)

    def source_label(self, source: str) -> str:
        """The label of an event's source. Callers choose sources freely, so only the first `MAX_SOURCES` have one."""
        if source not in self._sources:
            if len(self._sources) >= MAX_SOURCES:
                return OTHER_SOURCES
            self._sources.add(source)
        return source


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
