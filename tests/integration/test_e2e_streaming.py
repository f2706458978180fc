"""The whole fleet: what is published through it stands in both stores, once, at its version, with its content.

Counts are not enough here: every check compares version and content hash of every entity.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

import pytest

from banking.streaming.entities import EntityType
from banking.streaming.events import create_event, create_person_event
from banking.streaming.producer import AsyncEntityProducer
from banking.streaming.streaming_orchestrator import StreamingConfig, StreamingOrchestrator
from fleet.comparison import Expectation, compare
from fleet.compose import AUDIT, ROOT, SERVICES, StackError
from fleet.publishing import publish
from tests.integration.conftest import archived_letters, assert_confined, assert_in_both

SECONDS = 240.0
PERSONS = "persistent://public/banking/persons-events"


@pytest.fixture
def unique():
    return uuid.uuid4().hex[:12]


@pytest.fixture
async def producer(stack):
    async with AsyncEntityProducer(stack.addresses.pulsar_url) as producer:
        yield producer


def data_set(seed, transactions):
    """A coherent data set, three in five of its entities transactions."""
    return StreamingOrchestrator(
        StreamingConfig(
            seed=seed,
            person_count=transactions // 5,
            company_count=transactions // 50,
            account_count=transactions // 5,
            transaction_count=transactions,
            communication_count=transactions // 5,
        )
    ).events()


def expected(*events):
    expectation = Expectation()
    expectation.add_all(events)
    return expectation


def started(stack):
    """When each container was last started, so that a restart shows."""
    return {container.name: container.started for container in stack.containers()}


def ask(stack, query):
    """The result of a query to Prometheus."""
    url = f"{stack.addresses.prometheus_url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)["data"]["result"]


async def until(condition, seconds=60.0):
    async with asyncio.timeout(seconds):
        while not (value := condition()):
            await asyncio.sleep(0.5)
    return value


async def test_a_generated_data_set_stands_in_both_stores(stack, graph, vector):
    before = started(stack)
    expectation = Expectation()
    totals = await publish(stack.addresses.producer_url, data_set(7, 1000), on_event=expectation.add)
    assert totals["accepted"] == totals["read"] == expectation.count().total()
    await assert_in_both((graph, vector), expectation)
    stubs = await graph.submit(
        "g.V().has('entity_id', within(wanted)).hasNot('version')", {"wanted": ids_of(expectation)}
    )
    assert stubs == []
    assert started(stack) == before


def ids_of(expectation):
    return [entity_id for held in expectation.entities.values() for entity_id in held]


async def test_the_newest_version_wins_and_a_deleted_entity_stays_deleted(producer, graph, vector, unique):
    def person(number, version, **payload):
        return create_person_event(f"{unique}-{number}", "Ann", payload, source="test", version=version)

    newest, gone = (
        person(1, 3, city="Bonn"),
        create_event("person", f"{unique}-2", source="test", event_type="delete", version=9),
    )
    await producer.send_many([newest, person(1, 1, city="Ulm"), gone, person(2, 4)])
    await assert_in_both((graph, vector), expected(newest, gone))
    await producer.send_many([person(1, 2), person(2, 8), last := person(3, 1)])
    await assert_in_both((graph, vector), expected(newest, gone, last))
    live = await graph.submit(
        "live.V().has('entity_id', within(wanted)).values('entity_id')", {"wanted": [gone.entity_id, newest.entity_id]}
    )
    assert live == [newest.entity_id]


async def test_references_become_edges(producer, graph, vector, unique):
    owner = create_person_event(f"{unique}-o", "Ann", source="test")
    accounts = [
        create_event(
            "account", f"{unique}-{side}", {"owner_id": owner.entity_id, "owner_type": "person"}, source="test"
        )
        for side in "ab"
    ]
    payment = create_event(
        "transaction",
        f"{unique}-t",
        {"from_account_id": f"{unique}-a", "to_account_id": f"{unique}-b", "amount": "12.50", "currency": "EUR"},
        source="test",
    )
    # The references come before what they refer to.
    await producer.send_many([payment, *accounts, owner])
    await assert_in_both((graph, vector), expected(owner, *accounts, payment))
    query = "g.V().has('entity_key', wanted).out('from_account').out('owned_by').values('entity_id')"
    assert await graph.submit(query, {"wanted": f"transaction:{unique}-t"}) == [owner.entity_id]
    amount = await graph.submit(
        "g.V().has('entity_key', wanted).outE('to_account').values('amount')", {"wanted": f"transaction:{unique}-t"}
    )
    assert amount == [12.5]


async def test_two_graph_consumers_share_the_work_and_lose_nothing(stack, graph, vector):
    stack.scale("graph_consumer", 2)
    try:
        expectation = Expectation()
        totals = await publish(stack.addresses.producer_url, data_set(11, 4000), on_event=expectation.add)
        assert totals["accepted"] == expectation.count().total()
        await assert_in_both((graph, vector), expectation)
        shares = await until(
            lambda: (
                len(found := ask(stack, 'sum by (instance) (streaming_outcomes_total{job="graph_consumer"}) > 0')) >= 2
                and found
            )
        )
        assert len(shares) == 2
    finally:
        stack.scale("graph_consumer", 1)
    assert [container.number for container in stack.containers("graph_consumer")] == [1]


@pytest.mark.parametrize("store", ["janusgraph", "opensearch"])
async def test_a_store_that_is_restarted_in_the_middle_loses_nothing(stack, graph, vector, store):
    seed = {"janusgraph": 13, "opensearch": 17}[store]
    expectation = Expectation()
    publishing = asyncio.create_task(
        publish(stack.addresses.producer_url, data_set(seed, 3000), on_event=expectation.add)
    )
    await asyncio.sleep(1.0)
    await asyncio.to_thread(stack.restart, store)
    totals = await publishing
    assert totals["accepted"] == expectation.count().total()
    await asyncio.to_thread(stack.wait_ready, SECONDS)
    await assert_in_both((graph, vector), expectation)


async def test_kill_9_of_any_service_changes_nothing(stack, producer, graph, vector):
    """The producer of this test is the library, so that the killed producer service has nothing to answer for."""
    expectation = Expectation()
    before = started(stack)

    def events():
        for event in data_set(19, 4000):
            expectation.add(event)
            yield event

    publishing = asyncio.create_task(producer.send_many(events()))
    for service in SERVICES:
        await asyncio.sleep(0.5)
        await asyncio.to_thread(stack.kill_process, service)
    report = await publishing
    assert (report.published, report.failed) == (expectation.count().total(), 0)
    # podman's restart policy brings each of them back.
    await until(lambda: all(container.state == "running" for container in stack.containers()))
    await asyncio.to_thread(stack.wait_ready, SECONDS)
    await assert_in_both((graph, vector), expectation)
    after = started(stack)
    assert {name for name in before if after[name] != before[name]} >= {
        stack.container(service) for service in SERVICES
    }


async def test_after_all_that_every_entity_is_one_vertex(assert_one_vertex_each):
    await assert_one_vertex_each()


async def test_a_poison_event_is_retried_and_archived_and_holds_nothing_up(stack, producer, graph, vector, unique):
    poison = create_person_event(f"{unique}-bad", "Ann", {"date_of_birth": "yesterday"}, source="test")
    good = [create_person_event(f"{unique}-{number}", "Ann", source="test") for number in range(50)]
    await producer.send_many([*good[:25], poison, *good[25:]])
    await assert_in_both((graph, vector), expected(*good))

    def archived():
        mine = [letter for letter in archived_letters(stack) if letter["key"] == poison.entity_id]
        return mine if len(mine) == 2 else None

    letters = await until(archived, 90)
    assert {letter["leg"] for letter in letters} == {"graph", "vector"}
    assert {letter["reason"] for letter in letters} == {"invalid_field"}
    assert {letter["attempt"] for letter in letters} == {3}
    assert all("date_of_birth" in letter["error"] for letter in letters)
    listing = await run_documented(stack, "dlq_worker list")
    assert all(word in listing for word in ("graph", "vector"))
    counted = re.search(r"letters +│ +│ +(\d+)", await run_documented(stack, "dlq_worker stats"))
    assert int(counted[1]) >= 2
    for reader in (graph, vector):
        assert await reader.lookup(EntityType.PERSON, [poison.entity_id]) == {}


async def test_prometheus_scrapes_every_service(stack, producer, unique):
    await producer.send(create_person_event(unique, "Ann", source="test"))
    for service in (*SERVICES, AUDIT):
        replicas = len(stack.containers(service))
        # The addresses of earlier containers are forgotten with the next look-up of the name.
        await until(lambda job=service, count=replicas: len(ask(stack, f'up{{job="{job}"}} == 1')) == count)
        assert ask(stack, f'streaming_build_info{{job="{service}"}}')
    assert await until(lambda: ask(stack, 'pulsar_subscription_back_log{subscription="graph-consumer"}'))
    for leg in ("graph", "vector"):
        await until(lambda leg=leg: ask(stack, f'sum(streaming_events_consumed_total{{consumer_type="{leg}"}}) > 0'))


def documented(stack, *words):
    """A command of docs/operating.md, by words in it, as arguments for podman with this stack's container."""
    text = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    commands = re.findall(r"^podman (exec janusgraph-demo_.+)$", text, re.MULTILINE)
    (command,) = (command for command in commands if all(word in command for word in words))
    return shlex.split(command.replace("janusgraph-demo", stack.project))


