"""Pulsar for asyncio: publishing and receiving that cross between the client's threads and the loop once a batch.

Receipts of published messages, received messages and acknowledgements each cost a thread hop, and a hop a message is
what makes `pulsar.asyncio` slow; here one hop carries all that has gathered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
import pulsar
import stamina

from banking.streaming.calls import CallThread
from banking.streaming.receiver_queue import ReceiverQueue
from banking.streaming.topics import full_name, ordering_key, short_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Receipt = Callable[["PublishError | None"], None]

BREATH_MESSAGES = 200
"""How many messages are handed over at most before the event loop gets its turn."""

MAX_WHOLE_BYTES = 5 * 1024 * 1024 - 64 * 1024
"""Larger messages go in chunks: with key and properties they would not fit the broker's 5 MiB. No event is that large,
but what somebody else has published may be, and then so is its dead letter."""

GATHER_SECONDS = 0.005
"""How long receipts gather while more are to come; the last one outstanding waits for nothing."""

MAX_IN_FLIGHT = 5000
"""Messages without a receipt, at most, where nothing else is said: enough for brokers that take tens of ms."""

_REPEATS_WITHIN = 5000
"""How many messages after a subscription was made anew may still be what it had before."""

_MOST_PARTITIONS = 1024
"""A topic has, to judge by."""

_SETTLE_SECONDS = 2.0
"""How long a subscription that is made anew waits for what it has given out to be settled: the rest comes again."""

_Opened = TypeVar("_Opened")
_OK = pulsar.Result.Ok.value  # comparing the members themselves costs four times as much
_CLIENT_LOGGER = logging.getLogger("pulsar")


class BrokerError(Exception):
    """Base of the errors that have to do with the broker."""


class BrokerUnavailableError(BrokerError):
    """The broker could not be reached, or has no such topic yet: try again later."""


class PublishError(BrokerError):
    """A message that the broker did not confirm; it may or may not be stored."""


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """How to reach the broker.

    Attributes:
        url: Such as `pulsar://localhost:6650` or `pulsar+ssl://…`.
        token: A token where authentication is on.
        tls_trust_certs_file: CA certificates for `pulsar+ssl`.
        operation_timeout_seconds: The limit of connecting, subscribing and making a producer.
        send_timeout_seconds: How long a message may wait for its receipt, reconnections included.
    """

    url: str = "pulsar://localhost:6650"
    token: str | None = None
    tls_trust_certs_file: str | None = None
    operation_timeout_seconds: int = 30
    send_timeout_seconds: float = 30.0


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A message to publish.

    Attributes:
        topic: The topic's short name.
        data: The content.
        key: The partition key, the entity id as a rule.
        properties: Application properties.
        deliver_after: A delay before consumers of Shared and Key_Shared subscriptions get it.
    """

    topic: str
    data: bytes
    key: str | None = None
    properties: Mapping[str, str] | None = None
    deliver_after: timedelta | None = None


class BatchPlace(NamedTuple):
    """Where a message stands in its partition: in which batch, as it was published, and where in that."""

    ledger: int
    entry: int
    position: int


class Delivery:
    """A received message, to be acknowledged through the subscription that received it.

    Attributes:
        message: The client's.
        data: The content.
        partition: The full name of the partition it came from, or of the topic itself where that has none.
    """

    __slots__ = ("_properties", "data", "message", "partition")

    def __init__(self, message: Any) -> None:
        self.message = message
        self.data: bytes = message.data()
        self.partition: str = message.topic_name()
        self._properties: dict[str, str] | None = None

    @property
    def place(self) -> BatchPlace:
        """Where it stands in its partition."""
        message_id = self.message.message_id()
        return BatchPlace(message_id.ledger_id(), message_id.entry_id(), message_id.batch_index())

    @property
    def topic(self) -> str:
        """The short name of the topic it came from."""
        return short_name(self.partition)

    @property
    def key(self) -> str | None:
        """The partition key; None too where another client's is no UTF-8, which Python's client cannot give."""
        try:
            return self.message.partition_key() or None
        except UnicodeDecodeError:
            return None

    @property
    def properties(self) -> dict[str, str]:
        """The application properties; none where another client's are no UTF-8, which Python's client cannot give."""
        if self._properties is None:
            try:
                self._properties = self.message.properties()
            except UnicodeDecodeError:
                self._properties = {}
        return self._properties

    @property
    def published_seconds(self) -> float:
        """When its producer handed it over, in seconds since 1970."""
        return float(self.message.publish_timestamp()) / 1000

    @property
    def message_id(self) -> str:
        """The broker's id of it, unique within the topic."""
        return str(self.message.message_id())


