"""A subscription that is closed before it is there, or while its client does not return."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

import pulsar
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


class Message:
    """The position-th of those that were published in one batch."""

    def __init__(self, position, entry=7):
        self.place = (3, entry, position)

    def topic_name(self):
        return "persistent://public/banking/dlq-events"

    def data(self):
        return b"small"

    def message_id(self):
        return MessageId(*self.place)


@dataclass
class MessageId:
    ledger: int
    entry: int
    position: int

    def ledger_id(self):
        return self.ledger

    def entry_id(self):
        return self.entry

    def batch_index(self):
        return self.position


class Script:
    """A consumer that gives out what it is told to, batch by batch, and notes what it is told to acknowledge."""

    def __init__(self, *batches):
        self._batches = list(batches)
        self.acknowledged = []

    def is_connected(self):
        return True

    def batch_receive(self):
        if not self._batches:
            raise pulsar.Timeout("nothing")
        return self._batches.pop(0)

    def acknowledge(self, message):
        self.acknowledged.append(message.place)


@pytest.fixture
def scripted(monkeypatch):
    """A subscription whose queue grows after the fourth message; its second consumer is given the same batch again."""
    consumers = [Script([Message(position) for position in range(4)]), Script([Message(at) for at in range(6)])]
    clients = iter([Client(consumer) for consumer in consumers])
    monkeypatch.setattr(broker_module, "connect", lambda _options: next(clients))
    monkeypatch.setattr(broker_module, "_SETTLE_SECONDS", 0.1)
    return Subscription(BrokerOptions(), dead_letter_subscription()), consumers


def positions(deliveries):
    return [delivery.message.place[2] for delivery in deliveries]


async def test_what_is_settled_does_not_come_again_when_the_queue_grows(scripted):
    subscription, consumers = scripted
    first = await subscription.receive()
    assert positions(first) == [0, 1, 2, 3]
    await subscription.acknowledge(first)
    again = await subscription.receive()
    assert positions(again) == [4, 5]
    await subscription.acknowledge(again)
    # All of them, of the second consumer too: it acknowledges a published batch once it is whole.
    assert [place[2] for place in consumers[1].acknowledged] == [0, 1, 2, 3, 4, 5]


async def test_what_is_not_settled_comes_again_when_the_queue_grows(scripted):
    subscription, _ = scripted
    first = await subscription.receive()
    await subscription.acknowledge(first[:3])
    await subscription.acknowledge(first[:3])  # said twice, it counts once
    assert positions(await subscription.receive()) == [0, 1, 2, 3, 4, 5]


async def test_what_a_cancelled_receive_took_comes_again_when_the_queue_grows(scripted, monkeypatch):
    subscription, consumers = scripted
    given = threading.Event()
    take = consumers[0].batch_receive
    consumers[0]._batches = [[Message(0), Message(1)], [Message(at) for at in range(2, 8)]]

    def slowly():
        batch = take()
        given.wait(10)
        return batch

    monkeypatch.setattr(consumers[0], "batch_receive", slowly)
    receiving = asyncio.create_task(subscription.receive())
    await asyncio.sleep(0.1)
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    given.set()
    await subscription.acknowledge(await subscription.receive())
    assert positions(await subscription.receive()) == [0, 1, 2, 3, 4, 5]


async def test_a_broker_that_lost_its_topics_gives_the_same_places_to_other_messages(scripted, monkeypatch):
    subscription, _ = scripted
    await subscription.acknowledge(await subscription.receive())
    grown = [Script(), Script([Message(at) for at in range(6)])]
    clients = iter([Client(consumer) for consumer in grown])
    monkeypatch.setattr(broker_module, "connect", lambda _options: next(clients))
    assert await subscription.receive() == []
    await subscription.reopen()
    assert positions(await subscription.receive()) == [0, 1, 2, 3, 4, 5]