async def run_documented(stack, *words, seconds=90.0):
    return await asyncio.to_thread(stack.podman, *documented(stack, *words), timeout_seconds=seconds)


async def test_the_documented_commands_show_the_topics(stack, producer, unique):
    assert f"{PERSONS}\n" in await run_documented(stack, "topics list")
    stats = json.loads(re.search(r"\{.*\}", await run_documented(stack, "topics stats"), re.DOTALL)[0])
    assert {"graph-consumer", "vector-consumer"} <= set(stats["subscriptions"])
    events = [create_person_event(f"{unique}-{number}", "Ann", source="test") for number in range(5)]
    stack.pause("graph_consumer")
    try:
        consuming = asyncio.create_task(run_documented(stack, "consume -s"))
        # Messages from before the subscription are not shown, so it has to be there first.
        async with asyncio.timeout(60):
            while "debug-sub" not in await asyncio.to_thread(subscriptions, stack):
                await asyncio.sleep(0.5)
        await producer.send_many(events)
        consumed = await consuming
        assert consumed.count("got message") == 5
        assert all(event.entity_id in consumed for event in events)
        # Nothing of these five is acknowledged by the frozen consumer: they are its backlog.
        dump = await run_documented(stack, "peek-messages")
        assert "Message ID" in dump
        text = "".join(re.findall(r"\|(.{16})\|$", dump, re.MULTILINE))
        assert '"entity_type":"person"' in text
    finally:
        stack.unpause("graph_consumer")
    assert "debug-sub" in subscriptions(stack)
    await run_documented(stack, "unsubscribe")
    assert "debug-sub" not in subscriptions(stack)


