"""The audit by the clock: again and again, sooner where it could not be finished, and its metrics."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY

from banking.streaming.service import Service
from verify import watching
from verify.judging import Word
from verify.report import Report
from verify.settings import AuditSettings

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def found(*words, hours=0, **fields):
    made = Report(as_of=START + timedelta(hours=hours), **fields)
    made.words.update(dict(words))
    return made


def differences(leg, word, entity_type="person"):
    labels = {"consumer_type": leg, "entity_type": entity_type, "difference": word.value}
    return REGISTRY.get_sample_value("streaming_audit_differences", labels)


def hours(result):
    """When the last audit that came to this was made, in hours after the first; None for none."""
    value = REGISTRY.get_sample_value("streaming_audit_timestamp_seconds", {"result": result})
    return (value - START.timestamp()) / 3600 if value else None


@pytest.fixture
def watched(monkeypatch):
    """Watches a fleet whose audits come to these reports, each awaited first; what the metrics said after each."""

    async def run(reports, look, interval):
        settings = AuditSettings(http_host="127.0.0.1", http_port=0, audit_interval_seconds=interval)
        service = Service("verify", settings)
        seen, left = [], list(reports)

        async def audit(_systems, _scope):
            if seen or len(left) < len(reports):
                seen.append(look())
            if not left:
                service.stop.set()
                await asyncio.sleep(3600)
            report = left.pop(0)
            if isinstance(report, Exception):
                raise report
            return report

        monkeypatch.setattr(watching, "run_audit", audit)
        monkeypatch.setattr(watching, "_FIRST_REPEAT_SECONDS", 0.01)
        try:
            async with asyncio.timeout(10):
                await watching.watch(service, settings, None)
        finally:
            await service.stop_http()
        return seen

    return run


async def test_what_is_no_longer_found_is_no_longer_told(watched):
    reports = [
        found((("graph", "person", Word.MISSING), 2), (("topics", "person", Word.CONTRADICTED), 1)),
        found((("vector", "person", Word.EXTRA), 3), (("vector", "person", Word.BEHIND), 9), hours=1),
        found((("graph", "person", Word.IN_STEP), 9), hours=2),
    ]

    def look():
        return (
            differences("graph", Word.MISSING),
            differences("topics", Word.CONTRADICTED),
            differences("vector", Word.EXTRA),
            differences("vector", Word.BEHIND),
            hours("differences"),
            hours("in step"),
        )

    assert await watched(reports, look, interval=1) == [
        (2, 1, 0, None, 0, None),
        (0, 0, 3, None, 1, None),
        (0, 0, 0, None, 1, 2),
    ]


async def test_one_that_cannot_be_finished_is_repeated_soon_and_takes_nothing_back(watched):
    reports = [
        found((("graph", "person", Word.MISSING), 2)),
        found(problem="JanusGraph: away", hours=1),
        found(problem="JanusGraph: away", hours=2),
        found(hours=3),
    ]

    def look():
        return (differences("graph", Word.MISSING), hours("not judged"), hours("in step"))

    # Three waits of an interval would take longer than the test may.
    assert await watched(reports, look, interval=4) == [(2, None, None), (2, 1, None), (2, 2, None), (0, 2, 3)]


async def test_what_a_trimmed_topic_cannot_account_for_is_no_difference(watched):
    doubtful = found((("graph", "person", Word.EXTRA), 2), trimmed_types=frozenset({"person"}))

    def look():
        return (
            differences("graph", Word.EXTRA),
            hours("in doubt"),
            hours("not judged"),
        )

    assert await watched([doubtful], look, interval=1) == [(0, 0, None)]


async def test_an_error_that_nobody_expected_is_repeated_like_any_other(watched):
    reports = [found((("graph", "person", Word.MISSING), 2)), sqlite3.OperationalError("disk is full"), found(hours=1)]

    def look():
        return (differences("graph", Word.MISSING), hours("not judged") is not None, hours("in step"))

    assert await watched(reports, look, interval=2) == [(2, False, None), (2, True, None), (0, True, 1)]
