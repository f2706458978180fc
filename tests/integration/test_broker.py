"""Topics, publishing and receiving against the real broker."""

from __future__ import annotations

import asyncio
import uuid

import aiohttp
import pytest

from banking.streaming.broker import (
    BrokerOptions,
    BrokerUnavailableError,
    Outgoing,
    Publisher,
    Subscription,
    SubscriptionOptions,
)
from banking.streaming.events import InvalidEventError, create_person_event, decode_event
from banking.streaming.producer import AsyncEntityProducer, EntityProducer, FlushTimeoutError
from banking.streaming.topics import TOPIC_SUBSCRIPTIONS, ProvisioningError, TopicProvisioner

PERSONS = "persistent/public/banking/persons-events"


@pytest.fixture
def unique():
    return f"broker-{uuid.uuid4()}"


@pytest.fixture
async def subscription(pulsar_url, pulsar_admin_url, unique):
    """A subscription of the test's own that starts at the end of the topic."""
    async with aiohttp.ClientSession(f"{pulsar_admin_url}/admin/v2/") as http:
        latest = {"ledgerId": 2**63 - 1, "entryId": 2**63 - 1, "partitionIndex": -1}
        async with http.put(f"{PERSONS}/subscription/{unique}", json=latest) as response:
            assert response.status == 204
        # Of one length from the start: what is not acknowledged would come again when the queue is made longer.
        options = SubscriptionOptions(["persons-events"], unique, key_shared=True, receiver_queue_bytes=2**40)
        subscription = Subscription(BrokerOptions(pulsar_url), options)
        yield subscription
        await subscription.close()
        async with http.delete(f"{PERSONS}/subscription/{unique}", params={"force": "true"}) as response:
            assert response.status == 204


def person(unique, number=0, **options):
    return create_person_event(f"{unique}-{number}", "Ann", {"number": number}, source="test", **options)


async def take(subscription, count, mine, seconds=20):
    """The next deliveries of the test's own events."""
    taken = []
    async with asyncio.timeout(seconds):
        while len(taken) < count:
            deliveries = await subscription.receive()
            taken += [delivery for delivery in deliveries if (delivery.key or "").startswith(mine)]
    return taken


async def test_provisioning_makes_what_is_missing_once_whoever_comes_first(pulsar_admin_url):
    async with aiohttp.ClientSession(f"{pulsar_admin_url}/admin/v2/") as http:
        path = "persistent/public/banking/vector-retry-events/subscription/vector-consumer"
        async with http.delete(path, params={"force": "true"}) as response:
            assert response.status in {204, 404}
    provisioners = [TopicProvisioner(pulsar_admin_url) for _ in range(4)]
    made = await asyncio.gather(*(provisioner.ensure() for provisioner in provisioners))
    # A service of the running stack may have been faster than all four.
    assert sum(made) <= 1
    assert await provisioners[0].ensure() is False
    await asyncio.gather(*(provisioner.close() for provisioner in provisioners))
    async with aiohttp.ClientSession(f"{pulsar_admin_url}/admin/v2/") as http:
        for topic, subscriptions in TOPIC_SUBSCRIPTIONS.items():
            async with http.get(f"persistent/public/banking/{topic}/subscriptions") as response:
                assert set(subscriptions) <= set(await response.json())
        async with http.get("namespaces/public/banking/retention") as response:
            assert await response.json() == {"retentionTimeInMinutes": -1, "retentionSizeInMB": -1}


async def test_provisioning_says_which_request_failed():
    async with TopicProvisioner("http://127.0.0.1:9", timeout_seconds=2) as provisioner:
        with pytest.raises(ProvisioningError, match="GET /persistent/public/banking"):
            await provisioner.ensure()


async def test_what_is_published_arrives_unchanged_with_its_key_and_in_order(pulsar_url, subscription, unique):
    events = [person(unique, number % 50) for number in range(1000)]
    async with AsyncEntityProducer(pulsar_url) as producer:
        report = await producer.send_many(events)
    assert (report.published, report.failed) == (1000, 0)
    deliveries = await take(subscription, 1000, unique)
    received = [decode_event(delivery.data) for delivery in deliveries]
    assert sorted(received, key=lambda event: event.version) == events
    assert all(delivery.key == event.entity_id for delivery, event in zip(deliveries, received, strict=True))
    assert {delivery.topic for delivery in deliveries} == {"persons-events"}
    for entity_id in {event.entity_id for event in events}:
        versions = [event.version for event in received if event.entity_id == entity_id]
        assert versions == sorted(versions)


