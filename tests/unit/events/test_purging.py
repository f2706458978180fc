"""The purge of tombstones beside the batch loop: when it runs, what it counts, and what ends it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry

from banking.streaming.leg import LegSettings, TombstonePurger, keep_purging
from banking.streaming.metrics import StreamingMetrics
from banking.streaming.settings import load_settings
from banking.streaming.sink import BatchFailedError, Leg, SinkUnavailableError
from banking.streaming.testing import InMemorySink

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)


class Purger:
    """Notes what it was asked for; its answers are given in turn, the last one for ever."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def purge_tombstones(self, before):
        self.asked.append(before)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, asyncio.Event):
            await answer.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer


class Running:
    def __init__(self, purger, **settings):
        self.metrics = StreamingMetrics(CollectorRegistry())
        self.stop = asyncio.Event()
        settings = LegSettings(**{"tombstone_purge_interval_seconds": 0.001, **settings})
        self.task = asyncio.create_task(
            keep_purging(purger, Leg.GRAPH, settings, self.stop, metrics=self.metrics, now=lambda: NOW)
        )

    def count(self, metric):
        return getattr(self.metrics, metric).labels("graph")._value.get()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.stop.set()
        await asyncio.wait_for(self.task, 1)


async def until(condition):
    async with asyncio.timeout(3):
        while not condition():
            await asyncio.sleep(0.001)


async def test_what_was_kept_for_long_enough_is_purged_again_and_again_and_counted():
    purger = Purger(3, 0, 4, 0)
    async with Running(purger, tombstone_retention_days=30) as running:
        await until(lambda: len(purger.asked) > 4)
        assert running.count("tombstones_purged") == 7
    assert set(purger.asked) == {NOW - timedelta(days=30)}


@pytest.mark.parametrize("error", [SinkUnavailableError("away"), BatchFailedError("refused")])
async def test_a_failure_is_counted_and_the_next_purge_tries_again(error):
    purger = Purger(error, 5, 0)
    async with Running(purger) as running:
        await until(lambda: len(purger.asked) > 2)
        assert running.count("tombstone_purges_failed") == 1
        assert running.count("tombstones_purged") == 5


async def test_a_stop_ends_a_purge_that_is_under_way():
    purger = Purger(asyncio.Event())
    running = Running(purger)
    await until(lambda: purger.asked)
    assert not running.task.done()
    running.stop.set()
    await asyncio.wait_for(running.task, 1)
    assert len(purger.asked) == 1


async def test_a_stop_ends_the_wait_between_two_purges():
    purger = Purger(0)
    async with Running(purger, tombstone_purge_interval_seconds=1e6):
        await asyncio.sleep(0.01)
    assert purger.asked == []


def test_a_sink_without_a_purge_is_not_asked():
    assert isinstance(Purger(0), TombstonePurger)
    assert not isinstance(InMemorySink(), TombstonePurger)


@pytest.mark.parametrize(("days", "delays"), [("0.005", "60,120,300"), ("1", "86400"), ("2", "86400,86400")])
def test_tombstones_must_outlast_the_retries(monkeypatch, capsys, days, delays):
    monkeypatch.setenv("TOMBSTONE_RETENTION_DAYS", days)
    monkeypatch.setenv("DLQ_RETRY_DELAYS_SECONDS", delays)
    with pytest.raises(SystemExit):
        load_settings(LegSettings)
    error = capsys.readouterr().err
    assert "TOMBSTONE_RETENTION_DAYS" in error
    assert "DLQ_RETRY_DELAYS_SECONDS" in error


def test_tombstones_may_be_kept_a_little_longer_than_the_retries(monkeypatch):
    monkeypatch.setenv("TOMBSTONE_RETENTION_DAYS", "1.001")
    monkeypatch.setenv("DLQ_RETRY_DELAYS_SECONDS", "86400")
    assert load_settings(LegSettings).tombstone_retention == timedelta(days=1, seconds=86.4)
