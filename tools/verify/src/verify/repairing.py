"""Writing events again to the leg whose store does not hold them as they were published."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pulsar

from banking.streaming.broker import BrokerUnavailableError, Publisher, connect
from banking.streaming.repairs import repair_message
from verify.reading import PartitionReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from banking.streaming.broker import BrokerOptions, Outgoing
    from banking.streaming.sink import Leg
    from verify.entities import Place
    from verify.scratch import Scratch

_AT_ONCE = 500
_BYTES_AT_ONCE = 16 * 1024 * 1024


async def write_again(broker: BrokerOptions, partitions: Sequence[str], scratch: Scratch) -> int:
    """Publish the noted events to the retry topics of the legs concerned, their bytes as they are; how many.

    Raises:
        BrokerError: The broker is away; those that were written before are harmless to write again.
    """
    written = 0
    client = connect(broker)
    publisher = Publisher(broker)
    try:
        for number, partition in enumerate(partitions):
            repairs = _repairs(client, broker, number, partition, scratch.repairs(number))
            while part := await asyncio.to_thread(_some, repairs, partition):
                await publisher.publish_all(part)
                written += len(part)
    finally:
        await publisher.close()
        await asyncio.to_thread(client.close)
    return written


def _some(repairs: Iterator[Outgoing], partition: str) -> list[Outgoing]:
    some: list[Outgoing] = []
    size = 0
    try:
        for repair in repairs:
            some.append(repair)
            size += len(repair.data)
            if len(some) == _AT_ONCE or size >= _BYTES_AT_ONCE:
                break
    except pulsar.PulsarException as error:
        raise BrokerUnavailableError(f"cannot read {partition}: {error}") from error
    return some


def _repairs(
    client: pulsar.Client, broker: BrokerOptions, number: int, partition: str, wanted: Iterator[tuple[Place, Leg]]
) -> Iterator[Outgoing]:
    """The wanted messages of a partition, in order; nothing is read where none is wanted."""
    next_wanted = next(wanted, None)
    if next_wanted is None:
        return
    first = next_wanted[0]
    start = pulsar.MessageId(-1, first.ledger, first.entry - 1, -1)
    reader = PartitionReader(client, broker, partition, number, start)
    for delivery, place in reader.messages(None, threading.Event()):
        while next_wanted is not None and next_wanted[0] == place:
            yield repair_message(next_wanted[1], delivery.data, delivery.key)
            next_wanted = next(wanted, None)
        if next_wanted is None:
            break
    reader.close()