async def test_what_is_not_acknowledged_comes_again(pulsar_url, subscription, unique):
    async with AsyncEntityProducer(pulsar_url) as producer:
        await producer.send_many([person(unique, number) for number in range(10)])
    first = await take(subscription, 10, unique)
    kept = {"-3", "-7"}
    await subscription.acknowledge([delivery for delivery in first if delivery.key[-2:] not in kept])
    await asyncio.sleep(0.5)
    await subscription.reopen()
    again = {delivery.key[-2:] for delivery in await take(subscription, 2, unique)}
    assert kept <= again


async def test_an_invalid_event_is_reported_and_the_others_go(pulsar_url, subscription, unique):
    bad = person(unique, 1, metadata={"share": float("nan")})

    async def stream():
        for event in (person(unique, 0), bad, person(unique, 2)):
            yield event

    async with AsyncEntityProducer(pulsar_url) as producer:
        report = await producer.send_many(stream())
        with pytest.raises(InvalidEventError, match=r"metadata\.share"):
            await producer.send(bad)
    assert report.published == 2
    assert [(failure.event_id, failure.entity_id) for failure in report.failures] == [(bad.event_id, bad.entity_id)]
    assert "metadata.share" in report.failures[0].error
    assert {delivery.key for delivery in await take(subscription, 2, unique)} == {f"{unique}-0", f"{unique}-2"}


async def test_in_flight_is_bounded_by_waiting(pulsar_url, unique):
    publisher = Publisher(BrokerOptions(pulsar_url), max_in_flight=10)
    most = 0
    for number in range(300):
        event = person(unique, number)
        await publisher.submit(Outgoing("persons-events", event.to_bytes(), event.entity_id), lambda error: None)
        most = max(most, publisher.in_flight)
    await publisher.flush()
    assert most <= 10
    assert publisher.in_flight == 0
    await publisher.close()


def test_the_synchronous_producer_publishes_and_reports(pulsar_url, unique):
    with EntityProducer(pulsar_url) as producer:
        for number in range(20):
            producer.send(person(unique, number))
        producer.flush()
        report = producer.send_many(person(unique, number) for number in range(2000))
    assert (report.published, report.failed) == (2000, 0)


async def test_a_broker_that_is_away_is_an_error_and_never_a_mock():
    options = BrokerOptions("pulsar://127.0.0.1:9", operation_timeout_seconds=2)
    async with AsyncEntityProducer(broker=options) as producer:
        with pytest.raises(BrokerUnavailableError):
            await producer.send(person("nowhere"))


def test_a_broker_that_is_away_is_an_error_for_synchronous_code_too():
    options = BrokerOptions("pulsar://127.0.0.1:9", operation_timeout_seconds=2)
    with EntityProducer(broker=options) as producer, pytest.raises(BrokerUnavailableError):
        producer.send(person("nowhere"))


async def test_a_topic_that_does_not_exist_is_named(pulsar_url):
    publisher = Publisher(BrokerOptions(pulsar_url, operation_timeout_seconds=5))
    with pytest.raises(BrokerUnavailableError, match="no-such-topic"):
        await publisher.publish(Outgoing("no-such-topic", b"x"))
    await publisher.close()


async def test_a_flush_that_runs_out_of_time_says_how_many_are_unsettled(pulsar_url, unique):
    async with AsyncEntityProducer(pulsar_url) as producer:
        await producer.send(person(unique))
        sending = asyncio.create_task(producer.send_many(person(unique, number) for number in range(5000)))
        # The first breath that a long loop of events takes: some are handed over, none of the last.
        await asyncio.sleep(0)
        with pytest.raises(FlushTimeoutError, match=r"[0-9]+ events are unsettled") as caught:
            await producer.flush(timeout_seconds=0)
        assert 0 < caught.value.unsettled < 5000
        assert (await sending).published == 5000


async def test_a_long_loop_of_events_leaves_the_event_loop_to_others(pulsar_url, unique):
    async with AsyncEntityProducer(pulsar_url) as producer:
        await producer.send(person(unique))
        sending = asyncio.create_task(producer.send_many(person(unique, number) for number in range(5000)))
        turns = 0
        while not sending.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 5000 / 200
        assert (await sending).published == 5000
