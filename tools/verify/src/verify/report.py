"""What an audit found: counts by type and leg, and the first entities of each kind that is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from verify.judging import DIFFERENCES, Word

if TYPE_CHECKING:
    from datetime import datetime

TOPICS = "topics"
"""In place of a leg where the topics themselves are wrong."""

_LISTED_STATES = frozenset({Word.DEAD_LETTER})


class Status(IntEnum):
    """The exit status of an audit."""

    IN_STEP = 0
    DIFFERENCES = 1
    NOT_JUDGED = 2

    @property
    def words(self) -> str:
        """Such as `in step`."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is said of one entity.

    Attributes:
        entity_type: Its type.
        entity_id: Its id; the vertex's own where it says no other.
        leg: The leg whose store it is about, or `TOPICS`.
        word: What is said.
        detail: And more closely.
        repair: What became of it, where repairs were asked for; empty where nothing was done.
    """

    entity_type: str
    entity_id: str
    leg: str
    word: Word
    detail: str
    repair: str = ""


@dataclass(slots=True)
class Report:
    """What an audit found.

    Attributes:
        as_of: The moment of the cut: what a leg had acknowledged then counts, and nothing later.
        seconds: How long it took.
        events: Events that were read from the topics.
        published: Entities that events were published of, by type.
        overtaken: Of those, the ones of which an older version was published after the newest; by type.
        unreadable: Messages that are no event, by topic.
        words: What is said of how many entities, by leg, type and word.
        behind_since: When the oldest event that waits was published, by leg and type.
        findings: What is wrong, and what is a dead letter, as far as the limit goes.
        notes: What limits that which can be said.
        trimmed_types: Types whose topics may lack events.
        repaired: Events that were written again, and stubs that were removed.
        problem: Why nothing could be judged; empty when all could.
    """

    as_of: datetime
    seconds: float = 0.0
    events: int = 0
    published: Counter[str] = field(default_factory=Counter)
    overtaken: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, int] = field(default_factory=dict)
    words: Counter[tuple[str, str, Word]] = field(default_factory=Counter)
    behind_since: dict[tuple[str, str], datetime] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trimmed_types: frozenset[str] = frozenset()
    repaired: int | None = None
    problem: str = ""

    @property
    def differences(self) -> int:
        """How many entities are wrong, each counted once a leg."""
        return sum(number for (_, _, word), number in self.words.items() if word in DIFFERENCES)

    @property
    def certain(self) -> Counter[tuple[str, str, Word]]:
        """Of what is wrong, by leg, type and word, that which a topic that was trimmed does not put in doubt."""
        return Counter(
            {
                (leg, entity_type, word): number
                for (leg, entity_type, word), number in self.words.items()
                if word in DIFFERENCES and not (word is Word.EXTRA and entity_type in self.trimmed_types)
            }
        )

    @property
    def status(self) -> Status:
        """What it comes to. What a topic that was trimmed cannot account for is not known to be wrong."""
        if self.problem:
            return Status.NOT_JUDGED
        if self.certain.total():
            return Status.DIFFERENCES
        return Status.NOT_JUDGED if self.differences else Status.IN_STEP


def is_listed(word: Word) -> bool:
    """Whether entities of which this is said are named."""
    return word in DIFFERENCES or word in _LISTED_STATES


def as_json(report: Report) -> dict[str, Any]:
    """A report for programs."""
    legs: dict[str, dict[str, dict[str, int]]] = {}
    for (leg, entity_type, word), number in sorted(report.words.items()):
        legs.setdefault(leg, {}).setdefault(entity_type, {})[word.value] = number
    return {
        "status": report.status.words,
        "exit_status": int(report.status),
        "problem": report.problem,
        "as_of": report.as_of,
        "seconds": round(report.seconds, 3),
        "events": report.events,
        "published": dict(report.published),
        "overtaken": dict(report.overtaken),
        "unreadable": report.unreadable,
        "entities": legs,
        "behind_since": {f"{leg} {kind}": since for (leg, kind), since in sorted(report.behind_since.items())},
        "differences": report.differences,
        "findings": report.findings,
        "repaired": report.repaired,
        "notes": report.notes,
    }
