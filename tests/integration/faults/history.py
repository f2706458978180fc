"""What was published and acknowledged while faults came and went, and what no one can know of."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import msgspec

from banking.streaming.broker import BrokerError
from banking.streaming.entities import EntityType
from banking.streaming.events import EventType, create_event
from banking.streaming.producer import AsyncEntityProducer
from banking.streaming.streaming_orchestrator import StreamingConfig, StreamingOrchestrator
from tests.replay import evolve

SOURCE = "faults"
HOT = 20
COUNTS = {"person": 900, "company": 100, "account": 900, "transaction": 900, "communication": 300}


class History:
    """The events of every entity of which it is not known that a newer one was stored by the broker.

    Attributes:
        possible: By entity, by version: the newest acknowledged event, and newer ones whose receipt never came.
        acknowledged: By entity, the newest version that the broker acknowledged.
        counted: How many events were acknowledged, and how many are uncertain.
    """

    def __init__(self):
        self.possible = {}
        self.acknowledged = {}
        self.counted = Counter()

    def note(self, event, error):
        """Note the receipt of one event."""
        self.counted["uncertain" if error else "acknowledged"] += 1
        held = self.possible.setdefault(event.key, {})
        held[event.version] = event
        if error is None:
            newest = max(self.acknowledged.get(event.key, -1), event.version)
            self.acknowledged[event.key] = newest
        floor = self.acknowledged.get(event.key, -1)
        self.possible[event.key] = {version: one for version, one in held.items() if version >= floor}


class Driver:
    """Publishes creates, updates and deletes of a few thousand entities, some of them hot. A seed says which."""

    def __init__(self, seed):
        self.history = History()
        self._draw = random.Random(seed)
        config = StreamingConfig(seed=seed, **{f"{name}_count": number for name, number in COUNTS.items()})
        born = list(StreamingOrchestrator(config).events())
        self._ids = {kind: [event.entity_id for event in born if event.entity_type is kind] for kind in EntityType}
        self._states = [(event.entity_type, event.entity_id, event.payload) for event in born]
        self._versions = Counter()

    def next(self):
        """The next event."""
        draw = self._draw
        place = draw.randrange(len(self._states)) if draw.random() < 0.8 else draw.randrange(HOT)
        entity_type, entity_id, payload = self._states[place]
        self._versions[place] += 1
        version = self._versions[place]
        if version > 1 and draw.random() < 0.08:
            event_type, state = EventType.DELETE, {}
        else:
            event_type = EventType.CREATE if version == 1 else EventType.UPDATE
            state = payload if version == 1 else evolve(payload, entity_type, draw, self._ids)
            self._states[place] = (entity_type, entity_id, state)
        event = create_event(entity_type, entity_id, state, source=SOURCE, version=version, event_type=event_type)
        # Nothing that a later event changes may change in this one.
        return msgspec.structs.replace(event, payload=dict(event.payload))

    async def publish(self, pulsar_url, stop, per_second):
        """Publish until told to stop. A broker that is away is waited for; what it did not confirm is uncertain."""
        async with AsyncEntityProducer(pulsar_url) as producer:
            while not stop.is_set():
                for _ in range(max(1, per_second // 10)):
                    await self._submit(producer, self.next())
                await asyncio.sleep(0.1)
            await producer.flush(120)

    async def _submit(self, producer, event):
        try:
            await producer.submit(event, lambda error: self.history.note(event, error))
        except BrokerError as error:
            self.history.note(event, error)
            await producer.reset()
            await asyncio.sleep(1)
