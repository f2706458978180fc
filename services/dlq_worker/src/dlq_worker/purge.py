"""Removing letters from the archive for good."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from banking.streaming.archive import written_at
from dlq_worker.inventory import Selection, count_once

if TYPE_CHECKING:
    from collections.abc import Sequence

    from banking.streaming.archive import DeadLetterArchive, LetterRecord

_IN_THE_MAKING = timedelta(hours=1)


@dataclass(slots=True)
class PurgeReport:
    """What a purge removed, or for a dry run what it would remove.

    Attributes:
        letters: Letters, each counted once.
        removed: Objects that held nothing else.
        rewritten: Objects that held other letters too; those were kept.
    """

    letters: int = 0
    removed: int = 0
    rewritten: int = 0


async def purge(archive: DeadLetterArchive, selection: Selection, *, dry_run: bool = False) -> PurgeReport:
    """Remove the selected letters with all their copies.

    An object that also holds other letters is written anew without the selected ones before it is removed. A purge that
    was cut short is finished by the next one.

    Raises:
        ArchiveUnavailableError: The archive cannot be read or written.
    """
    manifests: list[tuple[str, Sequence[LetterRecord]]] = [
        manifest async for manifest in archive.records(await archive.places())
    ]
    manifests += await _unlisted(archive)
    letters = [letter for letter in count_once(manifests, await archive.replays()) if selection.holds(letter)]
    doomed = {letter.record.letter_id for letter in letters}
    report = PurgeReport(letters=len(doomed))
    for place, records in manifests:
        kept = sum(record.letter_id not in doomed for record in records)
        if kept == len(records):
            continue
        if kept:
            report.rewritten += 1
        else:
            report.removed += 1
        if dry_run:
            continue
        if kept:
            contents = await archive.letters(place)
            await archive.write([letter for letter in contents if letter.letter_id not in doomed])
        await archive.delete(place)
    return report


async def _unlisted(archive: DeadLetterArchive) -> list[tuple[str, Sequence[LetterRecord]]]:
    """What objects without a manifest hold, save those that may be in the making."""
    before = datetime.now(UTC) - _IN_THE_MAKING
    return [
        (place, [letter.record() for letter in await archive.letters(place)])
        for place in await archive.unlisted_places()
        if written_at(place) < before
    ]