def connect(options: BrokerOptions) -> pulsar.Client:
    """A client; it connects when first used."""
    return pulsar.Client(
        options.url,
        authentication=pulsar.AuthenticationToken(options.token) if options.token else None,
        tls_trust_certs_file_path=options.tls_trust_certs_file,
        # Off unless asked for: any certificate of that authority would pass for the broker's.
        tls_validate_hostname=True,
        operation_timeout_seconds=options.operation_timeout_seconds,
        io_threads=1,
        message_listener_threads=1,
        # A Python logger would be called for every message at DEBUG, whatever its level: that halves the throughput,
        # and content that is not UTF-8 would be printed to standard output. Errors reach the caller as exceptions.
        logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, os.devnull),
    )


def open_producer(
    client: pulsar.Client, options: BrokerOptions, topic: str, max_pending: int, *, chunking: bool = False
) -> pulsar.Producer:
    """A producer of a topic, batching by ordering key, or chunking. Blocks: call it off the event loop.

    Raises:
        BrokerUnavailableError: The broker is away or has no such topic.
    """
    make = partial(
        client.create_producer,
        full_name(topic),
        send_timeout_millis=int(options.send_timeout_seconds * 1000),
        max_pending_messages=max_pending,
        block_if_queue_full=False,
        batching_enabled=not chunking,
        chunking_enabled=chunking,
        batching_type=pulsar.BatchingType.KeyBased,
        batching_max_messages=2000,
        batching_max_allowed_size_in_bytes=1 << 20,
        batching_max_publish_delay_ms=5,
        # C++ gives each partition an equal part of this, and fails what is over that: any one may get all messages.
        max_pending_messages_across_partitions=max_pending * _MOST_PARTITIONS,
    )
    return _opened(make, options, f"no producer for {topic}")


def open_reader(
    client: pulsar.Client,
    options: BrokerOptions,
    topic: str,
    start: pulsar.MessageId = pulsar.MessageId.earliest,
    *,
    read_ahead: int = 1000,
    role: str = "",
) -> pulsar.Reader:
    """A reader of a topic from after a message on. Blocks: call it off the event loop.

    Args:
        client: Of the broker. Nobody may close it meanwhile: what is being opened then is waited for without end.
        options: The client's.
        topic: The topic's short name.
        start: The message before the first one.
        read_ahead: How many messages the client holds.
        role: Whose it is. Where authorisation is on, a role's subscriptions, a reader's too, begin with its name.

    Raises:
        BrokerUnavailableError: The broker is away or has no such topic.
    """
    make = partial(
        client.create_reader, full_name(topic), start, receiver_queue_size=read_ahead, subscription_role_prefix=role
    )
    return _opened(make, options, f"cannot read {topic}")


def _opened(make: Callable[[], _Opened], options: BrokerOptions, problem: str) -> _Opened:
    """What `make` gives, which is called again when a connection breaks while it is made.

    A refused connection is tried again by the client itself.
    """
    caller = stamina.RetryingCaller(
        attempts=None, timeout=options.operation_timeout_seconds, wait_max=2.0, wait_jitter=0.1
    )
    try:
        return caller(pulsar.ConnectError, make)
    except pulsar.PulsarException as error:
        raise BrokerUnavailableError(f"{problem}: {error}") from error


def send(producer: pulsar.Producer, message: Outgoing, callback: Callable[[Any, Any], None]) -> None:
    """Hand one message to the client; `callback(result, message_id)` runs on the client's thread and must not raise."""
    producer.send_async(
        message.data,
        callback,
        properties=dict(message.properties) if message.properties else None,
        partition_key=message.key,
        ordering_key=ordering_key(message.key) if message.key else None,
        deliver_after=message.deliver_after,
    )


