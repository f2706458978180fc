"""The graph leg's sink: batches of events into JanusGraph, through the batch writer of its init script."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import stamina

from banking.streaming.sink import (
    APPLIED,
    STALE,
    BatchFailedError,
    Leg,
    Outcome,
    RejectionReason,
    SinkUnavailableError,
    rejected,
    retry,
)
from graph_consumer.gremlin import (
    ConnectionFailedError,
    Credentials,
    GremlinClient,
    GremlinError,
    RequestTimeoutError,
    ResponseError,
)
from graph_consumer.model import build_model
from graph_consumer.rows import InvalidRowError, encode_row, to_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from banking.streaming.events import EntityEvent
    from graph_consumer.settings import GraphSettings

_CONTENTION_ATTEMPTS = 6
_CONTENTION_SIGNS = (
    "WriterBusyException",
    "com.sleepycat.je.DeadlockException",
    "com.sleepycat.je.LockConflictException",
    "com.sleepycat.je.LockTimeoutException",
    "com.sleepycat.je.TransactionTimeoutException",
    "LockingException",
)
"""Parts of the names of Java exceptions by which two transactions got into each other's way."""

_STORAGE_SIGNS = (
    "com.sleepycat.",
    "com.datastax.",
    "org.janusgraph.diskstorage.",
    "java.io.",
    "java.lang.InterruptedException",
    "java.lang.OutOfMemoryError",
    "java.util.concurrent.TimeoutException",
)
"""Parts of the names of Java exceptions that come from the storage or the machine, never from a row."""

_TIMED_OUT = 598

_CHUNK_BYTES = 4 * 1024 * 1024
"""Rows of at most so much go in one transaction: larger ones are no faster and hold their locks for longer."""

_ENVELOPE_BYTES = 4096
"""What a request has around its rows, generously."""


