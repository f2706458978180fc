"""The events of one body: found, checked, and handed to the intake one by one."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from banking.streaming.broker import BrokerUnavailableError
from banking.streaming.events import InvalidEventError
from banking.streaming.metrics import METRICS
from producer.body import Body, Form, unavailable
from producer.drafts import parse_event
from producer.lines import MAX_LINE_BYTES, LineSplitter
from producer.problems import Problem

if TYPE_CHECKING:
    import asyncio

    from banking.streaming.events import EntityEvent
    from producer.answers import Answer
    from producer.idempotency import Attempt
    from producer.intake import Intake

_WHITE_SPACE = b" \t\r\n"
_MOST_COMMAS = 2_000_000


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for the events of every request.

    Attributes:
        source: The `source` of events that name none.
        clock_skew_seconds: That a time-like version may lie ahead.
        stop: Ends the taking at the next event.
    """

    source: str
    clock_skew_seconds: float
    stop: asyncio.Event


class Taker:
    """Takes the events of one body.

    Args:
        terms: What holds for all.
        body: The body.
        intake: Where the events go.
        answer: What is told meanwhile.
        attempt: What derives the ids and times that events do not give; None makes new ones.
        max_rejections: Rejected events at which it ends; 0 for any number.
    """

    def __init__(
        self, terms: Terms, body: Body, intake: Intake, answer: Answer, attempt: Attempt | None, max_rejections: int
    ) -> None:
        self._terms = terms
        self._body = body
        self._intake = intake
        self._answer = answer
        self._attempt = attempt
        self._max_rejections = max_rejections

    async def take(self, form: Form) -> None:
        """Read the body to its end.

        Raises:
            Problem: 400 for a body that is no JSON, or one with too many rejected events; 503 when the broker is away
                or the service stops; what the body itself raises. The events before it were handed over.
        """
        await (self._take_json() if form is Form.JSON else self._take_lines())

    async def _take_json(self) -> None:
        body = bytearray()
        async for chunk in self._body.chunks():
            body += chunk
        if body.lstrip(_WHITE_SPACE)[:1] != b"[":
            await self._take_event(0, body)
            return
        if body.count(b",") > _MOST_COMMAS:
            # An array of so many members, cut up, would take more memory than the service has.
            detail = f"the array has more than {_MOST_COMMAS:,} commas: send that much as NDJSON"
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
        try:
            events = msgspec.json.decode(body, type=list[msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Problem(HTTPStatus.BAD_REQUEST, f"the body is no JSON array: {error}") from None
        for index, event in enumerate(events):
            await self._take_event(index, memoryview(event))
            await self._answer.breathe()

    async def _take_lines(self) -> None:
        splitter = LineSplitter()
        try:
            async for chunk in self._body.chunks():
                for number, line in splitter.feed(chunk):
                    await self._take_line(number, line)
                await self._answer.breathe()
        except Problem as problem:
            if problem.next_place is None:
                problem.next_place = splitter.next_number
            raise
        for number, line in splitter.finish():
            await self._take_line(number, line)

    async def _take_line(self, number: int, line: bytes | None) -> None:
        if line is None:
            self._reject(InvalidEventError("event", f"the line has more than {MAX_LINE_BYTES:,} bytes"), number)
        else:
            await self._take_event(number, line)

    async def _take_event(self, place: int, data: bytes | bytearray | memoryview) -> None:
        if self._terms.stop.is_set():
            raise unavailable("the service is stopping", place)
        if self._intake.counts.unconfirmed:
            raise unavailable("the broker does not confirm events", place)
        try:
            event = self._parse(place, data)
        except InvalidEventError as error:
            self._reject(error, place)
            return
        try:
            await self._intake.publish(event, place)
        except BrokerUnavailableError as error:
            raise unavailable(str(error), place) from error

    def _parse(self, place: int, data: bytes | bytearray | memoryview) -> EntityEvent:
        terms, attempt = self._terms, self._attempt
        if attempt is None:
            return parse_event(data, terms.source, max_clock_skew_seconds=terms.clock_skew_seconds)
        return parse_event(
            data,
            terms.source,
            event_id=attempt.event_id(place),
            timestamp=attempt.timestamp(place),
            now_microseconds=attempt.finished.at if attempt.finished else None,
            max_clock_skew_seconds=terms.clock_skew_seconds,
        )

    def _reject(self, error: InvalidEventError, place: int) -> None:
        METRICS.events_publish_failed.labels("unknown", type(error).__name__).inc()
        self._intake.reject(error, place)
        if self._max_rejections and self._intake.counts.rejected >= self._max_rejections:
            raise Problem(
                HTTPStatus.BAD_REQUEST,
                f"ended after {self._max_rejections} rejected events; what follows was not read",
                next_place=place + 1,
            )
