"""`GET /openapi.json` and `GET /docs`: the API describes itself, to programs and to people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from producer.body import JSON
from producer.docs_page import page
from producer.openapi import document

if TYPE_CHECKING:
    from producer.api import ApiLimits

_HTML_HEADERS = {
    # The page is as it is: nothing is run, nothing fetched.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def documents(limits: ApiLimits, *, source: str, authentication: bool) -> list[web.RouteDef]:
    """The routes; arguments as in `producer.openapi.document`."""
    described = document(limits, source=source, authentication=authentication)
    as_json, as_html = msgspec.json.encode(described), page(described)

    async def get_openapi(_request: web.Request) -> web.Response:
        return web.Response(body=as_json, content_type=JSON)

    async def get_docs(_request: web.Request) -> web.Response:
        return web.Response(text=as_html, content_type="text/html", headers=_HTML_HEADERS)

    return [web.get("/openapi.json", get_openapi), web.get("/docs", get_docs)]
