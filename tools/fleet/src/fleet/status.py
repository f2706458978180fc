"""`fleet status`: the whole fleet at a glance, from Prometheus and the containers' health checks."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from banking.streaming.metrics import LONGEST_SECONDS
from banking.streaming.sink import Leg
from banking.streaming.topics import DLQ_SUBSCRIPTION, DLQ_TOPIC, ENTITY_TOPICS, LEG_SUBSCRIPTIONS, RETRY_TOPICS
from fleet.compose import AUDIT, SERVERS, SERVICES
from fleet.prometheus import Prometheus, PrometheusError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fleet.compose import Stack

_PUBLISHED = "topic_name:messages_published:rate1m"
_SETTLED = "leg_entity_type:events_consumed:rate1m"
_BACKLOG = "subscription_topic:backlog:sum"
_LATENCY = "leg:event_to_store_seconds:p95_1m"
_REJECTED = "sum by (consumer_type) (increase(streaming_outcomes_total{status='rejected'}[5m]))"
_WAITING = "leg:dead_letters_waiting:sum"
_ARCHIVED = "sum by (consumer_type) (increase(streaming_dlq_archived_total[1h]))"
_PAUSED = "max by (consumer_type, reason) (streaming_paused_reason) == 1"
_MISSING = "max by (service, dependency) (streaming_missing)"

QUERIES: Mapping[str, tuple[str, ...]] = {
    _PUBLISHED: ("topic_name",),
    _SETTLED: ("consumer_type", "entity_type"),
    _BACKLOG: ("subscription", "topic_name"),
    _LATENCY: ("consumer_type",),
    _REJECTED: ("consumer_type",),
    _WAITING: ("consumer_type",),
    _ARCHIVED: ("consumer_type",),
    _PAUSED: ("consumer_type", "reason"),
    _MISSING: ("service", "dependency"),
}
"""What Prometheus is asked, with the labels that tell the values apart."""

Values = dict[tuple[str, ...], float]


@dataclass(slots=True)
class Status:
    """What is known of a fleet at one moment.

    Attributes:
        containers: How many of each service's containers are well, and how many there are.
        values: The answers of `QUERIES`, by their labels; empty when Prometheus does not answer.
        problems: What is not well, a line each.
    """

    containers: dict[str, tuple[int, int]] = field(default_factory=dict)
    values: dict[str, Values] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        """Whether there is nothing to look after."""
        return not self.problems


async def read_status(stack: Stack) -> Status:
    """Ask Prometheus and every container.

    Raises:
        StackError: The containers cannot be listed.
    """
    status = Status()
    unwell, _ = await asyncio.gather(asyncio.to_thread(stack.problems), _ask_prometheus(stack, status))
    for service in dict.fromkeys((*SERVERS, *SERVICES, AUDIT, *(container.service for container in unwell))):
        mine = {container: problem for container, problem in unwell.items() if container.service == service}
        well = sum(problem is None for problem in mine.values())
        status.containers[service] = (well, len(mine))
        if not mine:
            status.problems.append(f"{service}: no container runs")
        status.problems += [
            f"{container.name}: {problem.splitlines()[-1]}" for container, problem in mine.items() if problem
        ]
    return status


async def _ask_prometheus(stack: Stack, status: Status) -> None:
    try:
        async with Prometheus(stack.addresses.prometheus_url) as prometheus:
            answers = await asyncio.gather(*(prometheus.query(expression) for expression in QUERIES))
            alerts = await prometheus.alerts()
    except PrometheusError as error:
        status.problems.append(str(error))
        return
    for (expression, labels), samples in zip(QUERIES.items(), answers, strict=True):
        status.values[expression] = {
            tuple(sample.labels.get(label, "") for label in labels): sample.value for sample in samples
        }
    status.problems += [f"{leg} is paused: {reason}" for leg, reason in sorted(status.values[_PAUSED])]
    status.problems += [f"{service} lacks: {what}" for service, what in sorted(status.values[_MISSING])]
    status.problems += sorted(f"{alert.name}: {alert.summary}" for alert in alerts if alert.firing)


def render(status: Status) -> str:
    """The status as plain text."""
    services = [(name, f"{well}/{number}") for name, (well, number) in status.containers.items()]
    blocks = [_table(("service", "well"), services)]
    if status.values:
        blocks += [_flow_table(status.values), _leg_table(status.values)]
    problems = ["not well:", *(f"  {problem}" for problem in status.problems)]
    blocks.append("all is well" if status.well else "\n".join(problems))
    return "\n\n".join(blocks) + "\n"


def _flow_table(values: Mapping[str, Values]) -> str:
    """Events a second of the last minute, and entries that wait, per topic and leg."""
    heads = ["topic", "published/s"]
    for leg in Leg:
        heads += [f"{leg}/s", f"{leg} backlog"]
    rows = []
    for entity_type, topic in ENTITY_TOPICS.items():
        row = [topic, _rate(values[_PUBLISHED].get((topic,)))]
        for leg in Leg:
            row.append(_rate(values[_SETTLED].get((leg.value, entity_type.value))))
            row.append(_count(values[_BACKLOG].get((LEG_SUBSCRIPTIONS[leg], topic))))
        rows.append(row)
    for leg, topic in RETRY_TOPICS.items():
        backlog = _count(values[_BACKLOG].get((LEG_SUBSCRIPTIONS[leg], topic)))
        waiting = [cell for other in Leg for cell in ("", backlog if other is leg else "")]
        rows.append([topic, _rate(values[_PUBLISHED].get((topic,))), *waiting])
    return _table(heads, rows)


def _leg_table(values: Mapping[str, Values]) -> str:
    rows = [
        (
            leg.value,
            _seconds(values[_LATENCY].get((leg.value,))),
            _count(values[_REJECTED].get((leg.value,), 0.0)),
            _count(values[_WAITING].get((leg.value,))),
            _count(values[_ARCHIVED].get((leg.value,))),
        )
        for leg in Leg
    ]
    heads = ("leg", "latency 95 %", "rejected in 5 min", "dead letters waiting", "archived in 1 h")
    new = _count(values[_BACKLOG].get((DLQ_SUBSCRIPTION, DLQ_TOPIC)))
    return f"{_table(heads, rows)}\n{DLQ_TOPIC}: {new} entries that dlq_worker has not taken yet"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their cells; the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heads, *rows)
    )


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.2f} s" if value < LONGEST_SECONDS else f"> {LONGEST_SECONDS:.0f} s"
