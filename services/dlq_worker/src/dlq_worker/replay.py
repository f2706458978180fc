"""Sending archived letters to their legs again, on purpose."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from banking.streaming.archive import ArchivedLetter, Replay
from banking.streaming.dead_letters import DeadLetter
from banking.streaming.sink import Leg, RejectionReason
from banking.streaming.tracing import traceparent_of
from dlq_worker.inventory import Letter, Selection, State, find

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from banking.streaming.archive import DeadLetterArchive
    from banking.streaming.dlq_handler import RetryPublisher

_CHUNK_LETTERS = 100


class Refusal(StrEnum):
    """Why a selected letter is not replayed."""

    TOO_OLD = "older than the tombstones are kept"
    TOO_OFTEN = "replayed too often"
    NO_LEG = "no dead letter of a leg"
    GONE = "purged meanwhile"
    OVER_LIMIT = "over the limit"


@dataclass(frozen=True, slots=True)
class ReplayRules:
    """How a replay goes about it.

    Attributes:
        limit: Letters, at most; None for all.
        per_second: Letters a second, at most.
        max_replays: A letter that was replayed so often already is left alone.
        max_age: An older event is left alone: its entity's tombstone may be gone, so that it might bring back what was
            deleted.
        force: Replays older ones too.
        dry_run: Only says what would be done.
    """

    limit: int | None = None
    per_second: float = 100.0
    max_replays: int = 3
    max_age: timedelta = timedelta(days=30)
    force: bool = False
    dry_run: bool = False


@dataclass(slots=True)
class ReplayReport:
    """What a replay did, or for a dry run what it would do.

    Attributes:
        replayed: The letters, in the order in which they were sent.
        refused: How many were not, by reason.
    """

    replayed: list[Letter] = field(default_factory=list)
    refused: Counter[Refusal] = field(default_factory=Counter)


async def replay(
    archive: DeadLetterArchive,
    publisher: RetryPublisher,
    selection: Selection,
    rules: ReplayRules,
    *,
    now: datetime | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> ReplayReport:
    """Send the selected letters that wait to their legs' retry topics, about oldest first, and mark them.

    Letters are marked after they are stored in the topic: a replay that is cut short goes on with the next one where
    it stopped, and may send its last hundred again, which is harmless. A letter that fails again is archived anew,
    without further retries, and waits again.

    Args:
        archive: Where the letters are.
        publisher: Where they go.
        selection: Which letters; its state does not count.
        rules: How many, how fast, and what is left alone.
        now: The time that ages are counted from.
        on_progress: Called with the letters sent and the letters to send.

    Raises:
        ArchiveUnavailableError: The archive cannot be read or marked.
        BrokerError: The broker is away.
    """
    report = ReplayReport()
    waiting = [letter for letter in await find(archive, selection) if letter.state is State.WAITING]
    chosen = _choose(list(reversed(waiting)), rules, now or datetime.now(UTC), report)
    if rules.dry_run:
        report.replayed = chosen
        return report
    started = time.monotonic()
    chunk_letters = max(1, min(_CHUNK_LETTERS, round(rules.per_second)))
    by_place: dict[str, list[Letter]] = {}
    for letter in chosen:
        by_place.setdefault(letter.place, []).append(letter)
    for place, of_place in by_place.items():
        contents = await archive.letters(place)
        for first in range(0, len(of_place), chunk_letters):
            chunk = of_place[first : first + chunk_letters]
            await asyncio.sleep(started + len(report.replayed) / rules.per_second - time.monotonic())
            await _send(archive, publisher, chunk, contents, report)
            on_progress(len(report.replayed), len(chosen))
    return report


def _choose(letters: Sequence[Letter], rules: ReplayRules, now: datetime, report: ReplayReport) -> list[Letter]:
    chosen: list[Letter] = []
    for letter in letters:
        refusal = _refusal(letter, rules, now)
        if refusal is None and rules.limit is not None and len(chosen) >= rules.limit:
            refusal = Refusal.OVER_LIMIT
        if refusal is None:
            chosen.append(letter)
        else:
            report.refused[refusal] += 1
    return chosen


def _refusal(letter: Letter, rules: ReplayRules, now: datetime) -> Refusal | None:
    record = letter.record
    if record.leg not in set(Leg) or record.reason not in set(RejectionReason):
        return Refusal.NO_LEG
    if letter.replays >= rules.max_replays:
        return Refusal.TOO_OFTEN
    # The event's own time counts where it is known: the deletion that matters came after it.
    born = min(record.first_failure, record.event_time or record.first_failure)
    if not rules.force and now - born > rules.max_age:
        return Refusal.TOO_OLD
    return None


async def _send(
    archive: DeadLetterArchive,
    publisher: RetryPublisher,
    chunk: Sequence[Letter],
    contents: Sequence[ArchivedLetter],
    report: ReplayReport,
) -> None:
    present = [
        letter
        for letter in chunk
        if letter.line < len(contents) and contents[letter.line].letter_id == letter.record.letter_id
    ]
    if gone := len(chunk) - len(present):
        report.refused[Refusal.GONE] += gone
    if not present:
        return
    await publisher.publish_all(
        [_dead_letter(contents[letter.line]).to_retry_message(timedelta(0)) for letter in present]
    )
    now = datetime.now(UTC)
    await archive.mark_replayed(
        [
            Replay(letter_id=letter.record.letter_id, attempt=letter.record.attempt, replayed_at=now)
            for letter in present
        ]
    )
    report.replayed.extend(present)


def _dead_letter(archived: ArchivedLetter) -> DeadLetter:
    return DeadLetter(
        letter_id=archived.letter_id,
        leg=Leg(archived.leg or ""),
        topic=archived.topic,
        key=archived.key,
        data=archived.data,
        reason=RejectionReason(archived.reason),
        error=archived.error,
        attempt=archived.attempt,
        first_failure=archived.first_failure,
        last_failure=archived.last_failure,
        traceparent=traceparent_of(archived.properties),
    )
