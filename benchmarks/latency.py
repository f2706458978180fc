"""From publishing an event to reading it in a store, at a steady rate, measured through the stores."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any

from banking.streaming.entities import EntityType
from banking.streaming.events import create_person_event
from banking.streaming.producer import AsyncEntityProducer
from fleet.stores import GraphReader, VectorReader
from vector_consumer.mappings import alias_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from fleet.compose import Stack

    Find = Callable[[Sequence[str]], Awaitable[set[str]]]

_POLL_SECONDS = 0.005
_DRAIN_SECONDS = 60.0
_AT_ONCE = 400
# Looking for events is work for the stores as well, so it is done for one in so many.
_WATCHED_OF = 5
PLACES = ("graph", "index, by id", "index, by search")


class _Watch:
    """Looks for events in one place until they are there.

    Args:
        find: Tells which of some ids are there.
    """

    def __init__(self, find: Find) -> None:
        self._find = find
        self._sent: dict[str, float] = {}
        self.seconds: list[float] = []

    def expect(self, entity_id: str) -> None:
        """From this moment on."""
        self._sent[entity_id] = time.perf_counter()

    async def run(self, ended: asyncio.Event) -> None:
        """Look until all that was expected is there."""
        while self._sent or not ended.is_set():
            oldest = list(self._sent)[:_AT_ONCE]
            for entity_id in await self._find(oldest) if oldest else ():
                self.seconds.append(time.perf_counter() - self._sent.pop(entity_id))
            await asyncio.sleep(_POLL_SECONDS)


async def measure(stack: Stack, per_second: int, seconds: float) -> dict[str, list[float]]:
    """Seconds from the call that publishes to the first answer that holds the event, by place."""
    settings = stack.addresses.vector_settings()
    graph, vector = GraphReader(stack.addresses.graph_settings()), VectorReader(settings)
    alias = alias_of(settings.index_prefix, EntityType.PERSON)

    async def in_graph(ids: Sequence[str]) -> set[str]:
        return set(await graph.lookup(EntityType.PERSON, ids))

    async def by_id(ids: Sequence[str]) -> set[str]:
        return set(await vector.lookup(EntityType.PERSON, ids))

    async def by_search(ids: Sequence[str]) -> set[str]:
        body: dict[str, Any] = {"query": {"ids": {"values": list(ids)}}, "_source": False, "size": len(ids)}
        answer = await vector.client.search(index=alias, body=body)
        return {hit["_id"] for hit in answer["hits"]["hits"]}

    watches = {place: _Watch(find) for place, find in zip(PLACES, (in_graph, by_id, by_search), strict=True)}
    ended = asyncio.Event()
    async with AsyncEntityProducer(stack.addresses.pulsar_url) as producer, asyncio.TaskGroup() as tasks:
        for watch in watches.values():
            tasks.create_task(asyncio.wait_for(watch.run(ended), seconds + _DRAIN_SECONDS))
        run, started = uuid.uuid4().hex, time.perf_counter()
        for number in range(int(per_second * seconds)):
            await asyncio.sleep(max(0.0, started + number / per_second - time.perf_counter()))
            event = create_person_event(f"{run}-{number}", f"Ann {number}", {"city": "Bonn"}, source="benchmark")
            if number % _WATCHED_OF == 0:
                for watch in watches.values():
                    watch.expect(event.entity_id)
            await producer.submit(event, _raise)
        await producer.flush()
        ended.set()
    await graph.close()
    await vector.close()
    return {place: watch.seconds for place, watch in watches.items()}


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error