class GraphSink:
    """Writes events to JanusGraph.

    Args:
        settings: Where the server is.
        now: The time, in UTC.
    """

    leg = Leg.GRAPH

    def __init__(self, settings: GraphSettings, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._settings = settings
        self._now = now
        self._fingerprint: str = build_model()["fingerprint"]
        self._client = make_client(settings)

    async def open(self) -> None:
        """Connect. The server made the schema when it started; what is left is to see that it is ours.

        Raises:
            SinkUnavailableError: The server is not there yet, or was started with another model.
        """
        await self.check()

    async def check(self) -> None:
        """Run a query through the batch writer: an open port alone says nothing of the script engine behind it.

        Raises:
            SinkUnavailableError: The server is away, not ready, or was started with another model.
        """
        timeout = self._settings.janusgraph_connect_timeout_seconds
        try:
            answer = await self._client.submit("writer.check()", timeout_seconds=timeout)
        except GremlinError as error:
            raise SinkUnavailableError(f"JanusGraph is not ready: {error}") from error
        self._check_fingerprint(answer[0])

    async def write(self, events: Sequence[EntityEvent]) -> Sequence[Outcome]:
        """Write events, each of another entity, in as few transactions as their size allows; see `Sink.write`."""
        now = self._now()
        rows = [self._encode(event, now) for event in events]
        written: list[Outcome] = []
        for chunk in _chunks([row for row in rows if isinstance(row, bytes)]):
            written.extend(await self._write_rows(chunk))
        following = iter(written)
        return [next(following) if isinstance(row, bytes) else row for row in rows]

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    def _encode(self, event: EntityEvent, now: datetime) -> bytes | Outcome:
        """The event's row, or the rejection of one that can never be stored."""
        try:
            row = encode_row(to_row(event, now))
        except InvalidRowError as invalid:
            return invalid.outcome
        limit = self._settings.janusgraph_max_request_bytes - _ENVELOPE_BYTES
        if len(row) > limit:
            problem = f"its row has {len(row):,} bytes, JanusGraph takes {limit:,} (JANUSGRAPH_MAX_REQUEST_BYTES)"
            return rejected(RejectionReason.REFUSED_BY_STORE, problem)
        return row

    async def _write_rows(self, rows: Sequence[bytes]) -> list[Outcome]:
        """Write one transaction's rows; what two transactions did to each other is tried again, with jitter."""
        batch = b'{"model":"%b","rows":[%b]}' % (self._fingerprint.encode(), b",".join(rows))
        try:
            async for attempt in stamina.retry_context(
                on=_ContentionError, attempts=_CONTENTION_ATTEMPTS, timeout=None, wait_initial=0.05, wait_max=2.0
            ):
                with attempt:
                    answer = await self._submit(batch.decode())
        except _ContentionError as error:
            return [retry(str(error))] * len(rows)
        result = msgspec.json.decode(answer, type=_Answer)
        self._check_fingerprint(result.model)
        if result.outcomes is None or len(result.outcomes) != len(rows):
            raise SinkUnavailableError("JanusGraph's batch writer did not answer for every row: is init.groovy ours?")
        return [_outcome(outcome) for outcome in result.outcomes]

    async def _submit(self, batch: str) -> str:
        try:
            answer: str = (await self._client.submit("writer.write(batch)", {"batch": batch}))[0]
        except (ConnectionFailedError, RequestTimeoutError) as error:
            raise SinkUnavailableError(f"JanusGraph is away: {error}") from error
        except ResponseError as error:
            raise await self._classify(error) from error
        except GremlinError as error:
            raise SinkUnavailableError(f"JanusGraph is not ready: {error}") from error
        return answer

    async def _classify(self, error: ResponseError) -> Exception:
        """What an error answer to a batch means. Only a server that is otherwise well makes it the batch's fault."""
        if is_contention(error):
            return _ContentionError(f"JanusGraph: {error}")
        if error.code == _TIMED_OUT or _has_sign(error, _STORAGE_SIGNS):
            return SinkUnavailableError(f"JanusGraph cannot write: {error}")
        await self.check()
        return BatchFailedError(f"JanusGraph: {error}")

    def _check_fingerprint(self, fingerprint: str) -> None:
        if fingerprint != self._fingerprint:
            raise SinkUnavailableError(
                f"JanusGraph was started with the model {fingerprint}, this service has {self._fingerprint}: "
                "start it with this release's config/janusgraph/model.json"
            )


def make_client(settings: GraphSettings) -> GremlinClient:
    """A client for the server that the settings name; it connects when it is first used."""
    scheme = "wss" if settings.janusgraph_use_ssl else "ws"
    return GremlinClient(
        f"{scheme}://{settings.janusgraph_host}:{settings.janusgraph_port}/gremlin",
        credentials=_credentials(settings),
        ssl_context=ssl.create_default_context(cafile=settings.janusgraph_ca_file)
        if settings.janusgraph_use_ssl
        else None,
        connect_timeout_seconds=settings.janusgraph_connect_timeout_seconds,
        request_timeout_seconds=settings.janusgraph_request_timeout_seconds,
    )


def is_contention(error: Exception) -> bool:
    """Whether two transactions got into each other's way, readers too: the same request again, after a moment."""
    return isinstance(error, ResponseError) and _has_sign(error, _CONTENTION_SIGNS)


class _ContentionError(Exception):
    """Another transaction was in the way."""


class _Answer(msgspec.Struct):
    """What the batch writer answers; see `config/janusgraph/init.groovy`."""

    model: str
    outcomes: list[str | tuple[str, str, str]] | None


def _outcome(answer: str | tuple[str, str, str]) -> Outcome:
    if isinstance(answer, str):
        return _OUTCOMES[answer]
    _, field, problem = answer
    return rejected(RejectionReason.INVALID_FIELD, f"{field}: {problem}")


_OUTCOMES = {"applied": APPLIED, "stale": STALE}


def _chunks(rows: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Cut rows into runs of at most `_CHUNK_BYTES`; a larger row is a run of its own."""
    start, size = 0, 0
    for index, row in enumerate(rows):
        if size + len(row) > _CHUNK_BYTES and index > start:
            yield rows[start:index]
            start, size = index, 0
        size += len(row) + 1
    if start < len(rows):
        yield rows[start:]


def _credentials(settings: GraphSettings) -> Callable[[], Credentials] | None:
    username, file = settings.janusgraph_username, settings.janusgraph_password_file
    if username is None or file is None:
        return None
    return lambda: Credentials(username, file.read_text().strip())


def _has_sign(error: ResponseError, signs: tuple[str, ...]) -> bool:
    return any(sign in name for name in error.exceptions for sign in signs)
