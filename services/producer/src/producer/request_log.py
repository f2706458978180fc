"""The log of keyed requests in Pulsar: appended to by every replica, and read by every replica from its window on."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from typing import TYPE_CHECKING

import msgspec
import pulsar

from banking.streaming.access import PRODUCER_ROLE
from banking.streaming.broker import BrokerUnavailableError, Outgoing, Publisher, connect, open_reader
from banking.streaming.topics import REQUESTS_TOPIC
from producer.idempotency import Attempt, Entry, Finished

if TYPE_CHECKING:
    from banking.streaming.broker import BrokerOptions
    from producer.idempotency import RequestIndex

_READ_SECONDS = 0.5
_RETRY_SECONDS = 1.0
_JOIN_SECONDS = 2.0
_BATCH_ENTRIES = 500
_log = logging.getLogger(__name__)
_decoder = msgspec.json.Decoder(Entry)


class PulsarRequestLog:
    """A `RequestLog` on the broker. It begins to read with the first request that has a key.

    Args:
        broker: How to reach the broker.
        index: What takes in the entries.
        window_seconds: How far back entries are read when it begins.
        read_timeout_seconds: How long to wait until an entry that was written is read again, with all before it.
    """

    def __init__(
        self, broker: BrokerOptions, index: RequestIndex, *, window_seconds: float, read_timeout_seconds: float = 20.0
    ) -> None:
        self._broker = broker
        self._index = index
        self._window_seconds = window_seconds
        self._read_timeout_seconds = read_timeout_seconds
        self._publisher = Publisher(broker, max_in_flight=1000)
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._reading: threading.Thread | None = None
        self._reopen = threading.Event()
        self._closed = threading.Event()

    async def begin(self, name: str) -> Attempt:
        """Note that a request begins, and give what is known of its key then.

        Raises:
            BrokerError: That cannot be said now.
        """
        await self._append(Entry(name, uuid.uuid4().hex, time.time_ns() // 1000))
        return self._known(name)

    async def finish(self, attempt: Attempt, finished: Finished) -> Finished:
        """Note that a request ended, and give the end that counts: the first one.

        Raises:
            BrokerError: It may or may not be noted.
        """
        await self._append(Entry(attempt.name, uuid.uuid4().hex, finished.at, finished))
        return self._known(attempt.name).finished or finished

    async def reset(self) -> None:
        """Connect anew, for a broker that lost its topics."""
        self._reopen.set()
        await self._publisher.reset()

    async def close(self) -> None:
        """Release the connections."""
        self._closed.set()
        await self._publisher.close()
        if self._reading is not None:
            await asyncio.to_thread(self._reading.join, _JOIN_SECONDS)

    def _known(self, name: str) -> Attempt:
        attempt = self._index.get(name)
        if attempt is None:
            raise BrokerUnavailableError(f"{REQUESTS_TOPIC}: more keys came meanwhile than are remembered")
        return attempt

    async def _append(self, entry: Entry) -> None:
        """Write an entry and wait until it was read: then so were all that other replicas wrote before it."""
        self._read_on()
        seen: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[entry.id] = seen
        try:
            await self._publisher.publish(Outgoing(REQUESTS_TOPIC, msgspec.json.encode(entry), entry.name))
            async with asyncio.timeout(self._read_timeout_seconds):
                await seen
        except TimeoutError:
            raise BrokerUnavailableError(f"{REQUESTS_TOPIC}: cannot be read at the moment") from None
        finally:
            del self._waiting[entry.id]

    def _read_on(self) -> None:
        if self._reading is None:
            loop = asyncio.get_running_loop()
            self._reading = threading.Thread(target=self._read, args=(loop,), name="request-log", daemon=True)
            self._reading.start()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read entries until the log is closed, from the window on again whenever the connection is lost for good."""
        while not self._closed.is_set():
            self._reopen.clear()
            client = connect(self._broker)
            try:
                reader = open_reader(client, self._broker, REQUESTS_TOPIC, role=PRODUCER_ROLE)
                reader.seek(int((time.time() - self._window_seconds) * 1000))
                while not self._closed.is_set() and not self._reopen.is_set():
                    if entries := _next_entries(reader):
                        loop.call_soon_threadsafe(self._apply, entries)
            except (BrokerUnavailableError, pulsar.PulsarException) as error:
                _log.info("%s cannot be read: %s", REQUESTS_TOPIC, error)
                self._closed.wait(_RETRY_SECONDS)
            except RuntimeError:  # the loop has closed, so nobody waits
                return
            finally:
                _close(client)

    def _apply(self, entries: list[Entry]) -> None:
        self._index.apply(entries)
        for entry in entries:
            waiting = self._waiting.get(entry.id)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)


def _next_entries(reader: pulsar.Reader) -> list[Entry]:
    """The entries that are there, up to a batch; none when nothing came for a while."""
    entries: list[Entry] = []
    wait_seconds = _READ_SECONDS
    while len(entries) < _BATCH_ENTRIES:
        try:
            message = reader.read_next(timeout_millis=int(wait_seconds * 1000))
        except pulsar.Timeout:
            break
        wait_seconds = 0.001
        try:
            entries.append(_decoder.decode(message.data()))
        except msgspec.MsgspecError as error:
            _log.warning("%s: an entry of another kind is passed over: %s", REQUESTS_TOPIC, error)
    return entries


def _close(client: pulsar.Client) -> None:
    try:
        client.close()
    except pulsar.PulsarException as error:
        _log.info("closing the connection: %s", error)
