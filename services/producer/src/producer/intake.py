"""What becomes of the events of one request or file: handed to the broker, counted, and the rejected ones named."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Protocol

import msgspec

from banking.streaming.broker import BrokerUnavailableError
from banking.streaming.events import InvalidEventError

if TYPE_CHECKING:
    from collections.abc import Callable

    from banking.streaming.broker import PublishError
    from banking.streaming.events import EntityEvent

_HASH_MODULUS = 1 << 128


class EventTarget(Protocol):
    """Where events go; `AsyncEntityProducer` is one."""

    async def submit(self, event: EntityEvent, receipt: Callable[[PublishError | None], None]) -> None:
        """Hand one event over; `receipt` is called in the loop once it is stored or has failed."""


class ControlTotals(msgspec.Struct):
    """Counts by which a caller checks that nothing was lost: read = accepted + rejected + unconfirmed.

    Attributes:
        read: Events that were looked at.
        accepted: Events that the broker has stored.
        rejected: Events that break the contract, and so were not sent.
        unconfirmed: Events whose receipt did not come; they may or may not be stored.
        accepted_ids_hash: The sum, modulo 2**128 and in hex, of the BLAKE2b-128 hashes of the accepted events' entity
            ids: the same whatever their order.
    """

    read: int = 0
    accepted: int = 0
    rejected: int = 0
    unconfirmed: int = 0
    accepted_ids_hash: str = f"{0:032x}"


class Rejection(msgspec.Struct, omit_defaults=True):
    """An event that did not go in.

    Attributes:
        line: Where it stood, from 1, in NDJSON or a file.
        index: Where it stood, from 0, in JSON.
        field: The field that is wrong; left out where the broker did not confirm the event.
        problem: What is wrong.
    """

    line: int | None = None
    index: int | None = None
    field: str | None = None
    problem: str = ""


class Summary(ControlTotals):
    """What became of the events of one request.

    Attributes:
        rejections: The events that were rejected or not confirmed, each by its place.
    """

    rejections: list[Rejection] = []


class IdHash:
    """A hash of any number of ids in any order; see `ControlTotals`."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, entity_id: str) -> None:
        """Count one id in."""
        digest = hashlib.blake2b(entity_id.encode(), digest_size=16).digest()
        self._sum += int.from_bytes(digest, "big")

    def remove(self, entity_id: str) -> None:
        """Take one id out that was counted in."""
        digest = hashlib.blake2b(entity_id.encode(), digest_size=16).digest()
        self._sum -= int.from_bytes(digest, "big")

    def hex(self) -> str:
        """The hash of the ids so far."""
        return f"{self._sum % _HASH_MODULUS:032x}"


class Intake:
    """Hands events on and keeps their totals.

    Args:
        target: Where the events go.
        on_failure: Called with the token of each event that is rejected or unconfirmed, the field at fault (None where
            the broker did not confirm it) and the problem.
        on_accepted: Called with the token of each event that is stored, and the event.
    """

    def __init__(
        self,
        target: EventTarget,
        on_failure: Callable[[object, str | None, str], None],
        on_accepted: Callable[[object, EntityEvent], None] = lambda _token, _event: None,
    ) -> None:
        self._target = target
        self._on_failure = on_failure
        self._on_accepted = on_accepted
        self._totals = ControlTotals()
        self._ids = IdHash()
        self._pending = 0
        self._settled = asyncio.Event()
        self._settled.set()

    @property
    def totals(self) -> ControlTotals:
        """The totals so far."""
        return msgspec.structs.replace(self._totals, accepted_ids_hash=self._ids.hex())

    @property
    def counts(self) -> ControlTotals:
        """The totals so far without the hash, which costs a little."""
        return self._totals

    def tally(self) -> dict[str, int]:
        """The counts by name, for a trace."""
        totals = self._totals
        return {"accepted": totals.accepted, "rejected": totals.rejected, "unconfirmed": totals.unconfirmed}

    async def publish(self, event: EntityEvent, token: object) -> None:
        """Hand one event over, waiting for room but not for its receipt.

        Raises:
            BrokerUnavailableError: The broker is away; the event was not sent and is not counted.
        """
        self._totals.read += 1
        self._pending += 1
        self._settled.clear()

        def receipt(error: PublishError | None) -> None:
            if error is None:
                self._totals.accepted += 1
                self._ids.add(event.entity_id)
                self._on_accepted(token, event)
            else:
                self._totals.unconfirmed += 1
                self._on_failure(token, None, str(error))
            self._done()

        try:
            await self._target.submit(event, receipt)
        except InvalidEventError as error:
            self._done()
            self._reject(error, token)
        except BrokerUnavailableError:
            self._done()
            self._totals.read -= 1
            raise

    def reject(self, error: InvalidEventError, token: object) -> None:
        """Count an event that is none."""
        self._totals.read += 1
        self._reject(error, token)

    async def settle(self) -> None:
        """Wait for the receipts of all events handed over."""
        await self._settled.wait()

    def _reject(self, error: InvalidEventError, token: object) -> None:
        self._totals.rejected += 1
        self._on_failure(token, error.field, str(error).removeprefix(f"{error.field}: "))

    def _done(self) -> None:
        self._pending -= 1
        if self._pending == 0:
            self._settled.set()
