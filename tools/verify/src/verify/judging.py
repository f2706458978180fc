"""What is to be said of one entity in one store. Pure: all that it depends on is given.

An event that a leg has acknowledged was stored, unless it is a dead letter: that is the promise. So a store is wrong
when it holds less than the newest event that its leg had acknowledged before the store was read. What the leg has not
acknowledged may be there or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from banking.streaming.sink import Leg
    from verify.entities import Held, LetterState, Place, Published


class Word(StrEnum):
    """What can be said of an entity in a store."""

    IN_STEP = "in step"  # the newest version that was published, with its content
    BEHIND = "behind"  # newer events wait in the topic: the leg has not acknowledged them
    DEAD_LETTER = "dead letter"  # the store refused what it lacks; the letter waits or is archived
    STUB = "stub"  # an endpoint that others name and of which nothing was published yet
    MISSING = "missing"  # its leg has acknowledged it, and the store does not have it
    EXTRA = "extra"  # the store has it, and no topic does
    DUPLICATED = "duplicated"  # more than one vertex
    VERSION_DIFFERS = "version differs"  # an older version than was acknowledged, or one that was never published
    CONTENT_DIFFERS = "content differs"  # the version that was published, with another content
    RESURRECTED = "resurrected"  # deleted by the newest event, and alive in the store
    DANGLING = "dangling stub"  # an identity alone to which no edge leads, or whose event its leg has acknowledged
    CONTRADICTED = "contradicted"  # two contents were published under the newest version


DIFFERENCES = frozenset(Word) - {Word.IN_STEP, Word.BEHIND, Word.DEAD_LETTER, Word.STUB}
"""Those that are wrong. The rest are states that a fleet in good order has."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of an entity in a store.

    Attributes:
        word: In a word.
        detail: And more closely; empty where the word says it all.
        since_ms: For one that is behind, when the oldest event that it waits for was published.
        mend: The event that mends it when it is written again; None where none does.
    """

    word: Word
    detail: str = ""
    since_ms: int | None = None
    mend: Published | None = None


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges entities in one store.

    Attributes:
        leg: The store's leg.
        acknowledged: Whether the leg had acknowledged the message at a place before the store was read.
        forgotten_before_ms: What was deleted before this moment, in milliseconds since 1970, may have been purged.
    """

    leg: Leg
    acknowledged: Callable[[Place], bool]
    forgotten_before_ms: int

    def judge(
        self, published: Sequence[Published], held: Sequence[Held], letters: Mapping[int, LetterState]
    ) -> Verdict:
        """What is to be said.

        Args:
            published: All events of the entity, by version.
            held: All that the store holds of it.
            letters: The leg's dead letters of it, by version.
        """
        if len(held) > 1:
            return Verdict(Word.DUPLICATED, _listed(held))
        found = held[0] if held else None
        if not published:
            return _unpublished(found) if found else Verdict(Word.IN_STEP)
        newest = published[-1]
        if (
            newest.deleted
            and newest.published_ms < self.forgotten_before_ms
            and (found is None or found.version is None)
        ):
            return Verdict(Word.IN_STEP)
        lag = self._lag(published, newest, found, letters)
        if lag is not None and lag.word in DIFFERENCES:
            return lag
        return self._content_verdict(published, newest, found) or lag or Verdict(Word.IN_STEP)

    def _content_verdict(self, published: Sequence[Published], newest: Published, found: Held | None) -> Verdict | None:
        """What is wrong with that which it holds under its version; None where nothing is."""
        if found is None or found.version is None:
            return None
        of_version = [event for event in published if event.version == found.version]
        if not of_version:
            detail = f"holds {found.version}, which was never published; the newest is {newest.version}"
            return Verdict(Word.VERSION_DIFFERS, detail)
        problem = self._content_problem(of_version, found)
        if not problem:
            return None
        word = Word.RESURRECTED if newest.deleted and not found.deleted else Word.CONTENT_DIFFERS
        return Verdict(word, problem, mend=of_version[0])

    def _content_problem(self, of_version: Sequence[Published], found: Held) -> str:
        """What is wrong with the content; empty where nothing is."""
        alike = [event for event in of_version if event.deleted == found.deleted and event.content == found.content]
        if alike and found.state in {b"", *(event.state(self.leg) for event in alike)}:
            return ""
        if of_version[0].deleted != found.deleted:
            kinds = ("deleted", "alive") if found.deleted else ("alive", "deleted")
            return f"holds version {found.version} {kinds[0]}, published was {kinds[1]}"
        what = "what it holds is not what its hash says" if alike else "other content"
        return f"{what} under version {found.version}"

    def _lag(
        self,
        published: Sequence[Published],
        newest: Published,
        found: Held | None,
        letters: Mapping[int, LetterState],
    ) -> Verdict | None:
        """What keeps newer versions than it holds from the store; None where there are none."""
        held_version = -1 if found is None or found.version is None else found.version
        newer = [event for event in published if event.version > held_version]
        if not newer:
            return None
        settled = {event.version for event in newer if self.acknowledged(event.place)}
        unexplained = settled - letters.keys()
        if unexplained:
            lost = next(event for event in newer if event.version == max(unexplained))
            return _lost(newest, found, lost)
        waiting = [event for event in newer if event.version not in settled]
        if waiting:
            oldest = min(waiting, key=lambda event: event.published_ms)
            return Verdict(Word.BEHIND, _holds(found, newest), oldest.published_ms)
        state = letters[max(settled)]
        return Verdict(Word.DEAD_LETTER, f"{state}; {_holds(found, newest)}")


def contradiction(published: Sequence[Published]) -> str:
    """What speaks against itself under the newest version; empty where nothing does."""
    contents = {event.content for event in published if event.version == published[-1].version}
    if len(contents) < 2:
        return ""
    return f"{len(contents)} contents were published under version {published[-1].version}"


def is_overtaken(published: Sequence[Published]) -> bool:
    """Whether an older version was published after the newest one."""
    newest = published[-1].version
    first = min(event.place for event in published if event.version == newest)
    return any(event.version < newest and event.place > first for event in published)


def _lost(newest: Published, found: Held | None, lost: Published) -> Verdict:
    detail = _holds(found, newest)
    if lost.version != newest.version:
        detail += f", {lost.version} is acknowledged"
    if found is None:
        return Verdict(Word.MISSING, detail, mend=lost)
    if found.version is None:
        return Verdict(Word.DANGLING, detail, mend=lost)
    word = Word.RESURRECTED if newest.deleted and not found.deleted else Word.VERSION_DIFFERS
    return Verdict(word, detail, mend=lost)


def _unpublished(found: Held) -> Verdict:
    if found.version is not None:
        return Verdict(Word.EXTRA, f"holds {found.version}{' deleted' if found.deleted else ''}, no topic has it")
    if found.referred:
        return Verdict(Word.STUB)
    return Verdict(Word.DANGLING, "no edge leads to it and nothing of it was published")


def _holds(found: Held | None, newest: Published) -> str:
    held = "nothing" if found is None else "no more than its identity" if found.version is None else str(found.version)
    return f"holds {held}, published is {newest.version}"


def _listed(held: Sequence[Held]) -> str:
    return f"{len(held)} vertices: " + ", ".join(f"{one.place} of {one.version}" for one in held[:5])
