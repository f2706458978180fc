"""`POST /v1/events`: one event, a JSON array of events, or NDJSON of any length, to the broker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage

from banking.streaming.broker import BrokerUnavailableError
from banking.streaming.events import InvalidEventError
from banking.streaming.metrics import METRICS
from producer.drafts import MAX_CLOCK_SKEW_SECONDS, parse_event
from producer.intake import Intake, Rejection
from producer.lines import MAX_LINE_BYTES, LineSplitter
from producer.problems import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from banking.streaming.health import Health
    from producer.api_keys import ApiKeys
    from producer.intake import EventTarget

log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS = 5
"""When a caller should come back while the broker is away."""

_LOOK_SECONDS = 1.0
_JSON = frozenset({"application/json"})
_NDJSON = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"})
_WHITE_SPACE = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class ApiLimits:
    """What one request, and all of them together, may take; `ProducerSettings` says the same of each.

    Attributes:
        body_bytes: Of a JSON body.
        stream_bytes: Of an NDJSON body; 0 without limit.
        concurrent_requests: That publish at the same time.
        rejections: Of one request; then it is ended.
        body_idle_seconds: Without a byte in the middle of a body.
        clock_skew_seconds: That a time-like version may lie ahead.
    """

    body_bytes: int = 16 * 1024 * 1024
    stream_bytes: int = 0
    concurrent_requests: int = 16
    rejections: int = 10_000
    body_idle_seconds: float = 30.0
    clock_skew_seconds: float = MAX_CLOCK_SKEW_SECONDS


class _Form(StrEnum):
    JSON = "json"
    NDJSON = "ndjson"


class EventsApi:
    """Takes events over HTTP.

    Args:
        target: Where the events go.
        health: While it names a problem, requests are answered 503.
        stop: Once set, requests are ended at the next event.
        keys: The keys that callers need; None: they need none.
        limits: What they may take.
        source: The `source` of events that name none.

    Attributes:
        open_requests: Requests that are being published.
    """

    def __init__(
        self,
        target: EventTarget,
        health: Health,
        stop: asyncio.Event,
        *,
        keys: ApiKeys | None,
        limits: ApiLimits,
        source: str,
    ) -> None:
        self._target = target
        self._health = health
        self._stop = stop
        self._keys = keys
        self._limits = limits
        self._source = source
        self.open_requests = 0

    def routes(self) -> list[web.RouteDef]:
        """The API's routes."""
        return [web.post("/v1/events", self.post_events)]

    async def post_events(self, request: web.Request) -> web.StreamResponse:
        """Answer 202 with control totals once the broker has stored every event that is valid."""
        try:
            form = self._admit(request)
            self.open_requests += 1
            try:
                return await self._take(request, form)
            finally:
                self.open_requests -= 1
        except Problem as problem:
            log.info("request refused", status=problem.status.value, detail=problem.detail)
            return problem.response()

    def _admit(self, request: web.Request) -> _Form:
        """Everything that can be said before the body is read."""
        if self._keys is not None and not self._keys.accept(request.headers.get("Authorization")):
            raise Problem(
                HTTPStatus.UNAUTHORIZED,
                "an API key is needed, as Authorization: Bearer <key>",
                headers={"WWW-Authenticate": "Bearer"},
            )
        form = _form(request)
        limit = self._byte_limit(form)
        if limit and (request.content_length or 0) > limit:
            raise _too_large(limit)
        if problems := self._health.problems:
            raise _unavailable("; ".join(f"{name}: {problem}" for name, problem in problems.items()))
        if self._stop.is_set():
            raise _unavailable("the service is stopping")
        if self.open_requests >= self._limits.concurrent_requests:
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"{self.open_requests} requests are being published, as many as may be",
                headers={"Retry-After": "1"},
            )
        return form

    async def _take(self, request: web.Request, form: _Form) -> web.Response:
        rejections: list[Rejection] = []

        def on_failure(token: object, field: str | None, problem: str) -> None:
            place: dict[str, Any] = {"index" if form is _Form.JSON else "line": token}
            rejections.append(Rejection(field=field, problem=problem, **place))

        intake = Intake(self._target, on_failure)
        try:
            if form is _Form.JSON:
                await self._take_json(request, intake)
            else:
                await self._take_lines(request, intake)
        except Problem as problem:
            await intake.settle()
            problem.extensions = _answer(intake, rejections) | problem.extensions
            raise
        except BrokerUnavailableError as error:
            await intake.settle()
            raise _unavailable(str(error), _answer(intake, rejections)) from error
        await intake.settle()
        answer = _answer(intake, rejections)
        if answer["unconfirmed"]:
            raise _unavailable(f"the broker did not confirm {answer['unconfirmed']} events", answer)
        if answer["rejected"] and not answer["accepted"]:
            raise Problem(HTTPStatus.BAD_REQUEST, "no event was accepted", extensions=answer)
        return web.Response(
            status=HTTPStatus.ACCEPTED, body=msgspec.json.encode(answer), content_type="application/json"
        )

    async def _take_json(self, request: web.Request, intake: Intake) -> None:
        body = bytearray()
        async for chunk in self._chunks(request, _Form.JSON):
            body += chunk
        if body.lstrip(_WHITE_SPACE)[:1] != b"[":
            await self._take_event(intake, 0, body)
            return
        try:
            events = msgspec.json.decode(body, type=list[msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Problem(HTTPStatus.BAD_REQUEST, f"the body is no JSON array: {error}") from None
        for index, event in enumerate(events):
            await self._take_event(intake, index, memoryview(event))

    async def _take_lines(self, request: web.Request, intake: Intake) -> None:
        splitter = LineSplitter()
        try:
            async for chunk in self._chunks(request, _Form.NDJSON):
                for number, line in splitter.feed(chunk):
                    await self._take_line(intake, number, line)
        except Problem as problem:
            problem.extensions.setdefault("next", splitter.next_number)
            raise
        for number, line in splitter.finish():
            await self._take_line(intake, number, line)

    async def _take_line(self, intake: Intake, number: int, line: bytes | None) -> None:
        if line is None:
            error = InvalidEventError("event", f"the line has more than {MAX_LINE_BYTES:,} bytes")
            self._reject(intake, error, number)
        else:
            await self._take_event(intake, number, line)

    async def _take_event(self, intake: Intake, place: int, data: bytes | bytearray | memoryview) -> None:
        if self._stop.is_set():
            raise _unavailable("the service is stopping", {"next": place})
        try:
            event = parse_event(data, self._source, max_clock_skew_seconds=self._limits.clock_skew_seconds)
        except InvalidEventError as error:
            self._reject(intake, error, place)
            return
        try:
            await intake.publish(event, place)
        except BrokerUnavailableError as error:
            raise _unavailable(str(error), {"next": place}) from error

    def _reject(self, intake: Intake, error: InvalidEventError, place: int) -> None:
        METRICS.events_publish_failed.labels("unknown", type(error).__name__).inc()
        intake.reject(error, place)
        if intake.counts.rejected >= self._limits.rejections:
            raise Problem(
                HTTPStatus.BAD_REQUEST,
                f"ended after {self._limits.rejections} rejected events; what follows was not read",
                extensions={"next": place + 1},
            )

    async def _chunks(self, request: web.Request, form: _Form) -> AsyncIterator[bytes]:
        """The body as it comes, unpacked; ends with a problem at the limits, and when the service stops."""
        limit, read, idle_seconds = self._byte_limit(form), 0, 0.0
        while True:
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    chunk = await request.content.readany()
            except TimeoutError:
                idle_seconds += _LOOK_SECONDS
                if self._stop.is_set():
                    raise _unavailable("the service is stopping") from None
                if idle_seconds >= self._limits.body_idle_seconds:
                    raise Problem(
                        HTTPStatus.REQUEST_TIMEOUT, f"nothing came for {self._limits.body_idle_seconds:g} s"
                    ) from None
                continue
            except (BadHttpMessage, web.RequestPayloadError, ConnectionError) as error:
                raise Problem(HTTPStatus.BAD_REQUEST, f"the body cannot be read: {error}") from None
            if not chunk and request.content.at_eof():
                return
            idle_seconds = 0.0
            read += len(chunk)
            if limit and read > limit:
                raise _too_large(limit)
            yield chunk

    def _byte_limit(self, form: _Form) -> int:
        return self._limits.body_bytes if form is _Form.JSON else self._limits.stream_bytes


def _form(request: web.Request) -> _Form:
    """How the body is written, from its content type."""
    content_type = request.content_type if "Content-Type" in request.headers else ""
    if (request.charset or "utf-8").lower().replace("_", "-") not in {"utf-8", "utf8", "us-ascii"}:
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"expected UTF-8, got {request.charset}")
    if content_type in _JSON:
        return _Form.JSON
    if content_type in _NDJSON:
        return _Form.NDJSON
    raise Problem(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"expected application/json or application/x-ndjson, got {content_type or 'no content type'}",
        headers={"Accept-Post": "application/json, application/x-ndjson"},
    )


def _answer(intake: Intake, rejections: list[Rejection]) -> dict[str, Any]:
    return {**msgspec.to_builtins(intake.totals), "rejections": rejections}


def _too_large(limit: int) -> Problem:
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {limit:,} bytes")


def _unavailable(detail: str, extensions: dict[str, Any] | None = None) -> Problem:
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        detail,
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        extensions=extensions,
    )
