"""Events go on being published while faults come and go; then every promise is checked, in both stores, in full."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import asynccontextmanager

from banking.streaming.entities import EntityType
from fleet.compose import SERVICES, StackError
from tests.integration.conftest import archived_letters
from tests.integration.faults.checker import document_violations, graph_violations
from tests.integration.faults.faults import READY_SECONDS
from tests.integration.faults.history import Driver
from tests.replay import documents_as_they_are, graph_as_it_is, vertices_by_scan, without_time
from vector_consumer.mappings import EMBEDDING_FIELD

EVENTS_PER_SECOND = 200
DRAIN_SECONDS = 600.0
_MOST_AT_ONCE = 3
_LOG_LINES = 20_000
_TOLD_LINES = 200


def rounds(faults, draw):
    """The faults' names without end, up to three at a time: every one once before any comes again.

    Those that come together are done to different containers.
    """
    while True:
        waiting = draw.sample(sorted(faults), len(faults))
        while waiting:
            together, number = [waiting.pop(0)], draw.randint(1, _MOST_AT_ONCE)
            for name in list(waiting):
                busy = {subject for each in together for subject in faults[each].subjects}
                if len(together) < number and not busy & faults[name].subjects:
                    waiting.remove(name)
                    together.append(name)
            yield together


class Campaign:
    """A driver, the faults, and what is to be found in the end.

    Args:
        stack: The fleet.
        faults: What can be done to it.
        seed: Decides what is published and what is inflicted.
        say: Told what goes on.

    Attributes:
        history: What was published.
        inflicted: How often each fault was inflicted.
    """

    def __init__(self, stack, faults, seed, say):
        self._stack = stack
        self._faults = faults
        self._seed = seed
        self._say = say
        self._driver = Driver(seed)
        self.history = self._driver.history
        self.inflicted = Counter()

    @asynccontextmanager
    async def publishing(self):
        """Events go on being published meanwhile."""
        stop = asyncio.Event()
        driving = self._driver.publish(self._stack.addresses.pulsar_url, stop, EVENTS_PER_SECOND)
        publishing = asyncio.create_task(driving)
        try:
            yield
        finally:
            stop.set()
            await publishing

    async def inflict(self, names):
        """Inflict some faults at once, and wait until the fleet is ready again."""
        self._say(" + ".join(names))
        started = time.monotonic()
        try:
            async with asyncio.TaskGroup() as tasks:
                for name in names:
                    number = self.inflicted[name] + 1
                    tasks.create_task(self._faults.all[name].inflict(random.Random(f"{self._seed} {name} {number}")))
                    self.inflicted[name] = number
            await asyncio.to_thread(self._stack.wait_ready, READY_SECONDS)
        except (StackError, ExceptionGroup):
            await asyncio.to_thread(self._tell_all)
            raise
        self._say(f"  ready again after {time.monotonic() - started:.0f} s")

    def _tell_all(self):
        """Say what whoever looks for the cause wants to know, before it is taken down."""
        for container in self._stack.containers():
            lines = self._stack.logs(container.service, container.number, _LOG_LINES).splitlines()
            # A flood's rejections would leave no room for anything else.
            told = [line for line in lines if '"event rejected"' not in line]
            self._say("\n".join((f"the log of {container.name}:", *told[-_TOLD_LINES:])))
        for service in SERVICES:
            self._say(f"{service}: {self._faults.health_of(service)}")

    async def harm(self, seconds):
        """Inflict whatever there is, at random, until the time is up."""
        draw = random.Random(self._seed)
        deadline = time.monotonic() + seconds
        for names in rounds(self._faults.all, draw):
            if time.monotonic() > deadline:
                return
            await self.inflict(names)
            await asyncio.sleep(draw.uniform(0, 3))

    async def check(self, graph, vector):
        """Wait until the stores hold what was promised; fail where they do not in the end."""
        self._say(f"{dict(self.history.counted)} events, faults: {dict(sorted(self.inflicted.items()))}")
        keys = [f"{kind.value}:{entity_id}" for kind, entity_id in self.history.possible]
        started = time.monotonic()
        while found := await self._missing(graph, vector, keys):
            if time.monotonic() - started > DRAIN_SECONDS:
                break
            await asyncio.sleep(2)
        assert found == [], f"seed {self._seed}: {len(found)} violations, the first: {found[:20]}"
        self._say(f"drained after {time.monotonic() - started:.0f} s")
        # What comes late must change nothing, and no entity may have a second vertex.
        await asyncio.sleep(5)
        scanned = await vertices_by_scan(self._stack.addresses.graph_settings())
        found = await self._violations(graph, vector, keys, scanned)
        assert found == [], f"seed {self._seed}: {len(found)} violations after the drain, the first: {found[:20]}"

    async def _missing(self, graph, vector, keys):
        if found := await self._violations(graph, vector, keys, {}):
            return found
        wanted = {(leg, key) for leg in ("graph", "vector") for key in self._faults.poison}
        letters = await asyncio.to_thread(archived_letters, self._stack)
        missing = wanted - {(letter["leg"], letter["key"]) for letter in letters}
        return [f"{leg}: {key} is not archived" for leg, key in sorted(missing)]

    async def _violations(self, graph, vector, keys, scanned):
        found = graph_violations(self.history, await graph_as_it_is(graph, keys), scanned)
        return found + document_violations(self.history, await _documents(vector, self.history))


async def _documents(vector, history):
    """Version and content of every entity's document."""
    held = {}
    for entity_type in EntityType:
        ids = [entity_id for kind, entity_id in history.possible if kind is entity_type]
        async for entity_id, content, version in documents_as_they_are(vector, entity_type, ids):
            if content is not None:
                content.pop(EMBEDDING_FIELD, None)
                held[entity_type, entity_id] = (version, without_time(content))
    return held