def subscriptions(stack):
    return stack.exec("pulsar-cli", "bin/pulsar-admin", "topics", "subscriptions", PERSONS)


async def test_a_subscription_that_is_not_durable_leaves_nothing_behind(stack, producer, unique):
    consuming = asyncio.create_task(run_documented(stack, "NonDurable"))
    async with asyncio.timeout(80):
        number = 0
        while not consuming.done():
            number += 1
            await producer.send(create_person_event(f"{unique}-{number}", "Ann", source="test"))
            await asyncio.sleep(0.2)
    assert "got message" in await consuming
    assert "debug-sub" not in subscriptions(stack)


def test_the_services_run_with_few_rights(stack):
    for service in (*SERVICES, AUDIT):
        inspected = json.loads(stack.podman("inspect", stack.container(service)))[0]
        assert inspected["HostConfig"]["ReadonlyRootfs"]
        assert inspected["EffectiveCaps"] in (None, [])
        assert stack.exec(service, "id", "-u").strip() != "0"
        with pytest.raises(StackError, match="Read-only file system"):
            stack.exec(service, "touch", "/app/file")
        published = [port for port in (inspected["HostConfig"]["PortBindings"] or {}).values() if port]
        assert bool(published) == (service == "producer")
        assert all(binding["HostIp"] == "127.0.0.1" for port in published for binding in port)


