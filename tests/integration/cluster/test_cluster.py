"""A cluster on this host does what one of each does; the loss of one of what is there more than once is no loss.

    .venv/bin/pytest -m slow -s tests/integration/cluster

It takes the better part of a machine's 24 GiB, and so runs alone. On two cores, which its eight JVMs and nine services
share, it is very slow: what it shows is that nothing is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.request

import pytest

from banking.streaming.entities import EntityType
from banking.streaming.streaming_orchestrator import StreamingConfig, StreamingOrchestrator
from banking.streaming.topics import ENTITY_TOPICS, full_name
from fleet.comparison import Expectation, compare
from fleet.compose import Stack
from fleet.publishing import publish
from fleet.stores import GraphReader, VectorReader
from tests.integration.conftest import ENVIRONMENT, PROJECT, assert_confined, assert_in_both, running

pytestmark = pytest.mark.slow

LEGS = ("graph_consumer", "vector_consumer")
NODES = ("opensearch", "opensearch-2", "opensearch-3")
SERVERS = ("janusgraph", "janusgraph-2")
TRANSACTIONS = 400
SECONDS = 600.0
REQUEST_SECONDS = 300.0
_FURTHER_PORTS = ("OPENSEARCH_2_PORT", "OPENSEARCH_3_PORT", "JANUSGRAPH_2_HOST_PORT")
_FIRST_PORT = max(int(port) for name, port in ENVIRONMENT.items() if name.endswith("_PORT")) + 40


@pytest.fixture(scope="session")
def stack(request):
    ports = {name: str(_FIRST_PORT + number) for number, name in enumerate(_FURTHER_PORTS)}
    terminal = request.config.get_terminal_writer()
    stack = Stack(
        f"{PROJECT}-cluster",
        {**ENVIRONMENT, **ports},
        say=lambda line: terminal.line(f"[cluster] {line}"),
        cluster=True,
    )
    with running(stack, keep=request.config.getoption("--keep-stack"), timeout_seconds=600.0):
        yield stack


@pytest.fixture
async def readers(stack):
    """Readers that know every server, as the legs do."""
    addresses = stack.addresses
    graph = addresses.graph_settings().model_copy(
        update={
            "janusgraph_host": f"127.0.0.1:{addresses.janusgraph},127.0.0.1:{_FIRST_PORT + 2}",
            "janusgraph_request_timeout_seconds": REQUEST_SECONDS,
        }
    )
    hosts = (addresses.opensearch, _FIRST_PORT, _FIRST_PORT + 1)
    vector = addresses.vector_settings().model_copy(
        update={"opensearch_host": ",".join(f"127.0.0.1:{port}" for port in hosts)}
    )
    readers = (GraphReader(graph), VectorReader(vector))
    yield readers
    for reader in readers:
        await reader.close()


def data_set(seed):
    """Twice as many entities as transactions."""
    return StreamingOrchestrator(
        StreamingConfig(
            seed=seed,
            person_count=TRANSACTIONS * 3 // 10,
            company_count=TRANSACTIONS // 20,
            account_count=TRANSACTIONS * 4 // 10,
            transaction_count=TRANSACTIONS,
            communication_count=TRANSACTIONS * 5 // 20,
        )
    ).events()


def ask_json(url):
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)


async def test_there_is_more_than_one_of_what_can_be(stack):
    running_services = [container.service for container in stack.containers() if container.state == "running"]
    assert all(running_services.count(leg) == 3 for leg in LEGS)
    assert {*NODES, *SERVERS} <= set(running_services)
    health = ask_json(f"http://127.0.0.1:{stack.addresses.opensearch}/_cluster/health")
    assert health["number_of_nodes"] == 3
    for topic in ENTITY_TOPICS.values():
        address = full_name(topic).replace("persistent://", "persistent/")
        url = f"{stack.addresses.pulsar_admin_url}/admin/v2/{address}/partitions"
        assert ask_json(url)["partitions"] == 3


async def test_its_containers_are_confined(stack):
    assert_confined(stack)


async def test_a_generated_data_set_stands_in_both_stores(stack, readers, assert_one_vertex_each):
    expectation = Expectation()
    totals = await publish(stack.addresses.producer_url, data_set(11), on_event=expectation.add)
    assert totals["accepted"] == totals["read"] == expectation.count().total()
    await assert_in_both(readers, expectation, SECONDS)
    await assert_one_vertex_each()


async def test_the_loss_of_one_of_each_loses_nothing_and_readers_go_on(stack, readers, assert_one_vertex_each):
    """While events flow, one node, one server and one replica of each leg after the other is away for a while."""
    known, expectation = Expectation(), Expectation()
    totals = await publish(stack.addresses.producer_url, data_set(12), on_event=known.add)
    assert totals["accepted"] == totals["read"]
    await assert_in_both(readers, known, SECONDS)
    # A part of what is known is looked up again and again.
    some = Expectation({EntityType.PERSON: dict(list(known.entities[EntityType.PERSON].items())[:100])})
    reads = [asyncio.create_task(keep_reading(reader, some)) for reader in readers]

    publishing = asyncio.create_task(publish(stack.addresses.producer_url, data_set(13), on_event=expectation.add))
    for service in (NODES[1], SERVERS[1], NODES[0], SERVERS[0]):
        replica = stack.container(LEGS[service in NODES], 2)
        await asyncio.to_thread(stack.podman, "stop", "-t", "0", stack.container(service), replica)
        await asyncio.sleep(20)
        await asyncio.to_thread(stack.podman, "start", stack.container(service), replica)
        await asyncio.to_thread(stack.wait_ready, 300.0)
    totals = await publishing
    assert totals["accepted"] == totals["read"] == expectation.count().total()
    for read in reads:
        read.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await read  # it raises what a reader was told
    await assert_in_both(readers, expectation, SECONDS)
    await assert_in_both(readers, known, SECONDS)
    await assert_one_vertex_each()


async def keep_reading(reader, expectation):
    """Until cancelled; whatever is away, what is known is found, however slowly."""
    while True:
        async with asyncio.timeout(REQUEST_SECONDS):
            comparison = await compare(reader, expectation)
        assert comparison.differences == []
        await asyncio.sleep(0.5)
