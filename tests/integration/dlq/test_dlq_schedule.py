"""The real delays of 60, 120 and 300 seconds, with a `kill -9` of worker, leg and broker while each of them runs."""

from __future__ import annotations

import asyncio
import itertools
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from dlq_worker.inventory import Selection, find
from tests.integration.dlq.conftest import LegProcess, Worker, has_archived, raw_event, readiness, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from banking.streaming.archive import DeadLetterArchive
    from banking.streaming.broker import Publisher
    from fleet.compose import Stack
    from tests.integration.dlq.conftest import Lane

DELAYS = (60, 120, 300)


@pytest.mark.slow
async def test_no_restart_loses_a_timer_of_the_real_schedule(
    stack: Stack,
    lane: Lane,
    publisher: Publisher,
    archive: DeadLetterArchive,
    graph_store: dict[str, str],
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    schedule = ",".join(map(str, DELAYS))
    rejections: list[datetime] = []

    async def rejected(leg: LegProcess, attempt: int) -> None:
        """The poison event is rejected that often."""
        entry = await leg.until_logged("event rejected", DELAYS[attempt - 1] + 60 if attempt else 60, attempt=attempt)
        rejections.append(datetime.fromisoformat(entry["timestamp"]))

    worker = Worker(lane, archive, DLQ_RETRY_DELAYS_SECONDS=schedule)
    leg = LegProcess(lane, graph_store)
    try:
        await readiness(await leg.address(), lambda missing: not missing)
        await publisher.publish_all([raw_event(lane, "poison", b"\xff no event")])
        await rejected(leg, 0)
        await worker.until_logged("retry stored", attempt=1)
        for attempt in (1, 2, 3):
            await worker.kill()
            await leg.kill()
            await asyncio.to_thread(stack.kill_process, "pulsar")
            await asyncio.to_thread(stack.wait_ready, 50, ["pulsar"])
            worker = Worker(lane, archive, DLQ_RETRY_DELAYS_SECONDS=schedule)
            leg = LegProcess(lane, graph_store)
            await rejected(leg, attempt)
            if attempt < 3:
                await worker.until_logged("retry stored", attempt=attempt + 1)
        await until(lambda: has_archived(archive, 1))
    finally:
        await worker.kill()
        await leg.kill()
    (found,) = await find(archive, Selection())
    assert (found.record.key, found.record.attempt) == ("poison", 3)
    seen = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(rejections)]
    record_testsuite_property("dlq_delays_seconds", seen)
    for delay, interval in zip(DELAYS, seen, strict=True):
        # The broker hands out within a second what is due; the rest is for a busy machine.
        assert delay <= interval < delay + 20, seen
