"""Documents on their way to OpenSearch: cut into requests by number and bytes, and sent."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from banking.streaming.sink import SinkUnavailableError
from vector_consumer.client import store_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opensearchpy import AsyncOpenSearch

    from vector_consumer.settings import VectorSettings

_GZIP_LEVEL = 1
_ANSWER_PARTS = "errors,items.*.status,items.*.result,items.*.error.type,items.*.error.reason"


class Sendable(Protocol):
    """One document of a request.

    Attributes:
        lines: Its action and what belongs to it, each with its line break.
    """

    @property
    def lines(self) -> bytes: ...  # noqa: D102 - an attribute, described above


Rows = TypeVar("Rows", bound=Sendable)


def split(rows: Sequence[Rows], max_documents: int, max_bytes: int) -> Iterator[list[Rows]]:
    """Cut rows into requests, in order; a row larger than a request may be goes alone."""
    part: list[Rows] = []
    size = 0
    for row in rows:
        if part and (len(part) == max_documents or size + len(row.lines) > max_bytes):
            yield part
            part, size = [], 0
        part.append(row)
        size += len(row.lines)
    if part:
        yield part


async def send_bulk(
    client: AsyncOpenSearch, settings: VectorSettings, rows: Sequence[Sendable]
) -> list[dict[str, Any]]:
    """Send one request; the answer to each of its documents, in order.

    Raises:
        SinkUnavailableError: The store is away.
        BatchFailedError: The store refused the request as a whole.
    """
    body = b"".join([row.lines for row in rows])
    patience = settings.opensearch_request_timeout_seconds
    query = {
        "filter_path": _ANSWER_PARTS,
        "request_timeout": patience,  # kept by the client, which would otherwise take `timeout` for itself
        "timeout": f"{patience / 2 * 1000:.0f}ms",  # the server gives up first: its answer says why
    }
    with store_errors():
        if settings.opensearch_gzip:
            # `client.bulk` would add a line break to what is compressed already.
            compressed = await asyncio.to_thread(gzip.compress, body, _GZIP_LEVEL)
            answer = await client.transport.perform_request(
                "POST", "/_bulk", params=query, body=compressed, headers={"content-encoding": "gzip"}
            )
        else:
            answer = await client.bulk(body=body, params=query)
    items = [next(iter(item.values())) for item in answer.get("items", ())]
    if len(items) != len(rows):
        raise SinkUnavailableError(f"OpenSearch answered for {len(items)} of {len(rows)} documents")
    return items
