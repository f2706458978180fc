"""How an audit and an entity's story are printed for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from banking.streaming.printing import printable
from verify.entities import LEGS, TYPES
from verify.judging import DIFFERENCES, Word
from verify.report import TOPICS, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from verify.report import Report
    from verify.tracing import EntityStory, Story

_ALWAYS = (Word.IN_STEP, Word.BEHIND, Word.DEAD_LETTER)
_STATUS = {
    Status.IN_STEP: "in step",
    Status.DIFFERENCES: "differences",
    Status.NOT_JUDGED: "could not be judged",
}


def print_report(report: Report, console: Console) -> None:
    """Print a report."""
    if report.problem:
        console.print(f"{_STATUS[report.status]}: {report.problem}", markup=False)
        return
    console.print(_counts_table(report))
    if report.findings:
        console.print(_findings_table(report))
    for line in _lines(report):
        console.print(line, markup=False, highlight=False)


def print_story(story: Story, console: Console) -> None:
    """Print an entity's story."""
    if story.problem:
        console.print(f"{_STATUS[story.status]}: {story.problem}", markup=False)
        return
    for entity in story.entities:
        for table in (_events_table(entity), _stores_table(entity), _letters_table(entity)):
            if table.rows:
                console.print(table)
    console.print(f"{_STATUS[story.status]} as of {time_of(story.as_of)}", markup=False, highlight=False)


def _events_table(entity: EntityStory) -> Table:
    names = ("version", "event", "published", "topic and message", "content", "acknowledged by", "event id", "source")
    table = Table(*names, title=escape(f"{entity.entity_type} {entity.entity_id}"), title_justify="left")
    for event in entity.events:
        cells = (
            str(event.version),
            event.event_type,
            time_of(event.published),
            f"{event.topic} {event.message_id}",
            event.content_hash,
            ", ".join(event.acknowledged),
            event.event_id,
            event.source,
        )
        table.add_row(*(escape(printable(cell)) for cell in cells))
    return table


def _stores_table(entity: EntityStory) -> Table:
    table = Table("store", "what", "more closely", "holds")
    for store in entity.stores:
        held = "; ".join(
            f"{one.place}: {one.version}{' deleted' if one.deleted else ''} {one.content_hash}" for one in store.held
        )
        table.add_row(store.leg.value, store.word.value, escape(store.detail), escape(printable(held)))
    if entity.contradiction:
        table.add_row(TOPICS, Word.CONTRADICTED.value, escape(entity.contradiction), "")
    return table


def _letters_table(entity: EntityStory) -> Table:
    table = Table("leg", "version", "last refused", "attempt", "state", "where", "reason", "error", "letter")
    for letter in entity.letters:
        cells = (
            letter.leg,
            "" if letter.version is None else str(letter.version),
            time_of(letter.last_failure),
            str(letter.attempt),
            letter.state,
            letter.where,
            letter.reason,
            letter.error,
            letter.letter_id,
        )
        table.add_row(*(escape(printable(cell)) for cell in cells))
    return table


def _counts_table(report: Report) -> Table:
    used = {word for (_, _, word), number in report.words.items() if number}
    words = [word for word in Word if word in used or word in _ALWAYS]
    table = Table("type", "published", "store", title=f"As of {time_of(report.as_of)}", title_justify="left")
    for word in words:
        table.add_column(word.value, justify="right")
    for kind in TYPES:
        for leg in (*(leg.value for leg in LEGS), TOPICS):
            counts = [report.words[leg, kind, word] for word in words]
            if any(counts):
                table.add_row(
                    kind, f"{report.published[kind]:,}", leg, *(f"{count:,}" if count else "-" for count in counts)
                )
    return table


def _findings_table(report: Report) -> Table:
    with_repairs = report.repaired is not None
    table = Table("type", "id", "store", "what", "more closely", *(["repair"] if with_repairs else []))
    for finding in report.findings:
        cells = (finding.entity_type, finding.entity_id, finding.leg, finding.word.value, finding.detail)
        table.add_row(*(escape(printable(cell)) for cell in (*cells, *([finding.repair] if with_repairs else []))))
    return table


def _lines(report: Report) -> Iterator[str]:
    unnamed = _unnamed(report)
    if unnamed:
        yield f"{unnamed:,} more are not named: raise --limit"
    for (leg, kind), since in sorted(report.behind_since.items()):
        age = (report.as_of - since).total_seconds()
        yield f"{leg} is behind with {kind}: its oldest event waits since {time_of(since)} ({max(0.0, age):,.0f} s)"
    for kind, number in report.overtaken.items():
        yield f"{number:,} of {kind}: an older version was published after the newest, which counts"
    for topic, number in report.unreadable.items():
        yield f"{topic}: {number:,} messages are no event"
    yield from report.notes
    if report.repaired is not None:
        yield f"mended: {report.repaired:,}. Audit again to see that it held"
    yield (
        f"{_STATUS[report.status]}: {sum(report.published.values()):,} entities of {report.events:,} events, "
        f"{report.differences:,} differences, {report.seconds:.1f} s"
    )


def _unnamed(report: Report) -> int:
    listed = sum(
        number for (_, _, word), number in report.words.items() if word in DIFFERENCES or word is Word.DEAD_LETTER
    )
    return listed - len(report.findings)


def time_of(moment: datetime) -> str:
    """In UTC, to the millisecond."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