def failure(result: Any) -> PublishError | None:
    """The error that a receipt's result stands for."""
    return None if result.value == _OK else PublishError(f"not confirmed by the broker: {result}")


class Publisher:
    """Publishes from an event loop, with a bound on what is in flight. Belongs to the loop that first uses it.

    When the bound is reached, all receipts are waited for: sending, and taking receipts, by turns. Done at once, they
    contend for the interpreter's lock message by message, which makes both a third slower.

    Args:
        options: How to reach the broker.
        max_in_flight: Messages without a receipt, at most.
        max_in_flight_bytes: Their bytes, at most; one larger message still goes alone.
    """

    def __init__(
        self, options: BrokerOptions, *, max_in_flight: int = MAX_IN_FLIGHT, max_in_flight_bytes: int = 64 * 1024 * 1024
    ) -> None:
        self._options = options
        self._max_in_flight = max_in_flight
        self._max_in_flight_bytes = max_in_flight_bytes
        self._client: pulsar.Client | None = None
        # By topic, and whether they chunk.
        self._producers: dict[tuple[str, bool], pulsar.Producer] = {}
        self._opening: dict[tuple[str, bool], asyncio.Lock] = {}
        self._receipts: deque[tuple[Receipt, int, Any]] = deque()
        self._draining = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._in_flight_bytes = 0
        self._room = asyncio.Event()
        self._idle = asyncio.Event()
        self._room.set()
        self._idle.set()
        self._submitted = 0
        self.in_flight = 0

    def connected(self, topics: Iterable[str]) -> bool:
        """Whether the producers of these topics are open and connected."""
        producers = [self._producers.get((topic, False)) for topic in topics]
        return all(producer is not None and producer.is_connected() for producer in producers)

    async def open(self, topics: Iterable[str]) -> None:
        """Open the producers of these topics, those that are not open yet.

        Raises:
            BrokerUnavailableError: The broker is away or lacks a topic; call again later.
        """
        for topic in topics:
            await self._open(topic)

    async def publish(self, message: Outgoing) -> None:
        """Publish one message and wait for its receipt.

        Raises:
            BrokerUnavailableError: The broker is away or has no such topic; the message was not sent.
            PublishError: The broker did not confirm the message in time.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def settle(error: PublishError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        await self.submit(message, settle)
        await future

    async def submit(self, message: Outgoing, receipt: Receipt) -> None:
        """Hand one message over, waiting for room but not for the receipt.

        Args:
            message: What to publish.
            receipt: Called in the loop with None once the broker has stored it, or with the error.

        Raises:
            BrokerUnavailableError: The broker is away or has no such topic; `receipt` is not called.
        """
        self._submitted += 1
        if self._submitted % BREATH_MESSAGES == 0:
            await asyncio.sleep(0)  # a long loop of submits with room for all would hold up everything else
        while not self._room.is_set():
            await self._room.wait()
        chunking = len(message.data) > MAX_WHOLE_BYTES
        producer = self._producers.get((message.topic, chunking)) or await self._open(message.topic, chunking=chunking)
        self._hand_over(producer, message, receipt)

    def try_submit(self, message: Outgoing, receipt: Receipt) -> bool:
        """Hand one message over if that takes no waiting; False where `submit` has to do it.

        Who calls this in a loop yields to the event loop every `BREATH_MESSAGES`.
        """
        producer = self._producers.get((message.topic, len(message.data) > MAX_WHOLE_BYTES))
        if producer is None or not self._room.is_set():
            return False
        self._hand_over(producer, message, receipt)
        return True

    def _hand_over(self, producer: pulsar.Producer, message: Outgoing, receipt: Receipt) -> None:
        size = len(message.data)
        self.in_flight += 1
        self._in_flight_bytes += size
        self._idle.clear()
        if self.in_flight >= self._max_in_flight or self._in_flight_bytes >= self._max_in_flight_bytes:
            self._room.clear()
        if self._loop is None:
            self._loop = asyncio.get_running_loop()  # kept: on Python 3.11, to ask for it is a system call
        send(producer, message, partial(self._on_client_thread, self._loop, receipt, size))

    def _on_client_thread(
        self, loop: asyncio.AbstractEventLoop, receipt: Receipt, size: int, result: Any, _message_id: Any
    ) -> None:
        self._receipts.append((receipt, size, result))
        # Read beside the loop that writes it: seen too high, the timer brings what this would have.
        complete = len(self._receipts) >= self.in_flight
        if complete or not self._draining:
            self._draining = True
            try:
                loop.call_soon_threadsafe(self._drain if complete else self._drain_later)
            except RuntimeError:  # the loop has closed; nobody waits, and raising here would end the process
                _CLIENT_LOGGER.debug("a receipt came after the event loop had closed")

    async def publish_all(self, messages: Sequence[Outgoing]) -> None:
        """Publish messages and wait until all of them are stored.

        Raises:
            BrokerError: Not all of them are known to be stored. The connection is dropped then, since it may be one
                to a broker that has lost its topics.
        """
        failures: list[PublishError] = []
        settled = asyncio.Event()
        waiting = len(messages)

        def receipt(error: PublishError | None) -> None:
            nonlocal waiting
            waiting -= 1
            if error is not None:
                failures.append(error)
            if waiting == 0:
                settled.set()

        for message in messages:
            await self.submit(message, receipt)
        if messages:
            await settled.wait()
        if failures:
            await self.reset()
            raise failures[0]

    async def flush(self) -> None:
        """Wait until nothing is in flight."""
        await self._idle.wait()

    async def reset(self) -> None:
        """Drop the connection; the next message opens a new one. For a broker that lost its topics."""
        client, self._client = self._client, None
        self._producers.clear()
        if client is not None:
            await asyncio.to_thread(_close_quietly, client)

    async def close(self) -> None:
        """Close the connection. What is in flight then is reported as failed: flush first."""
        await self.reset()
        self._drain()

    async def _open(self, topic: str, *, chunking: bool = False) -> pulsar.Producer:
        lock = self._opening.setdefault((topic, chunking), asyncio.Lock())
        async with lock:
            if (topic, chunking) not in self._producers:
                if self._client is None:
                    self._client = connect(self._options)
                self._producers[topic, chunking] = await asyncio.to_thread(
                    open_producer, self._client, self._options, topic, self._max_in_flight + 1, chunking=chunking
                )
            return self._producers[topic, chunking]

    def _drain_later(self) -> None:
        asyncio.get_running_loop().call_later(GATHER_SECONDS, self._drain)

    def _drain(self) -> None:
        self._draining = False
        while self._receipts:
            receipt, size, result = self._receipts.popleft()
            self.in_flight -= 1
            self._in_flight_bytes -= size
            receipt(failure(result))
        if self.in_flight == 0:
            self._idle.set()
            self._room.set()


@dataclass(frozen=True, slots=True)
class SubscriptionOptions:
    """What to receive, and how much at once.

    Attributes:
        topics: Short names of the topics.
        name: The subscription.
        key_shared: Key_Shared (an entity's events go to one consumer) or else Shared (delays are honoured).
        batch_messages: Messages in one batch, at most.
        batch_bytes: Their bytes, at most, save a single larger message.
        batch_wait_seconds: How long a batch may wait to fill.
        receiver_queue: Messages the client fetches ahead, per topic, at most.
        receiver_queue_bytes: Their bytes in all, by the mean size of those that came last.
    """

    topics: Sequence[str]
    name: str
    key_shared: bool
    batch_messages: int = 500
    batch_bytes: int = 4 * 1024 * 1024
    batch_wait_seconds: float = 0.02
    receiver_queue: int = 1000
    receiver_queue_bytes: int = 16 * 1024 * 1024


class _Receiving:
    """A consumer, the threads in which its blocking calls are made, and what it has given out.

    Args:
        consumer: Of Pulsar's client.

    Attributes:
        unsettled: What was given out and is not acknowledged.
        settled: Set while there is nothing of that.
        last: Where the last message of each partition stood.
        is_whole: Whether everything that the consumer gave was given out.
    """

    def __init__(self, consumer: pulsar.Consumer) -> None:
        self.consumer = consumer
        self.receiver = CallThread("pulsar-receive")
        self.acknowledger = CallThread("pulsar-acknowledge")
        self.unsettled: set[Delivery] = set()
        self.settled = asyncio.Event()
        self.settled.set()
        self.last: dict[str, BatchPlace] = {}
        self.is_whole = True

    async def receive(self) -> list[Delivery]:
        """The next batch."""
        try:
            deliveries = await self.receiver.call(_receive, self.consumer)
        except BaseException:
            self.is_whole = False
            raise
        if deliveries:
            self.unsettled.update(deliveries)
            self.settled.clear()
            last = {delivery.partition: delivery for delivery in deliveries}
            self.last.update((partition, delivery.place) for partition, delivery in last.items())
        return deliveries

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge messages, some of which may be of an earlier consumer."""
        try:
            await self.acknowledger.call(_acknowledge, self.consumer, [delivery.message for delivery in deliveries])
        finally:
            self.unsettled.difference_update(deliveries)
            if not self.unsettled:
                self.settled.set()


class _Halved:
    """What comes again although it is settled, after a subscription was made anew: the broker knows no halves of the
    batches that were published, and the last one received of each partition may be such a half.

    Args:
        last: What was received last, by partition.
        earlier: What has not come again since the time before.
    """

    def __init__(self, last: Mapping[str, BatchPlace], earlier: _Halved | None) -> None:
        self._last: dict[str, BatchPlace] = dict(earlier._last) if earlier is not None else {}
        for partition, place in last.items():
            before = self._last.get(partition, place)
            self._last[partition] = max(before, place) if before[:2] == place[:2] else place
        self._left = _REPEATS_WITHIN

    @property
    def is_over(self) -> bool:
        """Whether no more is to be expected."""
        return self._left <= 0

    def split(self, deliveries: Sequence[Delivery]) -> tuple[list[Delivery], list[Delivery]]:
        """Those that are settled, and the others."""
        repeats: list[Delivery] = []
        fresh: list[Delivery] = []
        for delivery in deliveries:
            last = self._last.get(delivery.partition)
            is_repeat = last is not None and _is_of_batch(delivery, last)
            (repeats if is_repeat else fresh).append(delivery)
        self._left -= len(deliveries)
        return repeats, fresh


def _is_of_batch(delivery: Delivery, last: BatchPlace) -> bool:
    """Whether it is of the same batch, and not after that place."""
    place = delivery.place
    return place[:2] == last[:2] and place.position <= last.position


class Subscription:
    """Receives batches and acknowledges them. Opens when first used; `reopen` starts over after the broker lost it.

    Args:
        broker: How to reach the broker.
        options: What to receive.
    """

    def __init__(self, broker: BrokerOptions, options: SubscriptionOptions) -> None:
        self._broker = broker
        self._options = options
        self._client: pulsar.Client | None = None
        self._receiving: _Receiving | None = None
        self._opening = asyncio.Lock()
        self._queue = ReceiverQueue(len(options.topics), options.receiver_queue, options.receiver_queue_bytes)
        self._resizing = False
        self._halved: _Halved | None = None

    @property
    def name(self) -> str:
        """The subscription's name."""
        return self._options.name

    @property
    def connected(self) -> bool:
        """Whether every topic's consumer is connected, or about to be with a queue of another length."""
        return self._resizing or (self._receiving is not None and self._receiving.consumer.is_connected())

    async def receive(self) -> list[Delivery]:
        """The next batch, empty when nothing came within the batch's wait.

        Raises:
            BrokerUnavailableError: Subscribing failed, or `reopen` came between; call again later.
        """
        if self._queue.wanted != self._queue.length:
            await self._resize()
        receiving = self._receiving or await self._open()
        deliveries = await receiving.receive()
        for delivery in deliveries:
            self._queue.note(delivery.partition, len(delivery.data))
        if self._halved is not None:
            deliveries = await self._without_repeats(deliveries, self._halved)
        return deliveries

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge what was done with. One whose connection is gone may be delivered again."""
        if self._receiving is not None:
            with contextlib.suppress(BrokerUnavailableError):  # `reopen` came between
                await self._receiving.acknowledge(deliveries)

    async def reopen(self) -> None:
        """Close and let the next `receive` subscribe anew; what is unacknowledged comes again."""
        self._halved = None  # a broker that lost its topics gives the same places to other messages
        # A client that is closed while it subscribes reports success, or nothing for ever. It ends by its time limit.
        async with self._opening:
            client, self._client = self._client, None
            receiving, self._receiving = self._receiving, None
        if receiving is not None:
            # Where the connection broke, a call of the consumer may never return, not even when its client is closed.
            for thread in (receiving.receiver, receiving.acknowledger):
                thread.give_up(BrokerUnavailableError(f"subscription {self.name} is made anew"))
        if client is not None:
            await asyncio.to_thread(_close_quietly, client)

    async def close(self) -> None:
        """Close for good."""
        await self.reopen()

    async def _resize(self) -> None:
        """Subscribe anew with a queue of the wanted length: the client's cannot be changed."""
        receiving, halved = self._receiving, self._halved
        if receiving is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SETTLE_SECONDS):
                    await receiving.settled.wait()
                    if receiving.is_whole:
                        halved = _Halved(receiving.last, halved)
        self._resizing = True
        try:
            await self.reopen()
            self._halved = halved
            self._queue.resize()
            await self._open()
        finally:
            self._resizing = False

    async def _without_repeats(self, deliveries: list[Delivery], halved: _Halved) -> list[Delivery]:
        """Those that are not settled; the others are acknowledged once more."""
        repeats, fresh = halved.split(deliveries)
        if halved.is_over:
            self._halved = None
        if repeats:
            await self.acknowledge(repeats)
        return fresh

    async def _open(self) -> _Receiving:
        async with self._opening:
            if self._receiving is None:
                if self._client is None:
                    self._client = connect(self._broker)
                consumer = await asyncio.to_thread(_subscribe, self._client, self._options, self._queue.length)
                self._receiving = _Receiving(consumer)
            return self._receiving


