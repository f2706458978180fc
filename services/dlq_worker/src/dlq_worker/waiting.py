"""How many letters are on their way, for which retry and since when: asked of the broker, so true after any restart.

A letter is on its way in the dead-letter topic until the worker has settled it, and in its leg's retry topic until its
delay is over and the leg has settled it. The admin API says which entries of these topics a subscription has not
settled; a reader, which takes them from nobody, says what they are. Counting keeps no letter: memory stays flat.
"""

from __future__ import annotations

import asyncio
import re
import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pulsar
import structlog

from banking.streaming.archive import UNKNOWN_TYPE
from banking.streaming.broker import BrokerError, BrokerUnavailableError, Delivery, connect, open_reader
from banking.streaming.dead_letters import received_letter
from banking.streaming.metrics import METRICS, StreamingMetrics
from banking.streaming.service import wait_for_stop
from banking.streaming.sink import Leg
from banking.streaming.topics import (
    DLQ_SUBSCRIPTION,
    DLQ_TOPIC,
    LEG_SUBSCRIPTIONS,
    NAMESPACE,
    RETRY_TOPICS,
    admin_session,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlq_worker.settings import DlqWorkerSettings

    Position = tuple[int, int]

log = structlog.get_logger(__name__)

ARCHIVE = "archive"
"""What letters wait for whose retries are used up."""

_PERIOD_SECONDS = 15.0
_IDLE_SHARE = 20  # counting takes a twentieth of the time at most, however much waits
_REQUEST_SECONDS = 10.0
_READ_MILLISECONDS = 10_000
_READ_AHEAD = 20
_RANGE = re.compile(r"\((\d+):(-?\d+)\.\.(\d+):(-?\d+)\]")


@dataclass(slots=True)
class Waiting:
    """The letters that are on their way.

    Attributes:
        counts: How many, by leg and by the number of the retry that they wait for, or `ARCHIVE`.
        oldest: The earliest first failure among them, by leg.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    oldest: dict[str, datetime] = field(default_factory=dict)

    def add(self, leg: str, attempt: str, first_failure: datetime) -> None:
        """Count one."""
        self.counts[leg, attempt] += 1
        self.oldest[leg] = min(first_failure, self.oldest.get(leg, first_failure))


class Unsettled:
    """The entries of a topic that a subscription has not acknowledged, as `(ledger, entry)`.

    Args:
        stats: The topic's internal statistics from the admin API.
        subscription: The subscription's name.
    """

    def __init__(self, stats: dict[str, Any], subscription: str) -> None:
        cursor = stats["cursors"][subscription]
        self.before = _position(cursor["markDeletePosition"])
        self.last = _position(stats["lastConfirmedEntry"])
        # Each range lies above its first position and ends with its second one.
        ranges = sorted(
            ((int(a), int(b)), (int(c), int(d))) for a, b, c, d in _RANGE.findall(cursor["individuallyDeletedMessages"])
        )
        self._above = [above for above, _ in ranges]
        self._until = [until for _, until in ranges]

    @property
    def empty(self) -> bool:
        """Whether everything is acknowledged."""
        return self.last <= self.before

    def holds(self, position: Position) -> bool:
        """Whether this entry is among them."""
        if not self.before < position <= self.last:
            return False
        index = bisect_left(self._above, position) - 1
        return index < 0 or position > self._until[index]


async def watch_waiting(
    settings: DlqWorkerSettings, stop: asyncio.Event, *, metrics: StreamingMetrics = METRICS
) -> None:
    """Keep the metrics of waiting letters true until `stop` is set; without an answer of the broker there are none."""
    known = True
    async with WaitingCounter(settings, stop.is_set) as counter:
        while not stop.is_set():
            started = time.monotonic()
            try:
                waiting = await counter.count()
            except BrokerError as error:
                if known:
                    log.warning("cannot count the letters that wait", problem=str(error))
                known = False
                metrics.dlq_waiting.clear()
                metrics.dlq_oldest.clear()
            else:
                known = True
                _show(waiting, len(settings.dlq_retry_delays_seconds), metrics, datetime.now(UTC))
            await wait_for_stop(stop, max(_PERIOD_SECONDS, _IDLE_SHARE * (time.monotonic() - started)))


def _show(waiting: Waiting, retries: int, metrics: StreamingMetrics, now: datetime) -> None:
    metrics.dlq_waiting.clear()
    for leg in (*Leg, UNKNOWN_TYPE):
        oldest = waiting.oldest.get(leg)
        metrics.dlq_oldest.labels(leg).set(max(0.0, (now - oldest).total_seconds()) if oldest else 0.0)
    for leg in Leg:
        for attempt in (*range(1, retries + 1), ARCHIVE):
            metrics.dlq_waiting.labels(leg.value, str(attempt)).set(0)
    for (leg_name, attempt_name), number in waiting.counts.items():
        metrics.dlq_waiting.labels(leg_name, attempt_name).set(number)


class WaitingCounter:
    """Counts the letters that are on their way.

    Args:
        settings: Where the broker and its admin API are, and the schedule.
        stopped: Ends a count early.
    """

    def __init__(self, settings: DlqWorkerSettings, stopped: Callable[[], bool] = lambda: False) -> None:
        self._options = settings.broker
        self._trusted = settings.pulsar_tls_trust_certs_file
        self._base = f"{settings.pulsar_admin_url.rstrip('/')}/admin/v2/persistent/{NAMESPACE}"
        self._retries = len(settings.dlq_retry_delays_seconds)
        self._stopped = stopped

    async def __aenter__(self) -> WaitingCounter:
        self._session = admin_session(self._options.token, self._trusted, _REQUEST_SECONDS)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def count(self) -> Waiting:
        """What waits now.

        Raises:
            BrokerError: The broker or its admin API is away, or lacks a topic.
        """
        waiting = Waiting()
        await self._count(DLQ_TOPIC, DLQ_SUBSCRIPTION, waiting, self._add_letter)
        for leg, topic in RETRY_TOPICS.items():
            await self._count(topic, LEG_SUBSCRIPTIONS[leg], waiting, self._add_retry)
        return waiting

    async def _count(
        self, topic: str, subscription: str, waiting: Waiting, add: Callable[[Waiting, Delivery], None]
    ) -> None:
        unsettled = await self._unsettled(topic, subscription)
        if not unsettled.empty:
            await asyncio.to_thread(self._read, topic, unsettled, waiting, add)

    async def _unsettled(self, topic: str, subscription: str) -> Unsettled:
        url = f"{self._base}/{topic}/internalStats"
        try:
            async with self._session.get(url) as response:
                if response.status != 200:
                    raise BrokerUnavailableError(f"GET {url}: {response.status} {(await response.text())[:200]}")
                return Unsettled(await response.json(), subscription)
        except (aiohttp.ClientError, TimeoutError, ValueError, LookupError) as error:
            raise BrokerUnavailableError(f"GET {url}: {type(error).__name__} {error}") from error

    def _read(
        self, topic: str, unsettled: Unsettled, waiting: Waiting, add: Callable[[Waiting, Delivery], None]
    ) -> None:
        client = connect(self._options)
        try:
            start = pulsar.MessageId(-1, *unsettled.before, -1)
            reader = open_reader(client, self._options, topic, start, read_ahead=_READ_AHEAD, role=DLQ_SUBSCRIPTION)
            while reader.has_message_available() and not self._stopped():
                message = reader.read_next(_READ_MILLISECONDS)
                message_id = message.message_id()
                position = (message_id.ledger_id(), message_id.entry_id())
                if position > unsettled.last:
                    break  # what came after the question was asked
                if unsettled.holds(position):
                    add(waiting, Delivery(message))
        except pulsar.PulsarException as error:
            raise BrokerUnavailableError(f"cannot read {topic}: {error}") from error
        finally:
            client.close()

    def _add_letter(self, waiting: Waiting, delivery: Delivery) -> None:
        try:
            letter = received_letter(delivery)
        except ValueError:
            waiting.add(UNKNOWN_TYPE, ARCHIVE, _published(delivery))
            return
        attempt = str(letter.attempt + 1) if letter.attempt < self._retries else ARCHIVE
        waiting.add(letter.leg.value, attempt, letter.first_failure)

    def _add_retry(self, waiting: Waiting, delivery: Delivery) -> None:
        try:
            letter = received_letter(delivery)
        except ValueError:
            return  # put there by hand: no letter
        # One beyond the schedule is of a longer one, or put there by hand: the label's values have to end somewhere.
        waiting.add(letter.leg.value, str(min(letter.attempt, self._retries)), letter.first_failure)


def _published(delivery: Delivery) -> datetime:
    return datetime.fromtimestamp(delivery.message.publish_timestamp() / 1000, UTC)


def _position(text: str) -> Position:
    ledger, _, entry = text.partition(":")
    return int(ledger), int(entry)
