"""Files of events or rows, read record by record, and the files of those records that were rejected."""

from __future__ import annotations

import csv
import io
import zlib
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec
import zstandard

from banking.streaming.events import InvalidEventError
from producer.drafts import parse_event
from producer.lines import MAX_LINE_BYTES, LineSplitter
from producer.mapping import MappingError, Row, RowMapping

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from banking.streaming.events import EntityEvent

ROW_COLUMN = "_row"
"""The column in which a rejected row keeps the number it had in the file it comes from."""

DAMAGE = (EOFError, OSError, zlib.error, zstandard.ZstdError, UnicodeError)
"""What reading a damaged file raises."""

_CHUNK_BYTES = 64 * 1024
_row_decoder = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)

csv.field_size_limit(MAX_LINE_BYTES)


class InputError(Exception):
    """A file that cannot be read on: damaged, cut off, or without the columns it needs."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file, as an event or with what is wrong with it.

    Attributes:
        number: The line of an event, the row of a table, from 1.
        original: What stood there: the line's bytes or the row's cells.
        event: The event.
        error: What is wrong, where there is no event.
    """

    number: int
    original: bytes | list[str]
    event: EntityEvent | None = None
    error: InvalidEventError | None = None

    @property
    def held_bytes(self) -> int:
        """About how much memory it takes."""
        return 500 + 3 * (len(self.original) if isinstance(self.original, bytes) else sum(map(len, self.original)))


class RecordFormat(Protocol):
    """How the records of a file are read, and written again when they were rejected."""

    suffix: str

    def read(self, stream: io.BufferedIOBase) -> Iterator[Record]:
        """The records of a file, blank ones left out.

        Raises:
            InputError: The file cannot be read on.
        """

    def write(self, records: list[Record], stream: io.BufferedIOBase, *, first: bool) -> None:
        """Write records so that they can be corrected and read again; before the first, whatever heads the file."""


class EventLines:
    """NDJSON, an event a line, with what may be left out filled in.

    Args:
        source: The `source` of events that name none.
    """

    suffix = ".ndjson"

    def __init__(self, source: str) -> None:
        self._source = source

    def read(self, stream: io.BufferedIOBase) -> Iterator[Record]:
        """One record a line."""
        for number, line in _lines(stream):
            if line is None:
                yield _too_long(number)
                continue
            try:
                yield Record(number, line, event=parse_event(line, self._source))
            except InvalidEventError as error:
                yield Record(number, line, error=error)

    def write(self, records: list[Record], stream: io.BufferedIOBase, *, first: bool) -> None:
        """The lines as they were."""
        stream.writelines(_bytes(record) + b"\n" for record in records)


class JsonRows:
    """NDJSON, a row a line, made an event by a mapping.

    Args:
        mapping: The mapping.
        source: The events' source where the mapping names none.
    """

    suffix = ".ndjson"

    def __init__(self, mapping: RowMapping, source: str) -> None:
        self._mapping = mapping
        self._source = source

    def read(self, stream: io.BufferedIOBase) -> Iterator[Record]:
        """One record a line."""
        count = 0
        for number, line in _lines(stream):
            if line is None:
                yield _too_long(number)
                continue
            count += 1
            try:
                values = _row_decoder.decode(line)
                row = Row(_original_number(values.pop(ROW_COLUMN, None), count), values)
                yield Record(row.number, line, event=self._mapping.event(row, self._source))
            except InvalidEventError as error:
                yield Record(count, line, error=error)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidOperation) as error:
                yield Record(count, line, error=InvalidEventError("row", f"is no JSON object: {error}"))

    def write(self, records: list[Record], stream: io.BufferedIOBase, *, first: bool) -> None:
        """The lines as they were, each with its number as one more member."""
        for record in records:
            line = _bytes(record)
            head, brace, rest = line.partition(b"{")
            if brace and not head.strip() and f'"{ROW_COLUMN}"'.encode() not in line:
                comma = b"" if rest.lstrip().startswith(b"}") else b","
                line = b'{"%s":%d%s%s' % (ROW_COLUMN.encode(), record.number, comma, rest)
            stream.write(line + b"\n")


