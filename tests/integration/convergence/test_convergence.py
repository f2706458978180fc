"""Many events, shuffled and repeated, through three replicas of each leg that are killed now and then.

What the stores hold in the end is compared with what a plain sequential replay of the newest versions gives: vertex by
vertex, edge by edge and document by document, with all properties. The replay is a few dictionaries in this process.

    .venv/bin/pytest -m slow tests/integration/convergence     # the same with more events
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter

import pytest

from banking.streaming.entities import ENTITY_MODELS, EntityType
from banking.streaming.events import EventType, create_event
from banking.streaming.producer import AsyncEntityProducer
from banking.streaming.streaming_orchestrator import StreamingConfig, StreamingOrchestrator
from fleet.comparison import Expectation, wait_until_equal
from fleet.compose import StackError
from tests.replay import Replay, document_of, documents_as_they_are, evolve, graph_as_it_is, without_time
from vector_consumer.mappings import EMBEDDING_FIELD

EVENTS, MANY_EVENTS = 20_000, 100_000
REPEATED_SHARE = 0.1
REPLICAS = 3
SEED = 20_240_331
SOURCE = "convergence"
SECONDS = 600.0


def make_history(number):
    """As many events, of all types and kinds, in no order, some twice; the same ones in every run."""
    draw = random.Random(SEED)
    # The seed, and so every id, is this test's own: other tests publish generated data into the same stores.
    config = StreamingConfig(
        seed=SEED,
        person_count=number * 8 // 100,
        company_count=number * 8 // 1000,
        account_count=number * 8 // 100,
        transaction_count=number // 10,
        communication_count=number * 32 // 1000,
    )
    born = list(StreamingOrchestrator(config).events())
    ids = {kind: [event.entity_id for event in born if event.entity_type is kind] for kind in EntityType}
    history = []
    wanted = int(number * (1 - REPEATED_SHARE))
    states = [(event.entity_type, event.entity_id, event.payload) for event in born]
    for place, (entity_type, entity_id, payload) in enumerate(states):
        history.append(create_event(entity_type, entity_id, payload, source=SOURCE, version=1, event_id=f"b{place}"))
    versions = Counter()
    while len(history) < wanted:
        place = draw.randrange(len(states)) if draw.random() < 0.9 else draw.randrange(50)  # some are hot
        entity_type, entity_id, payload = states[place]
        versions[place] += draw.choice([1, 1, 1, 1000])
        event_type, state = EventType.UPDATE, payload
        if draw.random() < 0.07:
            event_type, state = EventType.DELETE, {}
        else:
            payload = state = evolve(payload, entity_type, draw, ids)
            states[place] = (entity_type, entity_id, payload)
        history.append(
            create_event(
                entity_type,
                entity_id,
                state,
                source=SOURCE,
                version=1 + versions[place],
                event_type=event_type,
                event_id=f"u{len(history)}",
            )
        )
    history += draw.sample(history, number - wanted)
    draw.shuffle(history)
    return history


async def kill_now_and_then(stack, killed):
    """Kill -9 of one replica after the other, until cancelled; podman's restart policy brings each back."""
    draw = random.Random(SEED)
    for number in itertools.count(1):
        await asyncio.sleep(draw.uniform(2, 5))
        service = ("graph_consumer", "vector_consumer")[number % 2]
        try:
            await asyncio.to_thread(stack.kill_process, service, draw.randint(1, REPLICAS))
        except StackError:
            continue  # it is not back yet from the last time
        killed[service] += 1


@pytest.fixture
def replicas(stack):
    for service in ("graph_consumer", "vector_consumer"):
        stack.scale(service, REPLICAS)
    yield
    for service in ("graph_consumer", "vector_consumer"):
        stack.scale(service, 1)


@pytest.mark.parametrize("number", [EVENTS, pytest.param(MANY_EVENTS, marks=pytest.mark.slow)])
async def test_both_stores_end_as_a_sequential_replay_of_the_newest_versions(
    stack, replicas, graph, vector, assert_one_vertex_each, number
):
    history = make_history(number)
    assert len(history) == number
    replay, expectation = Replay(), Expectation()
    for event in history:
        replay.add(event)
        expectation.add(event)
    killed = Counter()
    killer = asyncio.create_task(kill_now_and_then(stack, killed))
    try:
        async with AsyncEntityProducer(stack.addresses.pulsar_url) as producer:
            report = await producer.send_many(history)
        assert (report.published, report.failed) == (number, 0)
        comparisons = await asyncio.gather(
            *(wait_until_equal(reader, expectation, SECONDS) for reader in (graph, vector))
        )
    finally:
        killer.cancel()
    assert [comparison.differences for comparison in comparisons] == [[], []]
    assert min(killed["graph_consumer"], killed["vector_consumer"]) >= 2, f"hardly anything was killed: {killed}"

    expected = replay.graph()
    held = await graph_as_it_is(graph, list(expected))
    assert held.keys() == expected.keys()
    for key, vertex in expected.items():
        assert held[key] == vertex, key
    await assert_one_vertex_each()

    for entity_type in ENTITY_MODELS:
        events = {event.entity_id: event for event in replay.newest.values() if event.entity_type is entity_type}
        async for entity_id, document, version in documents_as_they_are(vector, entity_type, list(events)):
            event = events.pop(entity_id)
            assert document is not None, entity_id
            has_vector = document.pop(EMBEDDING_FIELD, None) is not None
            assert has_vector is (event.event_type is not EventType.DELETE and bool(event.text_for_embedding))
            assert (version, without_time(document)) == (event.version, document_of(event)), entity_id
        assert events == {}
