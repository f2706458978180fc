"""Removing tombstones that were kept for long enough, a page at a time, so that no request is long."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from banking.streaming.sink import SinkUnavailableError
from graph_consumer.asking import submit_again
from graph_consumer.gremlin import GremlinError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graph_consumer.gremlin import GremlinClient
    from graph_consumer.servers import GraphServers

PAGE_TOMBSTONES = 200
"""Tombstones that are looked at together, and whose removal is one transaction."""

MEND_AFTER_SECONDS = 60.0
"""When no write that began before a removal can still be under way: longer than a server's lease on an entity."""

_MEND_KEYS = 20_000
_ATTEMPTS = 10
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Page(msgspec.Struct):
    """What `purge.find` answers; see `config/janusgraph/fleet/TombstonePurge.groovy`."""

    day: str | None
    keys: list[str]


async def purge_tombstones(servers: GraphServers, before: datetime) -> int:
    """Remove the tombstones that were written before a moment and that no edge leads to; how many those were.

    It goes through the days from the oldest on. What it leaves of a day it passes over from then on: when others remove
    some of it meanwhile, it passes over too many, and the next purge finds those.

    Several servers do not lock each other out. There it looks again later whether an edge has come to lead to what it
    has removed, and makes an entity of that which has not arrived; until then readers of `live` see neither.

    Raises:
        SinkUnavailableError: It was cut short.
    """
    due = {"before": (before - _EPOCH) // timedelta(milliseconds=1)}
    day: str | None = None
    left = purged = 0
    gone: list[str] = []
    while True:
        query = {**due, "day": day, "skip": left, "limit": PAGE_TOMBSTONES}
        answer = await _ask(servers.reader(), "purge.find(query)", {"query": _text(query)})
        page = msgspec.json.decode(answer, type=_Page)
        if page.day is None:
            break
        removed = 0
        for server, keys in servers.by_writer(page.keys).items():
            removed += await _ask(server, "purge.remove(request)", {"request": _text({**due, "keys": keys})})
        left = (left if page.day == day else 0) + len(page.keys) - removed
        day = page.day
        purged += removed
        if removed and len(servers) > 1:
            gone += page.keys
            if len(gone) >= _MEND_KEYS:
                await _mend(servers, gone)
                gone.clear()
    await _mend(servers, gone)
    return purged


async def _mend(servers: GraphServers, gone: Sequence[str]) -> None:
    if gone:
        await asyncio.sleep(MEND_AFTER_SECONDS)
    for start in range(0, len(gone), PAGE_TOMBSTONES):
        request = {"keys": gone[start : start + PAGE_TOMBSTONES]}
        await _ask(servers.reader(), "purge.mend(request)", {"request": _text(request)})


async def _ask(client: GremlinClient, script: str, bindings: dict[str, str]) -> Any:
    """The one result of a script; again, after a moment, when another transaction was in the way."""
    try:
        results = await submit_again(client, script, bindings, attempts=_ATTEMPTS)
    except GremlinError as error:
        raise SinkUnavailableError(f"JanusGraph cannot purge: {error}") from error
    return results[0]


def _text(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value).decode()
