"""The graph leg's sink: batches of events into JanusGraph, through the batch writer of its init script."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import stamina

from banking.streaming.payloads import InvalidPayloadError
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
from graph_consumer.failures import is_contention, is_of_storage
from graph_consumer.gremlin import ConnectionFailedError, GremlinError, RequestTimeoutError, ResponseError
from graph_consumer.model import build_model
from graph_consumer.purge import purge_tombstones
from graph_consumer.rows import encode_row, to_row
from graph_consumer.servers import connect_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from banking.streaming.events import EntityEvent
    from graph_consumer.gremlin import GremlinClient
    from graph_consumer.settings import GraphSettings

_CONTENTION_ATTEMPTS = 6

_CHUNK_BYTES = 4 * 1024 * 1024
"""Rows of at most so much go in one transaction: larger ones are no faster and hold their locks for longer."""

_ENVELOPE_BYTES = 4096
"""What a request has around its rows, generously."""


class GraphSink:
    """Writes events to JanusGraph.

    Args:
        settings: Where the servers are.
        now: The time, in UTC.
    """

    leg = Leg.GRAPH

    def __init__(self, settings: GraphSettings, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._settings = settings
        self._now = now
        self._fingerprint: str = build_model()["fingerprint"]
        self._servers = connect_all(settings)

    async def open(self) -> None:
        """Connect. The server made the schema when it started; what is left is to see that it is ours.

        Raises:
            SinkUnavailableError: The server is not there yet, or was started with another model.
        """
        await self.check()

    async def check(self) -> None:
        """Run a query through the batch writer: an open port alone says nothing of the script engine behind it.

        Where there are several servers, one that answers is enough, and each is used from now on if it answered.

        Raises:
            SinkUnavailableError: No server is there, ready and started with our model; of several, says why the first
                is not.
        """
        problems = await asyncio.gather(*(self._problem(server) for server in self._servers))
        for server, problem in zip(self._servers, problems, strict=True):
            self._servers.report(server, problem)
        if None not in problems:
            raise SinkUnavailableError(f"JanusGraph is not ready: {problems[0]}")

    async def write(self, events: Sequence[EntityEvent]) -> Sequence[Outcome]:
        """Write events, each of another entity, in as few transactions as their size allows; see `Sink.write`."""
        now = self._now()
        outcomes: dict[int, Outcome] = {}
        rows: dict[GremlinClient, dict[int, bytes]] = {}
        for place, event in enumerate(events):
            row = self._encode(event, now)
            if isinstance(row, bytes):
                rows.setdefault(self._servers.writer_of(event.entity_id), {})[place] = row
            else:
                outcomes[place] = row
        written = await asyncio.gather(
            *(self._write_to(server, list(placed.values())) for server, placed in rows.items()), return_exceptions=True
        )
        for placed, result in zip(rows.values(), written, strict=True):
            if isinstance(result, BaseException):
                raise result
            outcomes.update(zip(placed, result, strict=True))
        return [outcomes[place] for place in range(len(events))]

    async def purge_tombstones(self, before: datetime) -> int:
        """Remove tombstones that are due; see `banking.streaming.leg.TombstonePurger`."""
        return await purge_tombstones(self._servers, before)

    async def close(self) -> None:
        """Close the connections."""
        await self._servers.close()

    async def _problem(self, server: GremlinClient) -> str | None:
        """Why a server cannot be written to; None when it can."""
        timeout = self._settings.janusgraph_connect_timeout_seconds
        try:
            [fingerprint] = await server.submit("writer.check()", timeout_seconds=timeout)
        except GremlinError as error:
            return str(error)
        return self._problem_of_model(fingerprint)

    def _encode(self, event: EntityEvent, now: datetime) -> bytes | Outcome:
        """The event's row, or the rejection of one that can never be stored."""
        try:
            row = encode_row(to_row(event, now))
        except InvalidPayloadError as invalid:
            return rejected(invalid.reason, str(invalid))
        limit = self._settings.janusgraph_max_request_bytes - _ENVELOPE_BYTES
        if len(row) > limit:
            problem = f"its row has {len(row):,} bytes, JanusGraph takes {limit:,} (JANUSGRAPH_MAX_REQUEST_BYTES)"
            return rejected(RejectionReason.REFUSED_BY_STORE, problem)
        return row

    async def _write_to(self, server: GremlinClient, rows: Sequence[bytes]) -> list[Outcome]:
        """Write one server's rows, one transaction after the other."""
        outcomes: list[Outcome] = []
        for chunk in _chunks(rows):
            outcomes.extend(await self._write_rows(server, chunk))
        return outcomes

    async def _write_rows(self, server: GremlinClient, rows: Sequence[bytes]) -> list[Outcome]:
        """Write one transaction's rows; what two transactions did to each other is tried again, with jitter."""
        batch = b'{"model":"%b","rows":[%b]}' % (self._fingerprint.encode(), b",".join(rows))
        try:
            async for attempt in stamina.retry_context(
                on=_ContentionError, attempts=_CONTENTION_ATTEMPTS, timeout=None, wait_initial=0.05, wait_max=2.0
            ):
                with attempt:
                    answer = await self._submit(server, batch.decode())
        except _ContentionError as error:
            return [retry(str(error))] * len(rows)
        result = msgspec.json.decode(answer, type=_Answer)
        if problem := self._problem_of_model(result.model):
            raise SinkUnavailableError(problem)
        if result.outcomes is None or len(result.outcomes) != len(rows):
            raise SinkUnavailableError("JanusGraph's batch writer did not answer for every row: is init.groovy ours?")
        return [_outcome(outcome) for outcome in result.outcomes]

    async def _submit(self, server: GremlinClient, batch: str) -> str:
        try:
            answer: str = (await server.submit("writer.write(batch)", {"batch": batch}))[0]
        except (ConnectionFailedError, RequestTimeoutError) as error:
            self._servers.report(server, str(error))
            raise SinkUnavailableError(f"JanusGraph is away: {error}") from error
        except ResponseError as error:
            raise await self._classify(server, error) from error
        except GremlinError as error:
            raise SinkUnavailableError(f"JanusGraph is not ready: {error}") from error
        return answer

    async def _classify(self, server: GremlinClient, error: ResponseError) -> Exception:
        """What an error answer to a batch means. Only a server that is otherwise well makes it the batch's fault."""
        if is_contention(error):
            return _ContentionError(f"JanusGraph: {error}")
        if is_of_storage(error):
            return SinkUnavailableError(f"JanusGraph cannot write: {error}")
        if problem := await self._problem(server):
            return SinkUnavailableError(f"JanusGraph is not ready: {problem}")
        # Its message may hold values of the rows, and this one ends in logs and letters.
        return BatchFailedError(f"JanusGraph answered {error.code} {', '.join(error.exceptions) or 'without a reason'}")

    def _problem_of_model(self, fingerprint: str) -> str | None:
        if fingerprint == self._fingerprint:
            return None
        return (
            f"JanusGraph was started with the model {fingerprint}, this service has {self._fingerprint}: "
            "start it with this release's config/janusgraph/model.json"
        )


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
