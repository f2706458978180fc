"""A generated data set, published: `StreamingOrchestrator` makes the entities, sends their events and writes both down.

The events are as deterministic as the data: version and time are the entity's own creation time, and the event id is
read from both. So a data set that is published again, or after it was cut off, is stale in both stores and changes
nothing. Their times therefore lie in the past: what measures delay must go by the broker's publish time.
"""

from __future__ import annotations

import hashlib
import logging
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from banking.streaming.broker import BrokerError
from banking.streaming.entity_converter import convert_entity_to_event
from banking.streaming.events import encode_event
from banking.streaming.producer import (
    EventsNotPublishedError,
    FlushTimeoutError,
    PublishFailure,
    get_producer,
)
from banking.streaming.tracing import publishing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType, TracebackType
    from typing import IO, Self, TextIO

    from banking.data_generators import BankingUniverse
    from banking.streaming.events import EntityEvent
    from banking.streaming.producer import EntityProducer, MockEntityProducer

EVENTS_FILE = "events.ndjson"
GROUND_TRUTH_FILE = "ground_truth.ndjson"
STATISTICS_FILE = "statistics.json"

_PROGRESS_SECONDS = 0.2
_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class StreamingConfig:
    """What to generate and where to publish it.

    Attributes:
        seed: The same seed and counts give the same entities and events.
        person_count: How many persons; the other counts alike.
        company_count: How many companies.
        account_count: How many accounts; they need persons or companies.
        transaction_count: How many transactions; they need two accounts.
        communication_count: How many communications; they need two persons.
        pulsar_url: The broker's address.
        output_dir: Where the events, the ground truth and the statistics are written; None writes nothing.
        use_mock_producer: Keep the events in memory in place of publishing them; for tests.
        streaming_enabled: Whether to publish; without, the events are only written to `output_dir`.
        source: The events' source.
        flush_timeout_seconds: How long to wait for the last receipts.
    """

    seed: int = 42
    person_count: int = 100
    company_count: int = 20
    account_count: int = 200
    transaction_count: int = 500
    communication_count: int = 100
    pulsar_url: str = "pulsar://localhost:6650"
    output_dir: Path | None = None
    use_mock_producer: bool = False
    streaming_enabled: bool = True
    source: str = "DataGenerator"
    flush_timeout_seconds: float = 60.0


class StreamingStats(msgspec.Struct, kw_only=True):
    """What became of a data set.

    Attributes:
        events_generated: Events made.
        events_published: Events that the broker has stored.
        events_failed: Events that it has not confirmed.
        events_unsettled: Events handed over whose receipt is not known.
        events_by_type: Events handed to the producer, or only written where nothing is published, by entity type.
        failures: The first of the failed events, by id.
        patterns: Planted patterns in the ground truth.
        elapsed_seconds: From the first event to the last receipt.
        interrupted: Whether it was stopped before the end.
    """

    events_generated: int = 0
    events_published: int = 0
    events_failed: int = 0
    events_unsettled: int = 0
    events_by_type: dict[str, int] = msgspec.field(default_factory=dict)
    failures: list[PublishFailure] = msgspec.field(default_factory=list)
    patterns: int = 0
    elapsed_seconds: float = 0.0
    interrupted: bool = False

    @property
    def events_per_second(self) -> float:
        """Events made per second of the whole run."""
        return self.events_generated / self.elapsed_seconds if self.elapsed_seconds else 0.0


