"""What the archive holds, each letter counted once however often it was archived."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from banking.streaming.archive import DeadLetterArchive, LetterRecord, Replay

_CLOCK_MARGIN = timedelta(days=1)


class State(StrEnum):
    """Where a letter is on its way."""

    WAITING = "waiting"  # archived, and not sent to its leg since
    REPLAYED = "replayed"  # sent to its leg again, and not archived anew since


@dataclass(slots=True)
class Letter:
    """A letter of the archive.

    Attributes:
        record: What its newest archiving says of it.
        place: Where that one stands.
        line: Its line there, from 0.
        copies: How often it stands in the archive: after a crash, or because a replay failed.
        replays: How often it was replayed.
        state: Whether it waits or was replayed since.
    """

    record: LetterRecord
    place: str
    line: int
    copies: int = 1
    replays: int = 0
    state: State = State.WAITING


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters; what is empty or None selects all.

    Attributes:
        since: Last rejected at this time or later.
        until: Last rejected before this time.
        entity_types: Of these types.
        legs: Rejected by these legs.
        reasons: For these reasons.
        ids: With these ids; brackets and spaces in an id do not count.
        state: In this state.
    """

    since: datetime | None = None
    until: datetime | None = None
    entity_types: frozenset[str] = frozenset()
    legs: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    state: State | None = None
    _plain_ids: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_plain_ids", frozenset(plain_id(letter_id) for letter_id in self.ids))

    @property
    def selects_all(self) -> bool:
        """Whether no letter is left out."""
        return self == Selection()

    def holds(self, letter: Letter) -> bool:
        """Whether a letter is among the selected."""
        record = letter.record
        return (
            (self.since is None or record.last_failure >= self.since)
            and (self.until is None or record.last_failure < self.until)
            and (not self.entity_types or record.entity_type in self.entity_types)
            and (not self.legs or record.leg in self.legs)
            and (not self.reasons or record.reason in self.reasons)
            and (not self._plain_ids or plain_id(record.letter_id) in self._plain_ids)
            and (self.state is None or letter.state is self.state)
        )


def plain_id(letter_id: str) -> str:
    """A letter's id without what a shell would want to be quoted."""
    return letter_id.translate(_UNQUOTED)


_UNQUOTED = str.maketrans("", "", "() ")


async def find(archive: DeadLetterArchive, selection: Selection) -> list[Letter]:
    """The selected letters, newest failure first. Reads the manifests only.

    Raises:
        ArchiveUnavailableError: The archive cannot be read.
    """
    # A letter is archived after its last failure: manifests of earlier days cannot hold it.
    since = None if selection.since is None else (selection.since - _CLOCK_MARGIN).date()
    places = await archive.places(since=since, entity_types=selection.entity_types)
    manifests = [manifest async for manifest in archive.records(places)]
    letters = [letter for letter in count_once(manifests, await archive.replays()) if selection.holds(letter)]
    return sorted(letters, key=lambda letter: letter.record.last_failure, reverse=True)


def count_once(manifests: Iterable[tuple[str, Sequence[LetterRecord]]], replays: Iterable[Replay]) -> list[Letter]:
    """One `Letter` per id: that of the highest attempt, since every replay that fails raises it."""
    letters: dict[str, Letter] = {}
    for place, records in manifests:
        for line, record in enumerate(records):
            letter = letters.get(record.letter_id)
            if letter is None:
                letters[record.letter_id] = Letter(record, place, line)
                continue
            letter.copies += 1
            if (record.attempt, record.archived_at) > (letter.record.attempt, letter.record.archived_at):
                letter.record, letter.place, letter.line = record, place, line
    # A mark that was written twice, because a replay was repeated after a crash, is one replay.
    for letter_id, attempt in {(replay.letter_id, replay.attempt) for replay in replays}:
        letter = letters.get(letter_id)
        if letter is not None:
            letter.replays += 1
            if attempt >= letter.record.attempt:
                letter.state = State.REPLAYED
    return list(letters.values())
