"""Lines out of chunks of bytes, in constant memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from banking.streaming.events import MAX_EVENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINE_BYTES = MAX_EVENT_BYTES + 64 * 1024
"""A longer line holds no event that may be published."""


class LineSplitter:
    """Cuts chunks at line feeds. Blank lines are counted and not given out.

    Args:
        max_line_bytes: Of a longer line nothing is kept.
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._number = 0

    @property
    def next_number(self) -> int:
        """The number of the line that has not ended yet."""
        return self._number + 1

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes | None]]:
        """The lines that end in this chunk, each with its number from 1; None in place of a line that is too long."""
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            yield from self._end(piece)
        if rest:
            self._hold(rest)

    def finish(self) -> Iterator[tuple[int, bytes | None]]:
        """The last line, where no line feed ended it."""
        if self._held_bytes:
            yield from self._end(b"")

    def _hold(self, piece: bytes) -> None:
        self._held_bytes += len(piece)
        if self._held_bytes <= self._max_line_bytes:
            self._held.append(piece)
        else:
            self._held.clear()

    def _end(self, piece: bytes) -> Iterator[tuple[int, bytes | None]]:
        self._number += 1
        if self._held_bytes:
            self._hold(piece)
            too_long = self._held_bytes > self._max_line_bytes
            line = b"".join(self._held)
            self._held.clear()
            self._held_bytes = 0
        else:
            too_long, line = len(piece) > self._max_line_bytes, piece
        if too_long:
            yield self._number, None
        elif line and not line.isspace():
            yield self._number, line
