"""The answer to a request: one JSON object at its end, or NDJSON that is written while the request is still read."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import structlog
from aiohttp import web

from producer.body import JSON, NDJSON, NDJSON_TYPES, Form
from producer.intake import ControlTotals, Rejection, Summary
from producer.problems import Problem, ProblemDetails

if TYPE_CHECKING:
    from collections.abc import Callable

    from banking.streaming.events import EntityEvent

log = structlog.get_logger(__name__)

HELD_BYTES = 64 * 1024
"""An NDJSON answer begins when that much of it has gathered, …"""

HELD_SECONDS = 1.0
"""… or its first line is that old; an answer that ends before has the status of its outcome."""

_encode = msgspec.json.Encoder().encode


class RejectedLine(Rejection, tag_field="outcome", tag="rejected"):
    """An event that breaks the contract and was not sent."""


class UnconfirmedLine(Rejection, tag_field="outcome", tag="unconfirmed"):
    """An event that the broker did not confirm: it may or may not be stored."""


class AcceptedLine(msgspec.Struct, omit_defaults=True, tag_field="outcome", tag="accepted"):
    """An event that is stored; sent where `receipts=all` asks for it.

    Attributes:
        line: Where it stood, from 1, in NDJSON.
        index: Where it stood, from 0, in JSON.
        entity_id: Its entity.
        event_id: Its id, given or made.
        version: Its version, given or made.
    """

    entity_id: str
    event_id: str
    version: int
    line: int | None = None
    index: int | None = None


class SummaryLine(ControlTotals, tag_field="outcome", tag="summary", kw_only=True):
    """The last line: every valid event is stored.

    Attributes:
        status: The status that the answer would have had if it had not begun before its outcome was known.
    """

    status: int = HTTPStatus.ACCEPTED.value


class ProblemLine(ProblemDetails, tag_field="outcome", tag="problem", kw_only=True):
    """The last line in place of a summary: the request was ended, or not every event is known to be stored."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller wants to be told, and how.

    Attributes:
        lines: As NDJSON, and not as one JSON object.
        receipts: Of each accepted event too, and not only of those that were not; as NDJSON then in any case.
    """

    lines: bool = False
    receipts: bool = False


def wish_of(request: web.Request) -> Wish:
    """What the caller wants to be told.

    Raises:
        Problem: 400.
    """
    for name, value in request.query.items():
        if name != "receipts":
            raise Problem(HTTPStatus.BAD_REQUEST, f"{name:.80}: is no parameter; there is receipts")
        if value not in {"rejected", "all"}:
            raise Problem(HTTPStatus.BAD_REQUEST, f"receipts: expected rejected or all, got {value:.40}")
    receipts = request.query.get("receipts") == "all"
    lines = receipts or _prefers_lines(request.headers.get("Accept", ""))
    return Wish(lines, receipts)


class Answer(Protocol):
    """What is told of one request."""

    def reject(self, token: object, field: str | None, problem: str) -> None:
        """Tell of an event that was rejected, or, without a field, not confirmed."""

    def accept(self, token: object, event: EntityEvent) -> None:
        """Tell of an event that is stored."""

    async def breathe(self) -> None:
        """Send what has gathered."""

    async def succeed(self, totals: ControlTotals) -> web.StreamResponse:
        """End the answer: every valid event is stored."""

    async def fail(self, problem: Problem, totals: ControlTotals | None) -> web.StreamResponse:
        """End the answer with a problem, and the totals where there are any."""


class JsonAnswer:
    """One JSON object when all is over.

    Args:
        form: How the request is written.
    """

    def __init__(self, form: Form) -> None:
        self._place = _place_of(form)
        self._rejections: list[Rejection] = []

    def reject(self, token: object, field: str | None, problem: str) -> None:
        """Keep it for the end."""
        self._rejections.append(Rejection(field=field, problem=problem, **self._place(token)))

    def accept(self, token: object, event: EntityEvent) -> None:
        """Tell nothing: it is in the totals."""

    async def breathe(self) -> None:
        """Send nothing yet."""

    async def succeed(self, totals: ControlTotals) -> web.StreamResponse:
        """202 with control totals and rejections."""
        body = _encode(_summary(totals, self._rejections))
        return web.Response(status=HTTPStatus.ACCEPTED, body=body, content_type=JSON)

    async def fail(self, problem: Problem, totals: ControlTotals | None) -> web.StreamResponse:
        """The problem, with the same."""
        problem.summary = None if totals is None else _summary(totals, self._rejections)
        return problem.response()


class LineAnswer:
    """A line for each event that did not go in, as soon as that is known, and the control totals as the last one.

    While little has gathered nothing is sent, so that a short answer has the status of its outcome. Once it has begun
    with 200, the last line says the outcome.

    Args:
        request: The request.
        form: How it is written.
        receipts: Whether accepted events are told of, too.
        idle_seconds: How long the caller may read nothing.
    """

    def __init__(self, request: web.Request, form: Form, *, receipts: bool, idle_seconds: float) -> None:
        self._request = request
        self._place = _place_of(form)
        self._receipts = receipts
        self._idle_seconds = idle_seconds
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._held_since = 0.0
        self._rejections: list[Rejection] = []
        self._response: web.StreamResponse | None = None

    def reject(self, token: object, field: str | None, problem: str) -> None:
        """Add its line."""
        kind = UnconfirmedLine if field is None else RejectedLine
        line = kind(field=field, problem=problem, **self._place(token))
        if self._response is None:
            self._rejections.append(Rejection(field=field, problem=problem, **self._place(token)))
        self._hold(line)

    def accept(self, token: object, event: EntityEvent) -> None:
        """Add its line, where that is asked for."""
        if self._receipts:
            self._hold(AcceptedLine(event.entity_id, event.event_id, event.version, **self._place(token)))

    async def breathe(self) -> None:
        """Send what has gathered, if it is much or has waited."""
        waited = asyncio.get_running_loop().time() - self._held_since
        if self._held and (self._held_bytes >= HELD_BYTES or waited >= HELD_SECONDS):
            if self._response is None:
                self._response = web.StreamResponse(headers={"Content-Type": NDJSON})
                await self._response.prepare(self._request)
                self._rejections.clear()
            await self._send(self._response)

    async def succeed(self, totals: ControlTotals) -> web.StreamResponse:
        """The control totals as the last line."""
        self._hold(SummaryLine(**msgspec.structs.asdict(totals)))
        if self._response is None:
            return web.Response(status=HTTPStatus.ACCEPTED, body=b"".join(self._held), content_type=NDJSON)
        return await self._end(self._response)

    async def fail(self, problem: Problem, totals: ControlTotals | None) -> web.StreamResponse:
        """The problem as the answer, or, where that has begun, as the last line: each rejection has had its own."""
        problem.summary = None if totals is None else _summary(totals, self._rejections)
        if self._response is None:
            return problem.response()
        self._hold(ProblemLine(**msgspec.structs.asdict(problem.details)))
        return await self._end(self._response)

    def _hold(self, line: msgspec.Struct) -> None:
        if not self._held:
            self._held_since = asyncio.get_running_loop().time()
        encoded = _encode(line) + b"\n"
        self._held.append(encoded)
        self._held_bytes += len(encoded)

    async def _send(self, response: web.StreamResponse) -> None:
        data = b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        try:
            async with asyncio.timeout(self._idle_seconds):
                await response.write(data)
        except (TimeoutError, ConnectionError) as error:
            # Whoever reads no answer gets none; what was handed over is still waited for.
            if self._request.transport is not None:
                self._request.transport.abort()
            detail = "the connection was lost" if isinstance(error, ConnectionError) else "the answer was not read"
            raise Problem(HTTPStatus.REQUEST_TIMEOUT, detail) from None

    async def _end(self, response: web.StreamResponse) -> web.StreamResponse:
        try:
            await self._send(response)
            await response.write_eof()
        except (Problem, ConnectionError) as error:
            log.info("an answer was cut off", problem=str(error))
        return response


def _place_of(form: Form) -> Callable[[object], dict[str, Any]]:
    name = "index" if form is Form.JSON else "line"
    return lambda token: {name: token}


def _summary(totals: ControlTotals, rejections: list[Rejection]) -> Summary:
    return Summary(**msgspec.structs.asdict(totals), rejections=rejections)


def _prefers_lines(accept: str) -> bool:
    """Whether an `Accept` header likes NDJSON better than JSON; of equals the first one is liked better."""
    best, lines = 0.0, False
    for entry in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in entry.split(";"))
        quality = next((_quality(part[2:]) for part in parameters if part.startswith("q=")), 1.0)
        if quality > best and media_type in {JSON, "application/*", "*/*", *NDJSON_TYPES}:
            best, lines = quality, media_type in NDJSON_TYPES
    return lines


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
