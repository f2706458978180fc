"""Errors of the API as problem details (RFC 9457)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping
    from http import HTTPStatus

PROBLEM_CONTENT_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818 - named as RFC 9457 names it
    """A request that is not answered as asked.

    Args:
        status: The answer's status.
        detail: What is wrong with this very request.
        headers: Further headers of the answer.
        extensions: Further members of the body.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.extensions = dict(extensions or {})

    def response(self) -> web.Response:
        """The answer."""
        body = {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": self.status.value,
            "detail": self.detail,
            **self.extensions,
        }
        return web.Response(
            status=self.status.value,
            body=msgspec.json.encode(body),
            headers={**self.headers, "Content-Type": PROBLEM_CONTENT_TYPE},
        )
