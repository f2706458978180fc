"""Faults, by name: each does harm, lasts a while, and leaves the fleet to mend itself."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from banking.streaming.broker import BrokerOptions, Outgoing, Publisher
from banking.streaming.topics import ENTITY_TOPICS
from fleet.compose import SERVICES, StackError
from tests.integration.conftest import archived_letters
from tests.integration.faults.network import Network

if TYPE_CHECKING:
    from collections.abc import Callable

SERVERS = ("pulsar", "janusgraph", "opensearch")
CONSUMERS = ("graph_consumer", "vector_consumer", "dlq_worker")
LEGS = ("graph_consumer", "vector_consumer")
CONNECTED = (
    *((consumer, "pulsar") for consumer in CONSUMERS),
    ("graph_consumer", "janusgraph"),
    ("vector_consumer", "opensearch"),
)
# The longest timeout of a service towards a server.
FREEZE_SECONDS = 45
CUT_SECONDS = 40
SLOW_SECONDS = 30
FULL_SECONDS = 60
WRONG_CLOCK_SECONDS = 15
READY_SECONDS = 400
_HOUR = 3600
# Ahead, the letters' worker would have the broker wait with a retry for as long.
CLOCK_JUMPS = (("graph_consumer", _HOUR), ("vector_consumer", _HOUR), *((name, -25 * _HOUR) for name in CONSUMERS))
# More than the rejection limit lets through, even where the rest of the events are good.
FLOOD = 2500


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault.

    Attributes:
        inflict: Does the harm, given what draws its details, and undoes what does not pass by itself.
        subjects: Whom it is done to; while it lasts, no other fault should be.
    """

    inflict: Callable
    subjects: frozenset[str]