class CsvRows:
    """CSV with a header line, made events by a mapping.

    Args:
        mapping: The mapping, which also says how the file is written.
        source: The events' source where the mapping names none.
    """

    suffix = ".csv"

    def __init__(self, mapping: RowMapping, source: str) -> None:
        self._mapping = mapping
        self._source = source
        self._delimiter = mapping.csv.delimiter
        encoding = mapping.csv.encoding.lower()
        self._encoding = "utf-8-sig" if encoding in {"utf-8", "utf8"} else encoding
        self._header: list[str] = []

    def read(self, stream: io.BufferedIOBase) -> Iterator[Record]:
        """One record a row."""
        text = io.TextIOWrapper(cast("Any", stream), self._encoding, errors="surrogateescape", newline="")
        lines = _RowLines(text)
        rows = csv.reader(lines, delimiter=self._delimiter, strict=True)
        try:
            self._header = [name.strip() for name in next(rows, [])]
        except (*DAMAGE, csv.Error) as error:
            raise InputError(f"cannot be read: {error}") from error
        if not self._header:
            raise InputError("is empty: expected a line that names the columns")
        if len(set(self._header)) < len(self._header):
            raise InputError(f"names a column twice: {', '.join(self._header)}")
        try:
            self._mapping.check_columns(self._header)
        except MappingError as error:
            raise InputError(str(error)) from None
        count = 0
        while True:
            lines.begin_row()
            try:
                cells = next(rows, None)
            except csv.Error as error:
                count += 1
                yield Record(count, [], error=InvalidEventError("row", f"is no CSV: {error}"))
                continue
            except DAMAGE as error:
                raise InputError(f"cannot be read on: {error}") from error
            if cells is None:
                return
            if cells:
                count += 1
                yield self._record(cells, count)

    def write(self, records: list[Record], stream: io.BufferedIOBase, *, first: bool) -> None:
        """The rows as they were, each with its number in a column more."""
        text = io.StringIO(newline="")
        rows = csv.writer(text, delimiter=self._delimiter, lineterminator="\n")
        numbered = ROW_COLUMN in self._header
        if first:
            rows.writerow(self._header if numbered else [ROW_COLUMN, *self._header])
        for record in records:
            rows.writerow(record.original if numbered else [record.number, *record.original])
        encoding = "utf-8" if self._encoding == "utf-8-sig" else self._encoding
        stream.write(text.getvalue().encode(encoding, "surrogateescape"))

    def _record(self, cells: list[str], count: int) -> Record:
        number = count
        try:
            if len(cells) != len(self._header):
                problem = f"has {len(cells)} cells, and the header {len(self._header)} columns"
                return Record(count, cells, error=InvalidEventError("row", problem))
            values = dict(zip(self._header, cells, strict=True))
            number = _original_number(values.pop(ROW_COLUMN, None), count)
            return Record(number, cells, event=self._mapping.event(Row(number, values), self._source))
        except InvalidEventError as error:
            return Record(number, cells, error=error)


class _RowLines:
    """The lines of a CSV file, with a bound on those of one row: a file may have no line breaks, or one open quote.

    What is too long is passed over to the end of its line.
    """

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._left = MAX_LINE_BYTES

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            while line and not line.endswith(("\n", "\r")):
                line = self._text.readline(MAX_LINE_BYTES)
            raise csv.Error(f"the row has more than {MAX_LINE_BYTES:,} characters")
        if not line:
            raise StopIteration
        return line

    def begin_row(self) -> None:
        """Count anew."""
        self._left = MAX_LINE_BYTES


class RejectsFile:
    """The records of one file that were rejected, in that file's own format, and beside it why.

    Nothing is made before the first record.

    Args:
        path: Where the records go; the reasons go to `<path>.reasons.ndjson`.
        record_format: How they are written.
    """

    def __init__(self, path: Path, record_format: RecordFormat) -> None:
        self.path = path
        self.reasons_path = path.with_name(path.name + ".reasons.ndjson")
        self._format = record_format
        self._records: io.BufferedWriter | None = None
        self._reasons: io.BufferedWriter | None = None

    def add(self, record: Record, field: str | None, problem: str) -> None:
        """Write one record and the reason."""
        first = self._records is None
        if self._records is None or self._reasons is None:
            self._records = self.path.open("wb")
            self._reasons = self.reasons_path.open("wb")
        self._format.write([record], self._records, first=first)
        reason = {"number": record.number, "field": _encodable(field), "problem": _encodable(problem)}
        self._reasons.write(msgspec.json.encode(reason) + b"\n")

    @property
    def written(self) -> Path | None:
        """The file, where there is one."""
        return self.path if self._records is not None else None

    def close(self) -> None:
        """Write what is buffered."""
        for stream in (self._records, self._reasons):
            if stream is not None:
                stream.close()


def _lines(stream: io.BufferedIOBase) -> Iterator[tuple[int, bytes | None]]:
    splitter = LineSplitter()
    while True:
        try:
            chunk = stream.read1(_CHUNK_BYTES)
        except DAMAGE as error:
            raise InputError(f"cannot be read on: {error}") from error
        if not chunk:
            break
        yield from splitter.feed(chunk)
    yield from splitter.finish()


def _too_long(number: int) -> Record:
    problem = f"the line has more than {MAX_LINE_BYTES:,} bytes"
    return Record(number, b"", error=InvalidEventError("event", problem))


def _bytes(record: Record) -> bytes:
    return record.original if isinstance(record.original, bytes) else b""


def _encodable(text: str | None) -> str | None:
    """A text without what UTF-8 has no bytes for: columns may be named in another encoding."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def _original_number(value: object, count: int) -> int:
    """The number that a rejected row brings along, else its place in this file."""
    if value is None:
        return count
    text = str(value)
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InvalidEventError(ROW_COLUMN, f"expected a row number, got {text!r:.40}")
    return int(text)
