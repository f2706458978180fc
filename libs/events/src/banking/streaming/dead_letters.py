"""The dead letter: an event that a leg could not store, with its original bytes, and how it travels through Pulsar."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from banking.streaming.broker import Outgoing
from banking.streaming.sink import Leg, RejectionReason
from banking.streaming.topics import DLQ_TOPIC, RETRY_TOPICS
from banking.streaming.tracing import TRACEPARENT, traceparent_of

if TYPE_CHECKING:
    from datetime import timedelta

    from banking.streaming.broker import Delivery

MAX_ERROR_BYTES = 1024
"""Longer error texts are cut, so that a letter of the largest event still fits the broker's message limit."""

MAX_KEY_CHARACTERS = 1024
"""Longer keys are cut: no entity's id is so long, and a letter may not grow beyond what the broker takes beside it."""

_PREFIX = "dlq-"
_FACTORS = (1, 2, 5)


def retry_delays(max_retries: int = 3, retry_delay_seconds: float = 60.0) -> tuple[float, ...]:
    """The delay before each retry, in seconds: 1, 2, 5, 10, 20, 50 … times the first one.

    The default, 60, 120 and 300 s, is the service's own.
    """
    if max_retries < 0 or retry_delay_seconds < 0:
        raise ValueError("max_retries and retry_delay_seconds may not be negative")
    return tuple(retry_delay_seconds * _FACTORS[index % 3] * 10 ** (index // 3) for index in range(max_retries))


DEFAULT_RETRY_DELAYS = retry_delays()
"""The delays of the service and of the handlers, in seconds, where nothing else is asked for."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An event that a leg rejected.

    Attributes:
        letter_id: `leg:topic:message id:digest of the bytes` of the first failure; the same through all retries and
            repeats. The digest tells letters apart whose broker counted its messages anew.
        leg: The leg that rejected it.
        topic: The topic that it was first received from.
        key: Its partition key.
        data: Its original bytes.
        reason: Why it was rejected last.
        error: What was wrong, naming the field.
        attempt: How many retries it has had; 0 after the first failure.
        first_failure: When it was first rejected.
        last_failure: When it was last rejected.
        traceparent: The context of the trace that its event was published in.
    """

    letter_id: str
    leg: Leg
    topic: str
    key: str | None
    data: bytes
    reason: RejectionReason
    error: str
    attempt: int
    first_failure: datetime
    last_failure: datetime
    traceparent: str | None = None

    def to_dead_letter_message(self) -> Outgoing:
        """The letter as it goes to the dead-letter topic."""
        return Outgoing(DLQ_TOPIC, self.data, self.key, self._properties(self.attempt))

    def to_retry_message(self, delay: timedelta) -> Outgoing:
        """The letter as its next attempt goes to its leg's retry topic."""
        return Outgoing(RETRY_TOPICS[self.leg], self.data, self.key, self._properties(self.attempt + 1), delay)

    def _properties(self, attempt: int) -> dict[str, str]:
        properties = {
            f"{_PREFIX}letter-id": self.letter_id,
            f"{_PREFIX}leg": self.leg,
            f"{_PREFIX}topic": self.topic,
            f"{_PREFIX}reason": self.reason,
            f"{_PREFIX}error": self.error,
            f"{_PREFIX}attempt": str(attempt),
            f"{_PREFIX}first-failure": self.first_failure.isoformat(),
            f"{_PREFIX}last-failure": self.last_failure.isoformat(),
        }
        if self.traceparent is not None:
            properties[TRACEPARENT] = self.traceparent
        return properties


def rejected_letter(
    delivery: Delivery, leg: Leg, reason: RejectionReason, error: str, now: datetime | None = None
) -> DeadLetter:
    """The letter for a message that `leg` has just rejected, whether it came by its own topic or by a retry."""
    now = now or datetime.now(UTC)
    earlier = retried_letter(delivery)
    return DeadLetter(
        letter_id=earlier.letter_id if earlier else new_letter_id(leg, delivery),
        leg=leg,
        topic=earlier.topic if earlier else delivery.topic,
        key=None if delivery.key is None else delivery.key[:MAX_KEY_CHARACTERS],
        data=delivery.data,
        reason=reason,
        error=_cut(error),
        attempt=earlier.attempt if earlier else 0,
        first_failure=earlier.first_failure if earlier else now,
        last_failure=now,
        traceparent=traceparent_of(delivery.properties),
    )


def new_letter_id(origin: str, delivery: Delivery) -> str:
    """The id of a letter whose history starts with this message."""
    digest = hashlib.blake2b(delivery.data, digest_size=4).hexdigest()
    return f"{origin}:{delivery.topic}:{delivery.message_id}:{digest}"


def retried_letter(delivery: Delivery) -> DeadLetter | None:
    """The letter that a message retries; None for a message that came by an entity topic, whatever it claims."""
    if delivery.topic not in RETRY_TOPICS.values():
        return None
    try:
        return received_letter(delivery)
    except ValueError:
        return None  # published by hand to a retry topic: its history starts here


def received_letter(delivery: Delivery) -> DeadLetter:
    """The letter that stands in a message of the dead-letter topic.

    Raises:
        ValueError: The message has not the properties of a dead letter; it says what is missing or wrong.
    """
    properties = delivery.properties
    try:
        return DeadLetter(
            letter_id=properties[f"{_PREFIX}letter-id"],
            leg=Leg(properties[f"{_PREFIX}leg"]),
            topic=properties[f"{_PREFIX}topic"],
            key=delivery.key,
            data=delivery.data,
            reason=RejectionReason(properties[f"{_PREFIX}reason"]),
            error=properties[f"{_PREFIX}error"],
            attempt=_count(properties[f"{_PREFIX}attempt"]),
            first_failure=_moment(properties[f"{_PREFIX}first-failure"]),
            last_failure=_moment(properties[f"{_PREFIX}last-failure"]),
            traceparent=traceparent_of(properties),
        )
    except KeyError as error:
        raise ValueError(f"no dead letter: the property {error.args[0]} is missing") from error


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**31:
        raise ValueError(f"no dead letter: the attempt is {text:.40}")
    return number


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"no dead letter: the time {text:.40} has no zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"no dead letter: the time {text:.40} is out of range") from error


def _cut(error: str) -> str:
    return error.encode(errors="replace")[:MAX_ERROR_BYTES].decode(errors="ignore")
