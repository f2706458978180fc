"""How letters are printed."""

from __future__ import annotations

from collections import Counter
from datetime import UTC
from typing import TYPE_CHECKING, Any

import msgspec
from rich.markup import escape
from rich.table import Table

from banking.streaming.printing import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from banking.streaming.archive import ArchivedLetter
    from dlq_worker.inventory import Letter


def letter_table(letters: Sequence[Letter]) -> Table:
    """A line a letter."""
    table = Table("last failure (UTC)", "id", "type", "leg", "key", "reason", "error", "attempt", "replays", "state")
    for letter in letters:
        record = letter.record
        cells = (
            _time(record.last_failure),
            record.letter_id,
            record.entity_type,
            record.leg or "",
            record.key or "",
            record.reason,
            f"{record.error[:99]}…" if len(record.error) > 100 else record.error,
            str(record.attempt),
            str(letter.replays),
            letter.state.value,
        )
        table.add_row(*(escape(printable(cell)) for cell in cells))
    return table


def letter_details(letter: Letter, content: ArchivedLetter) -> Table:
    """All that is known of a letter, save its payload."""
    table = Table(show_header=False)
    for name, value in (as_json(letter) | {"properties": content.properties}).items():
        if isinstance(value, dict):
            for key, item in value.items():
                table.add_row(escape(printable(f"{name}.{key}")), escape(printable(str(item))))
        elif value is not None:
            table.add_row(name, escape(printable(str(value))))
    return table


def as_json(letter: Letter) -> dict[str, Any]:
    """A letter without its payload."""
    record: dict[str, Any] = msgspec.to_builtins(letter.record)
    return record | {
        "state": letter.state.value,
        "replays": letter.replays,
        "copies": letter.copies,
        "place": letter.place,
        "line": letter.line,
    }


def payload_as_json(content: ArchivedLetter) -> dict[str, str]:
    """The original bytes, as text where they are UTF-8."""
    return {"base64": content.base64} if content.base64 is not None else {"text": content.text or ""}


def statistics(letters: Sequence[Letter]) -> dict[str, Any]:
    """Counts; each letter counts once."""
    failures = [letter.record.last_failure for letter in letters]
    return {
        "letters": len(letters),
        "further_copies": sum(letter.copies - 1 for letter in letters),
        "bytes": sum(letter.record.size_bytes for letter in letters),
        "oldest_failure": min(failures).isoformat() if failures else None,
        "newest_failure": max(failures).isoformat() if failures else None,
        "by_state": dict(Counter(letter.state.value for letter in letters).most_common()),
        "by_type": dict(Counter(letter.record.entity_type for letter in letters).most_common()),
        "by_leg": dict(Counter(letter.record.leg or "unknown" for letter in letters).most_common()),
        "by_reason": dict(Counter(letter.record.reason for letter in letters).most_common()),
    }


def statistics_table(letters: Sequence[Letter]) -> Table:
    """The statistics for people."""
    table = Table(show_header=False)
    for name, value in statistics(letters).items():
        if isinstance(value, dict):
            for key, number in value.items():
                table.add_row(name.replace("_", " "), escape(printable(key)), str(number))
        else:
            table.add_row(name.replace("_", " "), "", "" if value is None else str(value))
    return table


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
