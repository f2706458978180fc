"""Audits by the clock, and tells Prometheus what came of it."""

from __future__ import annotations

import contextlib
import logging
import time
from datetime import UTC, datetime
from itertools import product
from typing import TYPE_CHECKING

import structlog

from banking.streaming.metrics import METRICS
from banking.streaming.service import back_off, drain_limit, wait_for_stop
from verify.audit import Scope, run_audit
from verify.entities import LEGS, TYPES
from verify.judging import DIFFERENCES, Word
from verify.report import TOPICS, Report, Status

if TYPE_CHECKING:
    from banking.streaming.service import Service
    from verify.settings import AuditSettings
    from verify.systems import Systems

log = structlog.get_logger(__name__)

_IN_DOUBT = "in doubt"
"""What an audit comes to that was finished, and found only what the topics, having been trimmed, cannot account for."""

_RESULTS = (*(status.words for status in Status), _IN_DOUBT)

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
    for result in _RESULTS:
        METRICS.audit_timestamp.labels(result).set(0)
    await service.start_http()
    failures = 0
    while not service.stop.is_set():
        with contextlib.suppress(TimeoutError):
            async with drain_limit(service.stop, 0):
                report = await _audit(systems)
        if service.stop.is_set():
            return
        _tell(report)
        if report.problem:
            # One that failed late was as much load as one that did not.
            soonest = max(_FIRST_REPEAT_SECONDS, report.seconds)
            longest = min(max(_LONGEST_REPEAT_SECONDS, soonest), settings.audit_interval_seconds)
            failures = await back_off(failures, service.stop, base_seconds=soonest, max_seconds=longest)
        else:
            failures = 0
            await wait_for_stop(service.stop, settings.audit_interval_seconds)


async def _audit(systems: Systems) -> Report:
    """The report of an audit of everything. An error that nobody expected is a problem, and no end of watching."""
    started = time.monotonic()
    try:
        return await run_audit(systems, Scope(limit=0))
    except Exception as error:
        log.exception("the audit failed")
        took = time.monotonic() - started
        return Report(as_of=datetime.now(UTC), seconds=took, problem=f"failed: {type(error).__name__}")


def _tell(report: Report) -> None:
    """Log what an audit came to, and show it as metrics; entities are named by `make verify` alone."""
    certain = report.certain
    doubtful = report.status is Status.NOT_JUDGED and not report.problem
    result = _IN_DOUBT if doubtful else report.status.words
    log.log(
        logging.INFO if report.status is Status.IN_STEP else logging.WARNING,
        "audited",
        result=result,
        problem=report.problem,
        events=report.events,
        entities=report.published.total(),
        differences=certain.total(),
        seconds=round(report.seconds, 3),
    )
    METRICS.audit_timestamp.labels(result).set(report.as_of.timestamp())
    if report.problem:  # what the last one found still holds, as far as anybody knows
        return
    for leg, entity_type, difference in _SERIES:
        number = certain[leg, entity_type, difference]
        METRICS.audit_differences.labels(leg, entity_type, difference.value).set(number)