class StreamingOrchestrator:
    """Generates a data set and publishes it; use it as a context manager, so that its connection is closed.

    Args:
        config: What to generate and where to publish it.

    Attributes:
        stats: What has become of the data set so far, also after an error or an interruption.
        producer: The producer; None before the first event and where nothing is published.

    Raises:
        CountsError: The counts allow no coherent data; it names the count.
    """

    def __init__(self, config: StreamingConfig) -> None:
        self.config = config
        self.stats = StreamingStats()
        self.producer: EntityProducer | MockEntityProducer | None = None
        self._universe = _make_universe(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def generate_all(self) -> StreamingStats:
        """Generate, publish and write down the whole data set, with constant memory.

        Events that the broker does not confirm are counted and named in the result. The first Ctrl-C stops after the
        event at hand, waits for the receipts, writes the statistics and then raises; the second one stops at once.

        Raises:
            BrokerUnavailableError: The broker is away. The statistics say how far it came.
            FlushTimeoutError: Receipts are missing; the statistics say how many.
            KeyboardInterrupt: It was stopped by Ctrl-C.
        """
        self.stats = StreamingStats(patterns=self._universe.transactions.patterns.count)
        started = time.perf_counter()
        try:
            if self.config.streaming_enabled and self.producer is None:
                self.producer = get_producer(self.config.pulsar_url, use_mock=self.config.use_mock_producer)
            with _output(self.config.output_dir, EVENTS_FILE) as output, _interruptible() as interruption:
                with publishing(self._tally):
                    try:
                        self._publish(output, interruption, Progress(self._universe.counts.total))
                    except BrokerError:
                        with suppress(FlushTimeoutError):
                            self._settle()
                        raise
                    self._settle()
                self.stats.interrupted = interruption.is_set()
        finally:
            self.stats.elapsed_seconds = round(time.perf_counter() - started, 3)
            self._write_down()
        if self.stats.interrupted:
            message = f"interrupted: {self.stats.events_published:,} events published"
            _log.warning(message)
            raise KeyboardInterrupt(message)
        return self.stats

    def events(self) -> Iterator[EntityEvent]:
        """The events of the whole data set, one when it is asked for; nothing is published."""
        for entity in self._universe.entities():
            created_at = entity.created_at
            event = convert_entity_to_event(entity, self.config.source, timestamp=created_at, event_id="-")
            name = f"{event.source}/{event.entity_type}/{event.entity_id}/{event.version}"
            event_id = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
            yield msgspec.structs.replace(event, event_id=event_id)

    def close(self) -> None:
        """Release the connection. A second call does nothing."""
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.close()

    def _publish(self, output: IO[bytes] | None, interruption: threading.Event, progress: Progress) -> None:
        stats, by_type = self.stats, self.stats.events_by_type
        for event in self.events():
            stats.events_generated += 1
            if self.producer is not None:
                self.producer.send(event)
                stats.events_unsettled += 1
            if output is not None:
                output.write(encode_event(event) + b"\n")
            by_type[event.entity_type.value] = by_type.get(event.entity_type.value, 0) + 1
            progress.show(stats.events_generated)
            if interruption.is_set():
                break
        progress.end(stats.events_generated)

    def _settle(self) -> None:
        """Wait for the receipts of what was handed over, and count them."""
        if self.producer is None:
            return
        stats = self.stats
        unsettled = 0
        try:
            self.producer.flush(timeout_seconds=self.config.flush_timeout_seconds)
        except EventsNotPublishedError as error:
            stats.events_failed = error.report.failed
            stats.failures = error.report.failures
        except FlushTimeoutError as error:
            unsettled = error.unsettled
            raise
        finally:
            stats.events_published = stats.events_unsettled - stats.events_failed - unsettled
            stats.events_unsettled = unsettled

    def _tally(self) -> dict[str, int]:
        """The counts by name, for a trace."""
        return {
            "accepted": self.stats.events_published,
            "unconfirmed": self.stats.events_failed + self.stats.events_unsettled,
        }

    def _write_down(self) -> None:
        """The statistics, and the ground truth as far as it concerns the whole data set."""
        folder = self.config.output_dir
        if folder is None:
            return
        _write_lines(folder, GROUND_TRUTH_FILE, map(msgspec.json.encode, self._universe.patterns()))
        config = self.config
        statistics = {
            "seed": config.seed,
            "source": config.source,
            "counts": self._universe.counts,
            **msgspec.to_builtins(self.stats),
        }
        _write_lines(folder, STATISTICS_FILE, [msgspec.json.format(msgspec.json.encode(statistics))])


class Progress:
    """A progress bar on a terminal; where the stream is none, it shows nothing.

    Args:
        total: How many there will be.
        stream: Where it is shown; None is standard error.
    """

    _WIDTH = 30

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._total = max(1, total)
        self._stream = sys.stderr if stream is None else stream
        self._shown = self._stream.isatty()
        self._started = self._last = time.monotonic()

    def show(self, done: int) -> None:
        """Draw it, a few times a second."""
        if self._shown and time.monotonic() - self._last >= _PROGRESS_SECONDS:
            self._draw(done)

    def end(self, done: int) -> None:
        """Draw it for the last time and end its line."""
        if self._shown:
            self._draw(done)
            self._stream.write("\n")
            self._stream.flush()

    def _draw(self, done: int) -> None:
        self._last = time.monotonic()
        rate = done / max(self._last - self._started, 1e-9)
        bar = "#" * (self._WIDTH * done // self._total)
        self._stream.write(f"\r[{bar:<{self._WIDTH}}] {done:,} of {self._total:,} events, {rate:,.0f}/s ")
        self._stream.flush()


def _make_universe(config: StreamingConfig) -> BankingUniverse:
    # Imported here, so that who only publishes needs no generators.
    from banking.data_generators import BankingUniverse, Counts  # noqa: PLC0415

    counts = Counts(
        persons=config.person_count,
        companies=config.company_count,
        accounts=config.account_count,
        transactions=config.transaction_count,
        communications=config.communication_count,
    )
    return BankingUniverse(config.seed, counts)


@contextmanager
def _output(folder: Path | None, name: str) -> Iterator[IO[bytes] | None]:
    if folder is None:
        yield None
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("wb") as file:
        yield file


def _write_lines(folder: Path, name: str, lines: Iterable[bytes]) -> None:
    """Write a file as a whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{name}.part"
    with part.open("wb") as file:
        file.writelines(line + b"\n" for line in lines)
    part.replace(folder / name)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second one acts as before. Only the main thread hears of signals."""
    interruption = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = signal.getsignal(signal.SIGINT)
    if before is None:  # installed by other than Python code
        before = signal.default_int_handler

    def stop(_signal: int, _frame: FrameType | None) -> None:
        interruption.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, before)