class Faults:
    """What can be done to a stack.

    Args:
        stack: To which.
        disks: Its small disks, where it has them.
        clocks: The clocks of its services, where they can be set.

    Attributes:
        all: The faults by name.
        poison: The keys of bytes that are no event, published on purpose.
    """

    def __init__(self, stack, disks=None, clocks=None):
        self._stack = stack
        self._network = Network(stack)
        self._disks = disks
        self._clocks = clocks
        self.poison = set()
        self.all = {}
        for name in (*SERVICES, *SERVERS):
            self._add(f"kill {name}", self._kill, name)
        for name in (*CONSUMERS, *SERVERS):
            self._add(f"freeze {name}", self._freeze, name)
        for name in CONSUMERS:
            self._add(f"cut off {name}", self._cut_off, name)
        for service, server in CONNECTED:
            self._add(f"cut {service} from {server}", self._cut, service, server)
            self._add(f"slow network between {service} and {server}", self._slow, service, server)
        for name in SERVERS:
            self._add(f"restart {name}", self._restart, name)
        for name in LEGS:
            self._add(f"scale {name}", self._scale, name)
        self.all["rolling restart"] = Fault(self._rolling_restart, frozenset((*SERVICES, *SERVERS)))
        self.all["poison"] = Fault(self._some_poison, frozenset({"pulsar"}))
        self.all["poison flood"] = Fault(self._poison_flood, frozenset({"pulsar", *LEGS}))
        for name in SERVERS if disks else ():
            self._add(f"full disk of {name}", self._full_disk, name)
        for service, seconds in CLOCK_JUMPS if clocks else ():
            way = "ahead" if seconds > 0 else "back"
            self.all[f"clock of {service} jumps {way}"] = Fault(
                lambda _draw, jump=(service, seconds): self._wrong_clock(*jump), frozenset({service})
            )

    def _add(self, name, harm, *subjects):
        self.all[name] = Fault(lambda draw: harm(*subjects, draw), frozenset(subjects))

    async def _kill(self, service, draw):
        """`kill -9`: at once, of any of its replicas."""
        replicas = len(self._stack.containers(service))
        try:
            await asyncio.to_thread(self._stack.kill_process, service, draw.randint(1, replicas))
        except StackError:
            # It is being started anew at this moment: there is no process to kill.
            await asyncio.sleep(2)
            await asyncio.to_thread(self._stack.kill_process, service, 1)
        await asyncio.sleep(2)

    async def _freeze(self, service, _draw):
        """No process of it moves, for longer than anybody waits for an answer."""
        await asyncio.to_thread(self._stack.pause, service)
        try:
            await asyncio.sleep(FREEZE_SECONDS)
        finally:
            await asyncio.to_thread(self._stack.unpause, service)

    async def _cut_off(self, service, _draw):
        """It reaches nobody, and nobody reaches it."""
        container, network = self._stack.container(service), f"{self._stack.project}_default"
        await asyncio.to_thread(self._stack.podman, "network", "disconnect", network, container)
        try:
            await asyncio.sleep(CUT_SECONDS)
        finally:
            await asyncio.to_thread(self._stack.podman, "network", "connect", "--alias", service, network, container)

    async def _cut(self, service, server, _draw):
        """Nothing passes between these two; others reach both."""
        with self._network.cut(service, server):
            await asyncio.sleep(CUT_SECONDS)

    async def _slow(self, service, server, _draw):
        """Every answer takes half a second longer, and much takes much longer."""
        with self._network.slow(service, server):
            await asyncio.sleep(SLOW_SECONDS)

    async def _full_disk(self, server, _draw):
        """Nothing more fits on its disk, until somebody makes room."""
        with self._disks.full(server):
            await asyncio.sleep(FULL_SECONDS)

    async def _wrong_clock(self, service, seconds):
        """Its clock jumps, and back after a while."""
        with self._clocks.wrong(service, seconds):
            await asyncio.sleep(WRONG_CLOCK_SECONDS)

    async def _restart(self, service, _draw):
        """An orderly stop and start, with whatever is unacknowledged."""
        await asyncio.to_thread(self._stack.restart, service)

    async def _scale(self, service, draw):
        """Three replicas, and one again while they are at work."""
        await asyncio.to_thread(self._stack.scale, service, 3, READY_SECONDS)
        await asyncio.sleep(draw.uniform(2, 8))
        await asyncio.to_thread(self._stack.scale, service, 1, READY_SECONDS)

    async def _rolling_restart(self, _draw):
        """One service after the other, as a deployment does."""
        for service in SERVICES:
            await asyncio.to_thread(self._stack.restart, service)
            await asyncio.to_thread(self._stack.wait_ready, READY_SECONDS, [service])

    async def _some_poison(self, draw):
        """Bytes that are no event, fewer than stop a leg."""
        await self._publish_poison(40, draw)

    async def _poison_flood(self, draw):
        """So many that both legs stop; they are restarted, as docs/dead-letters.md says, until all is through."""
        keys = await self._publish_poison(FLOOD, draw)
        stopped = set()
        async with asyncio.timeout(READY_SECONDS):
            # A leg that waits for its store meets the rest of them, and the retries, only afterwards.
            while not await asyncio.to_thread(self._are_archived, keys):
                await asyncio.sleep(1)
                for leg in LEGS:
                    if await asyncio.to_thread(self._is_stopped, leg):
                        stopped.add(leg)
                        await asyncio.to_thread(self._stack.restart, leg)
        assert stopped == set(LEGS), "the flood has not stopped both legs"

    def _are_archived(self, keys):
        try:
            letters = archived_letters(self._stack)
        except StackError:
            return False  # the worker is being started
        return {(letter["leg"], letter["key"]) for letter in letters}.issuperset(product(("graph", "vector"), keys))

    def _is_stopped(self, leg):
        return "rejections" in self.health_of(leg)

    def health_of(self, service):
        """What a service says of its health; what went wrong where it says nothing, such as while it is started."""
        try:
            return self._stack.exec(service, "python", "-c", _HEALTH)
        except StackError as error:
            return str(error).splitlines()[-1]

    async def _publish_poison(self, number, draw):
        publisher = Publisher(BrokerOptions(self._stack.addresses.pulsar_url))
        keys = [f"poison-{uuid.UUID(int=draw.getrandbits(128))}" for _ in range(number)]
        topics = list(ENTITY_TOPICS.values())
        try:
            await publisher.publish_all([Outgoing(draw.choice(topics), b"\xff\x00", key) for key in keys])
        finally:
            await publisher.close()
        self.poison.update(keys)
        return keys


_HEALTH = """
import os, urllib.error, urllib.request
try:
    url = f"http://127.0.0.1:{os.environ['HTTP_PORT']}/health/ready"
    print(urllib.request.urlopen(url, timeout=5).read().decode())
except urllib.error.HTTPError as error:
    print(error.read().decode())
"""