def _subscribe(client: pulsar.Client, options: SubscriptionOptions, queue: int) -> pulsar.Consumer:
    policy = pulsar.ConsumerBatchReceivePolicy(
        options.batch_messages, options.batch_bytes, int(options.batch_wait_seconds * 1000)
    )
    topics = [full_name(topic) for topic in options.topics]
    try:
        # Each partition has a queue of its own.
        partitions = sum(len(client.get_topic_partitions(topic)) for topic in topics)
        return client.subscribe(
            topics,
            options.name,
            consumer_type=pulsar.ConsumerType.KeyShared if options.key_shared else pulsar.ConsumerType.Shared,
            initial_position=pulsar.InitialPosition.Earliest,
            receiver_queue_size=max(1, queue * len(topics) // partitions),
            max_total_receiver_queue_size_across_partitions=queue * partitions,
            batch_receive_policy=policy,
        )
    except pulsar.PulsarException as error:
        raise BrokerUnavailableError(f"cannot subscribe to {', '.join(options.topics)}: {error}") from error


def _receive(consumer: pulsar.Consumer) -> list[Delivery]:
    try:
        return [Delivery(message) for message in consumer.batch_receive()]
    except pulsar.Timeout:
        return []
    except pulsar.PulsarException as error:
        raise BrokerUnavailableError(f"cannot receive: {error}") from error


def _acknowledge(consumer: pulsar.Consumer, messages: list[Any]) -> None:
    for message in messages:
        try:
            consumer.acknowledge(message)
        except pulsar.PulsarException as error:
            _CLIENT_LOGGER.info("not acknowledged, so it will come again: %s", error)
            return


def _close_quietly(client: pulsar.Client) -> None:
    try:
        client.close()
    except pulsar.PulsarException as error:
        _CLIENT_LOGGER.info("closing the connection: %s", error)
