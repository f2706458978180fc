"""What Pulsar's client fetches ahead, against the real broker: bounded by bytes, and nothing is missed for that."""

from __future__ import annotations

import asyncio
import threading
import uuid

import aiohttp
import pulsar
import pytest

from banking.streaming.broker import BrokerOptions, Outgoing, Publisher, Subscription, SubscriptionOptions, connect
from verify.reading import PartitionReader

MEBIBYTE = 1024 * 1024


@pytest.fixture(params=[0, 4], ids=["whole", "partitioned"])
def partitions(request):
    return request.param


@pytest.fixture
async def http(pulsar_admin_url):
    async with aiohttp.ClientSession(f"{pulsar_admin_url}/admin/v2/persistent/public/banking/") as http:
        yield http


@pytest.fixture
async def topic(http, partitions):
    """The short name of a topic of the test's own."""
    name = f"ahead-{uuid.uuid4()}"
    path = f"{name}/partitions" if partitions else name
    async with http.put(path, data=str(partitions or ""), headers={"Content-Type": "application/json"}) as response:
        assert response.status == 204
    yield name
    async with http.delete(path, params={"force": "true"}) as response:
        assert response.status == 204


@pytest.fixture
async def publish(pulsar_url, topic):
    publisher = Publisher(BrokerOptions(pulsar_url))

    async def publish(contents, key=None):
        await publisher.publish_all([Outgoing(topic, data, key or str(number)) for number, data in enumerate(contents)])

    yield publish
    await publisher.close()


@pytest.fixture
async def subscription(pulsar_url, topic):
    options = SubscriptionOptions([topic], "test", key_shared=True, receiver_queue_bytes=4 * MEBIBYTE)
    subscription = Subscription(BrokerOptions(pulsar_url), options)
    assert await subscription.receive() == []
    yield subscription
    await subscription.close()


@pytest.fixture
async def fetched_ahead(http, topic, partitions):
    """Tells how many messages the broker has sent out that are not acknowledged."""

    async def fetched_ahead():
        async with http.get(f"{topic}/{'partitioned-stats' if partitions else 'stats'}") as response:
            return (await response.json())["subscriptions"]["test"]["unackedMessages"]

    return fetched_ahead


async def drain(subscription, wanted, fetched_ahead, pause_seconds=0.0):
    """Receive and acknowledge; what was received, and the most that was fetched ahead, or acknowledged just now."""
    received, most = [], 0
    async with asyncio.timeout(60):
        while not {*received} >= {*wanted}:
            deliveries = await subscription.receive()
            received += [delivery.data for delivery in deliveries]
            await subscription.acknowledge(deliveries)
            await asyncio.sleep(pause_seconds)
            most = max(most, await fetched_ahead())
    return received, most


async def test_large_messages_are_fetched_a_few_at_a_time(subscription, publish, fetched_ahead):
    contents = [b"%06d" % number + bytes(100_000) for number in range(200)]
    await publish(contents)
    # The client gathers acknowledgements for a tenth of a second; what they are of would count.
    received, most = await drain(subscription, contents, fetched_ahead, pause_seconds=0.25)
    assert sorted(received) == contents
    assert 1 < most <= 4 * MEBIBYTE / 100_000


async def test_small_messages_are_fetched_by_hundreds(subscription, publish, fetched_ahead):
    contents = [b"%06d" % number for number in range(8000)]
    await publish(contents)
    received, most = await drain(subscription, contents, fetched_ahead)
    assert sorted(received) == contents
    assert most >= 900


@pytest.mark.parametrize("partitions", [0], ids=["whole"])
async def test_what_was_received_is_settled_before_the_queue_changes(subscription, publish, fetched_ahead):
    """Else it would be delivered, and written, again."""
    contents = [b"%06d" % number for number in range(200)]
    for data in contents:
        await publish([data])  # a batch of its own: of one that is half received, the broker sends all again
    received = []
    waiting = []
    async with asyncio.timeout(60):
        while len(received) < len(contents):
            deliveries = await subscription.receive()
            received += [delivery.data for delivery in deliveries]
            waiting.append(asyncio.create_task(_acknowledge_later(subscription, deliveries)))
        await asyncio.gather(*waiting)
    assert sorted(received) == contents


async def _acknowledge_later(subscription, deliveries):
    await asyncio.sleep(0.3)
    await subscription.acknowledge(deliveries)


@pytest.mark.parametrize("partitions", [0], ids=["whole"])
async def test_the_audit_reads_each_message_once_and_in_order_whatever_their_sizes(pulsar_url, topic, publish):
    large = [b"large %06d" % number + bytes(200_000) for number in range(40)]
    small = [b"small %06d" % number for number in range(6000)]
    for contents in (small[:3000], large, small[3000:]):
        await publish(contents, key="one")
    contents = [*small[:3000], *large, *small[3000:]]

    def read():
        broker = BrokerOptions(pulsar_url)
        client = connect(broker)
        try:
            reader = PartitionReader(client, broker, topic, 0, pulsar.MessageId.earliest, most_bytes=8 * MEBIBYTE)
            read = [delivery.data for delivery, _ in reader.messages(None, threading.Event())]
            reader.close()
        finally:
            client.close()
        return read

    assert await asyncio.to_thread(read) == contents
