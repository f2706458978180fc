"""Errors of the API as problem details (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
import structlog
from aiohttp import web
from msgspec import UNSET, UnsetType

from producer.intake import Rejection, Summary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.typedefs import Handler

log = structlog.get_logger(__name__)

PROBLEM_CONTENT_TYPE = "application/problem+json"


class ProblemDetails(msgspec.Struct, kw_only=True):
    """The body of an answer that is an error.

    Attributes:
        type: Always `about:blank`: the status says what kind of problem it is.
        title: The status in words.
        status: The status.
        detail: What is wrong with this very request.
        next: The first line (from 1) or index (from 0) that was not looked at, where reading ended early.
        read: As in the answer of a request that succeeds, like all that follow; there where events were read.
        accepted: Events that the broker has stored.
        rejected: Events that break the contract.
        unconfirmed: Events that may or may not be stored.
        accepted_ids_hash: The hash of the accepted events' entity ids.
        rejections: The events that were rejected or not confirmed.
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    next: int | UnsetType = UNSET
    read: int | UnsetType = UNSET
    accepted: int | UnsetType = UNSET
    rejected: int | UnsetType = UNSET
    unconfirmed: int | UnsetType = UNSET
    accepted_ids_hash: str | UnsetType = UNSET
    rejections: list[Rejection] | UnsetType = UNSET


class Problem(Exception):  # noqa: N818 - named as RFC 9457 names it
    """A request that is not answered as asked.

    Args:
        status: The answer's status.
        detail: What is wrong with this very request.
        headers: Further headers of the answer.
        next_place: The line or index from which on nothing was looked at, where that is known.

    Attributes:
        summary: What had become of the events by then, where any were read.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        next_place: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.next_place = next_place
        self.summary: Summary | None = None

    @property
    def details(self) -> ProblemDetails:
        """The body of the answer."""
        summary = {} if self.summary is None else {name: getattr(self.summary, name) for name in _SUMMARY_FIELDS}
        return ProblemDetails(
            title=self.status.phrase,
            status=self.status.value,
            detail=self.detail,
            next=UNSET if self.next_place is None else self.next_place,
            **summary,
        )

    def response(self) -> web.Response:
        """The answer."""
        return web.Response(
            status=self.status.value,
            body=msgspec.json.encode(self.details),
            headers={**self.headers, "Content-Type": PROBLEM_CONTENT_TYPE},
        )


def log_refusal(problem: Problem) -> None:
    """Note that a request was not answered as asked."""
    log.info("request refused", status=problem.status.value, detail=problem.detail)


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error as a problem, also one that no route of the API is there for."""
    try:
        return await handler(request)
    except Problem as problem:
        log_refusal(problem)
        return problem.response()
    except web.HTTPException as error:
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        detail = f"{request.method} {request.path:.200}: {error.reason}"
        return Problem(HTTPStatus(error.status), detail, headers=headers).response()


_SUMMARY_FIELDS = Summary.__struct_fields__
