"""Audits by the clock, and tells Prometheus what came of it."""

from __future__ import annotations

import contextlib
from itertools import product
from typing import TYPE_CHECKING

import structlog

from banking.streaming.metrics import METRICS
from banking.streaming.service import back_off, drain_limit, wait_for_stop
from verify.audit import Scope, run_audit
from verify.entities import LEGS, TYPES
from verify.judging import DIFFERENCES, Word
from verify.report import TOPICS, Status

if TYPE_CHECKING:
    from banking.streaming.service import Service
    from verify.report import Report
    from verify.settings import AuditSettings
    from verify.systems import Systems

log = structlog.get_logger(__name__)

_SERIES = (
    *product([leg.value for leg in LEGS], TYPES, sorted(DIFFERENCES - {Word.CONTRADICTED})),
    *product([TOPICS], TYPES, [Word.CONTRADICTED]),
)
"""Everything that an audit may find: what it no longer finds is 0."""

_FIRST_REPEAT_SECONDS = 5.0
_LONGEST_REPEAT_SECONDS = 300.0


async def watch(service: Service, settings: AuditSettings, systems: Systems) -> None:
    """Audit everything, wait, and audit again, until the service is asked to stop; an audit at work is broken off.

    One that could not read everything is repeated sooner: at the start of a fleet, the others are not there yet.
    """
    for status in Status:
        METRICS.audit_timestamp.labels(status.words).set(0)
    await service.start_http()
    failures = 0
    while not service.stop.is_set():
        with contextlib.suppress(TimeoutError):
            async with drain_limit(service.stop, 0):
                report = await run_audit(systems, Scope(limit=0))
        if service.stop.is_set():
            return
        _tell(report)
        if report.problem:
            longest = min(_LONGEST_REPEAT_SECONDS, settings.audit_interval_seconds)
            failures = await back_off(failures, service.stop, base_seconds=_FIRST_REPEAT_SECONDS, max_seconds=longest)
        else:
            failures = 0
            await wait_for_stop(service.stop, settings.audit_interval_seconds)


def _tell(report: Report) -> None:
    """Log what an audit came to, and show it as metrics; entities are named by `make verify` alone."""
    certain = report.certain
    log.info(
        "audited",
        status=report.status.words,
        problem=report.problem,
        events=report.events,
        entities=report.published.total(),
        differences=certain.total(),
        seconds=round(report.seconds, 3),
    )
    METRICS.audit_timestamp.labels(report.status.words).set(report.as_of.timestamp())
    if report.problem:  # what the last one found still holds, as far as anybody knows
        return
    for leg, entity_type, difference in _SERIES:
        number = certain[leg, entity_type, difference]
        METRICS.audit_differences.labels(leg, entity_type, difference.value).set(number)
