"""Publishing files: `publish_file` for programs, `publish_records` for one who has a producer already."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from banking.streaming.broker import BrokerOptions, BrokerUnavailableError
from banking.streaming.events import InvalidEventError
from banking.streaming.producer import AsyncEntityProducer
from banking.streaming.tracing import publishing
from producer.intake import ControlTotals, Intake, Rejection
from producer.mapping import MappingError, RowMapping, find_mapping
from producer.read_ahead import ReadAhead
from producer.records import DAMAGE, CsvRows, EventLines, InputError, JsonRows, Record, RejectsFile
from producer.unpacking import unpacked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from producer.intake import EventTarget
    from producer.records import RecordFormat

MAX_REJECTIONS_KEPT = 20
"""A report names that many rejected records; all of them are counted, and the rejects file has all of them."""

SEND_TIMEOUT_SECONDS = 120.0
"""How long the broker may take to confirm an event, reconnections included."""

_SUFFIXES = (".gz", ".zst", ".zstd", ".csv", ".ndjson", ".jsonl", ".json")
_BREATH_RECORDS = 200
_SHORTEST_SLEEP_SECONDS = 0.005


class PublishReport(msgspec.Struct):
    """What became of one file.

    Attributes:
        name: The file.
        totals: What was read, accepted and rejected.
        seconds: How long it took.
        rejections: The first `MAX_REJECTIONS_KEPT` records that were rejected or not confirmed.
        rejects_file: Where all of them are, if that was asked for and there were any.
        ended: Why reading ended before the end of the file; None where it did not.
    """

    name: str
    totals: ControlTotals
    seconds: float
    rejections: list[Rejection]
    rejects_file: str | None = None
    ended: str | None = None

    @property
    def complete(self) -> bool:
        """Whether every record of the file is stored."""
        return self.ended is None and self.totals.accepted == self.totals.read


def publish_file(
    path: Path | str,
    *,
    pulsar_url: str = "pulsar://localhost:6650",
    broker: BrokerOptions | None = None,
    mapping: Path | str | None = None,
    entity_type: str | None = None,
    id_field: str | None = None,
    source: str | None = None,
    rejects_folder: Path | None = None,
    max_events_per_second: float | None = None,
    on_progress: Callable[[ControlTotals], None] | None = None,
) -> PublishReport:
    """Publish a file and wait until the broker has stored its events. For code without an event loop.

    Args:
        path: NDJSON or CSV, by its name (`.csv`, `.csv.gz`, …); plain, gzip or zstd, by its content.
        pulsar_url: The broker's address.
        broker: All that can be said of the broker, in place of `pulsar_url`.
        mapping: A mapping file, or the name of one that comes with this package (`amlsim-accounts`,
            `amlsim-payments`), for files that hold rows and not events.
        entity_type: What the rows are, where there is no mapping.
        id_field: The column of their id, where there is no mapping.
        source: The events' source where neither they nor the mapping name one; the file's name by default.
        rejects_folder: Where records that were rejected go, in the file's own format, and the reasons beside them.
        max_events_per_second: The rate that is not exceeded; None for as fast as can be.
        on_progress: Called now and then with the totals so far (without the hash).

    Raises:
        MappingError: The mapping, or the choice of options, cannot be used.
        FileNotFoundError: There is no such file.
    """

    async def run() -> PublishReport:
        options = broker or BrokerOptions(pulsar_url, send_timeout_seconds=SEND_TIMEOUT_SECONDS)
        async with AsyncEntityProducer(broker=options) as producer:
            with SourceFile(path, record_format) as file:
                return await publish_records(
                    file,
                    producer,
                    rejects_folder=rejects_folder,
                    max_events_per_second=max_events_per_second,
                    on_progress=on_progress,
                )

    record_format = choose_format(path, mapping=mapping, entity_type=entity_type, id_field=id_field, source=source)
    return asyncio.run(run())


def choose_format(
    path: Path | str | None,
    *,
    mapping: Path | str | None = None,
    entity_type: str | None = None,
    id_field: str | None = None,
    source: str | None = None,
    csv: bool | None = None,
) -> RecordFormat:
    """How a file is to be read.

    Args:
        path: The file; None is standard input.
        mapping: As in `publish_file`.
        entity_type: As in `publish_file`.
        id_field: As in `publish_file`.
        source: As in `publish_file`.
        csv: Whether it is CSV; None: by its name.

    Raises:
        MappingError: The mapping, or the choice of options, cannot be used.
    """
    name = "stdin" if path is None else Path(path).name
    if csv is None:
        csv = ".csv" in Path(name).suffixes
    source = source or name[:256]
    if mapping is not None:
        if entity_type is not None or id_field is not None:
            raise MappingError("give a mapping or entity type and id field, not both")
        rows = RowMapping.read(find_mapping(str(mapping)))
    elif entity_type is not None and id_field is not None:
        rows = RowMapping.of_columns(entity_type, id_field)
    elif entity_type is not None or id_field is not None:
        raise MappingError("rows need both an entity type and an id field, or else a mapping")
    elif csv:
        raise MappingError(f"{name}: CSV holds rows: give a mapping, or entity type and id field")
    else:
        return EventLines(source)
    return CsvRows(rows, source) if csv else JsonRows(rows, source)


class SourceFile:
    """A file to publish, open.

    Args:
        path: The file.
        record_format: How it is read.
        stream: What to read in place of the file at `path`, such as standard input.
    """

    def __init__(self, path: Path | str, record_format: RecordFormat, stream: BinaryIO | None = None) -> None:
        self.path = Path(path)
        self.record_format = record_format
        self._stack = contextlib.ExitStack()
        self._raw: BinaryIO = stream or self._stack.enter_context(self.path.open("rb", buffering=0))
        self.size_bytes = self.path.stat().st_size if stream is None else None

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    @property
    def position_bytes(self) -> int:
        """How much of it was read, packed as it is."""
        if self.size_bytes is None:
            return 0
        try:
            return self._raw.tell()
        except ValueError:  # what has read it to its end has closed it
            return self.size_bytes

    def rejects(self, folder: Path) -> RejectsFile:
        """The file for its rejected records: `nodes.csv.gz` → `nodes.rejects.csv`."""
        stem = self.path.name
        for suffix in _SUFFIXES:
            stem = stem.removesuffix(suffix) or stem
        return RejectsFile(folder / f"{stem}.rejects{self.record_format.suffix}", self.record_format)

    def __iter__(self) -> Iterator[Record]:
        try:
            stream = unpacked(self._raw)
        except DAMAGE as error:
            raise InputError(f"cannot be read: {error}") from error
        return self.record_format.read(stream)


async def publish_records(
    file: SourceFile,
    target: EventTarget,
    *,
    rejects_folder: Path | None = None,
    max_events_per_second: float | None = None,
    on_progress: Callable[[ControlTotals], None] | None = None,
    stop: asyncio.Event | None = None,
) -> PublishReport:
    """Publish the records of a file, in order and in constant memory, and wait for the receipts.

    Args:
        file: The file.
        target: Where the events go.
        rejects_folder: As in `publish_file`.
        max_events_per_second: As in `publish_file`.
        on_progress: As in `publish_file`.
        stop: Ends the reading once it is set.
    """
    started = time.monotonic()
    rejections: list[Rejection] = []
    rejects = file.rejects(rejects_folder) if rejects_folder is not None else None
    pace = _Pace(max_events_per_second)
    ended: str | None = None

    def on_failure(token: object, field: str | None, problem: str) -> None:
        assert isinstance(token, Record)  # noqa: S101 - for the type checker
        if len(rejections) < MAX_REJECTIONS_KEPT:
            rejections.append(Rejection(line=token.number, field=field, problem=problem))
        if rejects is not None:
            rejects.add(token, field, problem)

    intake = Intake(target, on_failure)
    record: Record | None = None
    ahead = ReadAhead(file, lambda item: item.held_bytes)
    stopping = asyncio.create_task(_end_when(stop, ahead)) if stop is not None else None
    with publishing(intake.tally):
        try:
            async for record in _one_by_one(ahead, stop):
                if record.event is None:
                    intake.reject(record.error or InvalidEventError("event", "is none"), record)
                else:
                    await pace.wait()
                    await intake.publish(record.event, record)
                if on_progress is not None and intake.counts.read % _BREATH_RECORDS == 0:
                    on_progress(intake.counts)
        except InputError as error:
            ended = str(error)
        except BrokerUnavailableError as error:
            ended = f"from number {record.number if record else 1} on nothing was published: {error}"
        finally:
            if stopping is not None:
                stopping.cancel()
        if stop is not None and stop.is_set():
            ended = f"stopped after number {record.number if record else 0}"
        await intake.settle()
    if on_progress is not None:
        on_progress(intake.counts)
    if rejects is not None:
        rejects.close()
    return PublishReport(
        str(file.path),
        intake.totals,
        time.monotonic() - started,
        rejections,
        str(rejects.written) if rejects is not None and rejects.written else None,
        ended,
    )


class _Pace:
    """Keeps a rate by waiting."""

    def __init__(self, max_events_per_second: float | None) -> None:
        self._seconds = 1 / max_events_per_second if max_events_per_second else 0.0
        self._due = time.monotonic()

    async def wait(self) -> None:
        """Wait until the next event is due. Time that was lost elsewhere is not made up for."""
        if self._seconds:
            now = time.monotonic()
            self._due = max(self._due + self._seconds, now - _SHORTEST_SLEEP_SECONDS)
            if self._due - now > _SHORTEST_SLEEP_SECONDS:
                await asyncio.sleep(self._due - now)


async def _one_by_one(ahead: ReadAhead[Record], stop: asyncio.Event | None) -> AsyncIterator[Record]:
    """The records, with a breath now and then in which receipts are taken in."""
    async for batch in ahead.batches():
        for count, record in enumerate(batch):
            if stop is not None and stop.is_set():
                return
            if count % _BREATH_RECORDS == 0:
                await asyncio.sleep(0)
            yield record


async def _end_when(stop: asyncio.Event, ahead: ReadAhead[Record]) -> None:
    await stop.wait()
    ahead.end()
