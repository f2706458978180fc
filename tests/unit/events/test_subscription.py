"""A subscription that is closed before it is there, or while its client does not return."""

from __future__ import annotations

import asyncio
import threading

import pytest

from banking.streaming import broker as broker_module
from banking.streaming.broker import BrokerOptions, BrokerUnavailableError, Subscription
from banking.streaming.dlq_handler import dead_letter_subscription


async def test_one_that_is_to_be_reopened_while_it_subscribes_first_ends_that():
    """Pulsar's client, closed at that moment, would say that it has subscribed, or say nothing for ever."""
    broker = BrokerOptions("pulsar://127.0.0.1:1", operation_timeout_seconds=1)
    subscription = Subscription(broker, dead_letter_subscription())
    for _ in range(2):
        receiving = asyncio.create_task(subscription.receive())
        await asyncio.sleep(0.2)
        async with asyncio.timeout(20):
            await subscription.reopen()
            with pytest.raises(BrokerUnavailableError, match="cannot subscribe"):
                await receiving
        assert not subscription.connected
    await subscription.close()


class Consumer:
    """Pulsar's consumer after its connection broke: calls never return. No broker can be made to do that at will."""

    def __init__(self, stuck):
        self._stuck = stuck
        self.entered = threading.Event()

    def is_connected(self):
        return not self._stuck

    def batch_receive(self):
        self._wait()
        return []

    def acknowledge(self, _message):
        self._wait()

    def _wait(self):
        self.entered.set()
        if self._stuck:
            threading.Event().wait()


class Client:
    def __init__(self, consumer):
        self._consumer = consumer

    def get_topic_partitions(self, topic):
        return [topic]

    def subscribe(self, *_arguments, **_options):
        return self._consumer

    def close(self):
        pass


class Received:
    message = None


@pytest.fixture
def consumers(monkeypatch):
    """The first consumer that is made is stuck, those after it are not."""
    made = [Consumer(stuck=True), Consumer(stuck=False)]
    clients = iter([Client(consumer) for consumer in made])
    monkeypatch.setattr(broker_module, "connect", lambda _options: next(clients))
    return made


async def test_a_receive_that_never_returns_is_given_up_when_the_subscription_is_made_anew(consumers):
    subscription = Subscription(BrokerOptions(), dead_letter_subscription())
    receiving = asyncio.create_task(subscription.receive())
    await asyncio.to_thread(consumers[0].entered.wait, 10)
    async with asyncio.timeout(10):
        await subscription.reopen()
        with pytest.raises(BrokerUnavailableError, match="is made anew"):
            await receiving
        assert await subscription.receive() == []
        assert subscription.connected
        await subscription.close()


async def test_an_acknowledgement_that_never_returns_holds_nobody_up(consumers):
    subscription = Subscription(BrokerOptions(), dead_letter_subscription())
    receiving = asyncio.create_task(subscription.receive())
    await asyncio.to_thread(consumers[0].entered.wait, 10)
    consumers[0].entered.clear()
    acknowledging = asyncio.create_task(subscription.acknowledge([Received()]))
    await asyncio.to_thread(consumers[0].entered.wait, 10)
    async with asyncio.timeout(10):
        await subscription.reopen()
        await acknowledging
        with pytest.raises(BrokerUnavailableError):
            await receiving
        assert await subscription.receive() == []
        await subscription.close()
