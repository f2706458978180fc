"""Asking JanusGraph beside its writers: a request that was in another's way is made again, after a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import stamina

from graph_consumer.failures import is_contention

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graph_consumer.gremlin import GremlinClient


async def submit_again(
    client: GremlinClient, script: str, bindings: Mapping[str, Any] | None = None, *, attempts: int
) -> list[Any]:
    """The results of a script, which must be one that can be run twice.

    Raises:
        GremlinError: It failed for another reason than contention, or by contention at every attempt.
    """
    async for attempt in stamina.retry_context(
        on=is_contention, attempts=attempts, timeout=None, wait_initial=0.05, wait_max=2.0
    ):
        with attempt:
            results = await client.submit(script, bindings)
    return results
