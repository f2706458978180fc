"""`Idempotency-Key`: a request that is repeated under its key is answered as before, and nothing is published twice.

A key stands for one request of one caller. What every replica has to know of it is written to a topic of the broker,
which puts all replicas' entries in one order: the first beginning of a key sets the time of its events, the first end
sets its answer. Ids, times and versions that a caller leaves out are derived from both the key and that time, so that
a request which was cut off, by whatever, publishes the very same events when it is repeated.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

import msgspec

from banking.streaming.events import from_microseconds
from producer.intake import ControlTotals
from producer.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotency-Replayed"

_MICROSECONDS = 1_000_000
_KEY = re.compile(r'"(?P<quoted>[\x20-\x21\x23-\x5b\x5d-\x7e]{1,255})"|(?P<bare>[\x21\x23-\x5b\x5d-\x7e]{1,255})')


class Finished(msgspec.Struct, frozen=True):
    """How a request ended: every valid event of it is stored.

    Attributes:
        digest: A hash of its body.
        totals: The control totals of the answer.
        at: When, in microseconds since 1970.
    """

    digest: str
    totals: ControlTotals
    at: int


class Attempt(msgspec.Struct, frozen=True):
    """What is known of a key.

    Attributes:
        name: The key's name in the log.
        began: When its first request began, in microseconds since 1970.
        finished: How it ended; None while it has not.
    """

    name: str
    began: int
    finished: Finished | None = None

    def event_id(self, place: int) -> str:
        """The id of the event at a line or index, where it names none."""
        return hashlib.blake2b(f"{self.name}/{self.began}/{place}".encode(), digest_size=16).hexdigest()

    def timestamp(self, place: int) -> datetime:
        """The time of the event at a line or index, where it names none: one microsecond after the one before it."""
        return from_microseconds(self.began + place)


class RequestLog(Protocol):
    """Where keys are kept."""

    async def begin(self, name: str) -> Attempt:
        """Note that a request begins, and give what is known of its key then.

        Raises:
            BrokerError: That cannot be said now.
        """

    async def finish(self, attempt: Attempt, finished: Finished) -> Finished:
        """Note that a request ended, and give the end that counts: the first one.

        Raises:
            BrokerError: It may or may not be noted.
        """


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of the log.

    Attributes:
        name: The key's name.
        id: Unique to the entry.
        at: When it was written, in microseconds since 1970.
        finished: Of an end, how the request ended; None of a beginning.
    """

    name: str
    id: str
    at: int
    finished: Finished | None = None


class RequestIndex:
    """What the entries of the log say, in its order. The same entries give the same in every replica.

    Args:
        window_seconds: How long a key is remembered from its beginning.
        max_keys: How many keys are remembered; the oldest ones are forgotten first.
    """

    def __init__(self, window_seconds: float, max_keys: int) -> None:
        self._window = int(window_seconds * _MICROSECONDS)
        self._max_keys = max_keys
        self._attempts: OrderedDict[str, Attempt] = OrderedDict()

    def __len__(self) -> int:
        return len(self._attempts)

    def get(self, name: str) -> Attempt | None:
        """What is known of a key."""
        return self._attempts.get(name)

    def apply(self, entries: Iterable[Entry]) -> None:
        """Take in the next entries; those that were taken in before change nothing."""
        for entry in entries:
            held = self._attempts.get(entry.name)
            if entry.finished is not None:
                if held is not None and held.finished is None:
                    self._attempts[entry.name] = msgspec.structs.replace(held, finished=entry.finished)
            elif held is None or entry.at - held.began > self._window:
                self._attempts[entry.name] = Attempt(entry.name, entry.at)
                self._attempts.move_to_end(entry.name)
                self._forget(entry.at)

    def _forget(self, now: int) -> None:
        while len(self._attempts) > self._max_keys or next(iter(self._attempts.values())).began < now - self._window:
            self._attempts.popitem(last=False)


def key_of(values: list[str], caller: str) -> str | None:
    """The name in the log of a request's key, which tells neither key nor caller; None where there is no key.

    Args:
        values: The header's values: a string of structured fields (RFC 9651) in quotes, or the same without.
        caller: Who calls: one caller's keys mean nothing to another.

    Raises:
        Problem: 400.
    """
    if not values:
        return None
    match = _KEY.fullmatch(values[0].strip()) if len(values) == 1 else None
    if match is None:
        raise Problem(HTTPStatus.BAD_REQUEST, f"{HEADER}: expected one key of 1 to 255 printable ASCII characters")
    key = match["quoted"] or match["bare"]
    return hashlib.blake2b(f"{caller}\n{key}".encode(), digest_size=16).hexdigest()
