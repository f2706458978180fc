"""`POST /v1/events`: one event, a JSON array of events, or NDJSON of any length, to the broker."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from banking.streaming import tracing
from banking.streaming.broker import BrokerError
from banking.streaming.events import encode_event
from producer.answers import JsonAnswer, LineAnswer, wish_of
from producer.body import Body, Form, coding_of, form_of, too_large, unavailable
from producer.documents import documents
from producer.drafts import MAX_CLOCK_SKEW_SECONDS
from producer.idempotency import HEADER, REPLAYED_HEADER, Finished, key_of
from producer.intake import Intake
from producer.problems import Problem, log_refusal
from producer.taking import Taker, Terms

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from aiohttp.typedefs import Handler

    from banking.streaming.broker import PublishError
    from banking.streaming.events import EntityEvent
    from banking.streaming.health import Health
    from producer.answers import Answer
    from producer.api_keys import ApiKeys
    from producer.idempotency import Attempt, RequestLog
    from producer.intake import ControlTotals, EventTarget

EVENTS_PATH = "/v1/events"

_CONFLICT_RETRY_SECONDS = 1


@dataclass(frozen=True, slots=True)
class ApiLimits:
    """What one request, and all of them together, may take; `ProducerSettings` says the same of each.

    Attributes:
        body_bytes: Of a JSON body.
        stream_bytes: Of an NDJSON body; 0 without limit.
        concurrent_requests: That publish at the same time.
        rejections: Of one request that is answered with one JSON object; then it is ended.
        body_idle_seconds: Without a byte in the middle of a body.
        clock_skew_seconds: That a time-like version may lie ahead.
    """

    body_bytes: int = 16 * 1024 * 1024
    stream_bytes: int = 0
    concurrent_requests: int = 16
    rejections: int = 10_000
    body_idle_seconds: float = 30.0
    clock_skew_seconds: float = MAX_CLOCK_SKEW_SECONDS


@dataclass(frozen=True, slots=True)
class _Call:
    """One request, as far as it is known before its body is read.

    Attributes:
        form: How its body is written.
        body: Its body.
        answer: What is told of it.
        key: The name of its idempotency key.
        max_rejections: Rejected events at which it is ended; 0 for any number.
    """

    form: Form
    body: Body
    answer: Answer
    key: str | None
    max_rejections: int


class EventsApi:
    """Takes events over HTTP.

    Args:
        target: Where the events go.
        health: While it names a problem, requests are answered 503.
        stop: Once set, requests are ended at the next event.
        keys: The keys that callers need; None: they need none.
        limits: What they may take.
        source: The `source` of events that name none.
        request_log: Where idempotency keys are kept.

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
        request_log: RequestLog,
    ) -> None:
        self._target = target
        self._health = health
        self._stop = stop
        self._keys = keys
        self._limits = limits
        self._terms = Terms(source, limits.clock_skew_seconds, stop)
        self._request_log = request_log
        self._open_keys: set[str] = set()
        self.open_requests = 0

    def routes(self) -> list[web.RouteDef]:
        """The API's routes, its own description among them."""
        return [
            web.post(EVENTS_PATH, self.post_events),
            *documents(self._limits, source=self._terms.source, authentication=self._keys is not None),
        ]

    async def post_events(self, request: web.Request) -> web.StreamResponse:
        """Answer 202 with control totals once the broker has stored every event that is valid.

        Raises:
            Problem: The answer is another one.
        """
        call = self._admit(request)
        self.open_requests += 1
        try:
            if call.key is None:
                return await self._publish(call, None)
            with self._only_one(call.key):
                return await self._publish_once(call, call.key)
        finally:
            self.open_requests -= 1

    def _admit(self, request: web.Request) -> _Call:
        """Everything that can be said before the body is read."""
        caller = self._caller(request)
        form, coding, wish = form_of(request), coding_of(request), wish_of(request)
        key = key_of(request.headers.getall(HEADER, []), caller)
        limits = self._limits
        limit_bytes = limits.body_bytes if form is Form.JSON else limits.stream_bytes
        if limit_bytes and (request.content_length or 0) > limit_bytes:
            raise too_large(limit_bytes)
        if problems := self._health.problems:
            raise unavailable("; ".join(f"{name}: {problem}" for name, problem in problems.items()))
        if self._stop.is_set():
            raise unavailable("the service is stopping")
        if self.open_requests >= limits.concurrent_requests:
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"{self.open_requests} requests are being published, as many as may be",
                headers={"Retry-After": "1"},
            )
        idle_seconds = limits.body_idle_seconds
        body = Body(request, coding, limit_bytes=limit_bytes, idle_seconds=idle_seconds, stop=self._stop)
        if wish.lines:
            answer = LineAnswer(request, form, receipts=wish.receipts, idle_seconds=idle_seconds)
            return _Call(form, body, answer, key, 0)
        return _Call(form, body, JsonAnswer(form), key, limits.rejections)

    def _caller(self, request: web.Request) -> str:
        """Who calls; everybody is one caller where no keys are needed."""
        if self._keys is None:
            return ""
        caller = self._keys.caller(request.headers.get("Authorization"))
        if caller is None:
            raise Problem(
                HTTPStatus.UNAUTHORIZED,
                "an API key is needed, as Authorization: Bearer <key>",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return caller

    @contextlib.contextmanager
    def _only_one(self, key: str) -> Iterator[None]:
        if key in self._open_keys:
            raise Problem(
                HTTPStatus.CONFLICT,
                "a request with this idempotency key is being published",
                headers={"Retry-After": str(_CONFLICT_RETRY_SECONDS)},
            )
        self._open_keys.add(key)
        try:
            yield
        finally:
            self._open_keys.discard(key)

    async def _publish_once(self, call: _Call, key: str) -> web.StreamResponse:
        """Publish a request under its key, or answer it as before."""
        try:
            attempt = await self._request_log.begin(key)
        except BrokerError as error:
            raise unavailable(str(error)) from error
        if attempt.finished is None:
            return await self._publish(call, attempt)
        return await self._answer_again(call, attempt, attempt.finished)

    async def _publish(self, call: _Call, attempt: Attempt | None) -> web.StreamResponse:
        intake = Intake(self._target, call.answer.reject, call.answer.accept)
        try:
            with tracing.publishing(intake.tally):
                try:
                    await self._take(call, intake, attempt)
                finally:
                    await intake.settle()
            totals = _outcome(intake)
            if attempt is not None:
                totals = await self._finish(attempt, Finished(call.body.digest, totals, time.time_ns() // 1000))
        except Problem as problem:
            return await _fail(call, problem, intake.totals)
        return await call.answer.succeed(totals)

    async def _finish(self, attempt: Attempt, finished: Finished) -> ControlTotals:
        """Note how a request ended; the totals that count where two replicas have published it at the same time."""
        try:
            first = await self._request_log.finish(attempt, finished)
        except BrokerError as error:
            raise unavailable(f"all events are stored, but not that this request was one: {error}") from error
        if first.digest != finished.digest:
            raise _other_body()
        return first.totals

    async def _answer_again(self, call: _Call, attempt: Attempt, finished: Finished) -> web.StreamResponse:
        """Answer a request that has ended, by looking at its body again and publishing nothing."""
        intake = Intake(_Nowhere(), call.answer.reject, _tell_nothing)
        try:
            try:
                await self._take(call, intake, attempt)
            except Problem as problem:
                # A bad request was not the answer to the first, so it is another one.
                raise (_other_body() if problem.status is HTTPStatus.BAD_REQUEST else problem) from None
            if call.body.digest != finished.digest:
                raise _other_body()
        except Problem as problem:
            return await _fail(call, problem, None)
        response = await call.answer.succeed(finished.totals)
        if not response.prepared:
            response.headers[REPLAYED_HEADER] = "true"
        return response

    async def _take(self, call: _Call, intake: Intake, attempt: Attempt | None) -> None:
        """Read the body and hand its events over."""
        taker = Taker(self._terms, call.body, intake, call.answer, attempt, call.max_rejections)
        await taker.take(call.form)


class _Nowhere:
    """A target that keeps nothing: for events that are stored already."""

    async def submit(self, event: EntityEvent, receipt: Callable[[PublishError | None], None]) -> None:
        """Count the event as stored, if it may be sent at all."""
        encode_event(event)
        receipt(None)


@web.middleware
async def trace_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give a request that publishes a span, in its caller's trace where it has one."""
    resource = request.match_info.route.resource
    if tracing.active is None or resource is None or resource.canonical != EVENTS_PATH:
        return await handler(request)
    with tracing.active.request(request.method, EVENTS_PATH, request.headers) as answered:
        response = await handler(request)
        answered(response.status)
        return response


def _tell_nothing(_token: object, _event: EntityEvent) -> None:
    """Of events that a request under its key accepted before, nobody knows before its end that it is the same one."""


def _outcome(intake: Intake) -> ControlTotals:
    """The control totals of a body that was read to its end, where they are a success."""
    if unconfirmed := intake.counts.unconfirmed:
        raise unavailable(f"the broker did not confirm {unconfirmed} events")
    totals = intake.totals
    if totals.rejected and not totals.accepted:
        raise Problem(HTTPStatus.BAD_REQUEST, "no event was accepted")
    return totals


async def _fail(call: _Call, problem: Problem, totals: ControlTotals | None) -> web.StreamResponse:
    log_refusal(problem)
    return await call.answer.fail(problem, totals)


def _other_body() -> Problem:
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "this idempotency key was used for another body")
