"""Reading a partition in order, with as much of it ahead as stays within some bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from banking.streaming.broker import Delivery, open_reader
from banking.streaming.receiver_queue import ReceiverQueue
from verify.entities import Place

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    import pulsar

    from banking.streaming.broker import BrokerOptions

READ_AHEAD_BYTES = 32 * 1024 * 1024
"""What all readers that are open at once may hold."""

_READ_AHEAD = 2000
_READ_MILLISECONDS = 10_000


class PartitionReader:
    """Reads one partition. Its calls block, and raise `pulsar.PulsarException` where the broker is away.

    Args:
        client: Of the broker; nobody closes it while this is read.
        broker: The client's options.
        partition: Its short name.
        number: What places call it.
        start: The message before the first one.
        most_bytes: What it holds ahead, at most, by the mean size of the messages that came last.

    Raises:
        BrokerUnavailableError: The broker is away or has no such topic.
    """

    def __init__(
        self,
        client: pulsar.Client,
        broker: BrokerOptions,
        partition: str,
        number: int,
        start: pulsar.MessageId,
        *,
        most_bytes: int = READ_AHEAD_BYTES,
    ) -> None:
        self._client = client
        self._broker = broker
        self._partition = partition
        self._number = number
        self._position = start
        self._ahead = ReceiverQueue(1, _READ_AHEAD, most_bytes)
        self._reader = self._open()

    def messages(self, last: tuple[int, int] | None, stop: threading.Event) -> Iterator[tuple[Delivery, Place]]:
        """The messages before it, up to an entry or a little past it, each with its place.

        Args:
            last: The entry; None for all that there are.
            stop: Ends it.
        """
        while not stop.is_set() and self._reader.has_message_available():
            delivery = Delivery(self._reader.read_next(_READ_MILLISECONDS))
            self._position = delivery.message.message_id()
            place = Place(self._number, *delivery.place)
            yield delivery, place
            if last is not None and (place.ledger, place.entry) > last:
                return
            self._ahead.note(self._partition, len(delivery.data))
            if self._ahead.wanted != self._ahead.length:
                self._reader.close()
                self._ahead.resize()
                self._reader = self._open()

    def close(self) -> None:
        """Close it; its client stays."""
        self._reader.close()

    def _open(self) -> pulsar.Reader:
        return open_reader(self._client, self._broker, self._partition, self._position, read_ahead=self._ahead.length)