def test_every_container_is_confined(stack):
    assert_confined(stack)


def test_logs_are_json(stack):
    for service in (*SERVICES, AUDIT):
        for line in stack.logs(service, lines=50).splitlines():
            entry = json.loads(line)
            assert {"event", "level", "timestamp"} <= set(entry)


def fleet(stack, *arguments, seconds=300):
    from tests.integration.conftest import ENVIRONMENT

    command = [str(Path(sys.prefix) / "bin" / "fleet"), *arguments, "--project", stack.project]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, check=False, env=os.environ | ENVIRONMENT
    )


def test_the_demonstration_shows_that_the_three_systems_agree(stack):
    result = fleet(stack, "demo")
    assert result.returncode == 0, result.stdout + result.stderr
    # With fixed numbers, those of seed 42.
    (shown,) = re.findall(r"```text\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert "│ all           │       920 │           920 │           920 │" in shown
    assert shown in "".join(f"{line.rstrip()}\n" for line in result.stdout.splitlines())
    assert "Search:" in result.stdout
    found = stack.podman(*documented(stack, "search"), timeout_seconds=120)
    assert "communication" in found


def test_the_demonstration_fails_when_a_leg_does_not_catch_up(stack, tmp_path):
    (tmp_path / "nodes.csv").write_text(
        "nodeid,isFraud,init_balance,fraudStep\n" + "".join(f"{uuid.uuid4().hex[:8]},0,1.00,-1\n" for _ in range(10))
    )
    (tmp_path / "transactions.csv").write_text("sourceNodeId,targetNodeId,value,time\n")
    freeze = threading.Timer(0, stack.pause, ["graph_consumer"])
    try:
        freeze.start()
        freeze.join()
        result = run_demo_only(stack, tmp_path)
    finally:
        stack.unpause("graph_consumer")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "JanusGraph: account" in result.stdout
    assert "missing" in result.stdout


def run_demo_only(stack, data):
    """The demonstration without bringing the stack up first, which a frozen consumer would not survive."""
    program = (
        "import asyncio, sys; from pathlib import Path; from rich.console import Console;"
        "from fleet.addresses import Addresses; from fleet.demo import run_demo;"
        "sys.exit(not asyncio.run(run_demo(Addresses.from_environment(), Path(sys.argv[1]), 5.0, Console())))"
    )
    from tests.integration.conftest import ENVIRONMENT

    return subprocess.run(
        [sys.executable, "-c", program, str(data)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | ENVIRONMENT,
    )


async def test_removing_pulsar_s_volume_under_the_services_is_survived(stack, graph, vector, unique):
    volume = f"{stack.project}_pulsar-data"
    stack.podman("rm", "-f", "-t", "10", stack.container("pulsar"))
    stack.podman("volume", "rm", volume)
    await asyncio.to_thread(stack.compose, "up", "-d", "pulsar", timeout_seconds=120)
    await asyncio.to_thread(stack.wait_ready, SECONDS)
    event = create_person_event(f"{unique}-new", "Ann", source="test")

    async def published():
        totals = await publish(stack.addresses.producer_url, [event])
        return totals["accepted"] == 1

    assert await published()
    await assert_in_both((graph, vector), expected(event))


async def test_down_and_up_keeps_the_data_and_takes_new_events(stack, graph, vector, unique):
    old = [create_person_event(f"{unique}-{number}", "Ann", source="test") for number in range(20)]
    await publish(stack.addresses.producer_url, old)
    await assert_in_both((graph, vector), expected(*old))
    await asyncio.to_thread(stack.down)
    assert stack.containers() == []
    started_at = time.monotonic()
    await asyncio.to_thread(stack.up)
    assert time.monotonic() - started_at < 300
    for reader in (graph, vector):
        assert (await compare(reader, expected(*old))).differences == []
    new = create_person_event(f"{unique}-new", "Ann", source="test")
    await publish(stack.addresses.producer_url, [new])
    await assert_in_both((graph, vector), expected(new))


async def test_up_again_is_harmless_and_restarts_nothing(stack):
    before = started(stack)
    await asyncio.to_thread(stack.up)
    assert started(stack) == before
