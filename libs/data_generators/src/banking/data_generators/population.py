"""What all generators share: how many entities there are, and an id and random draws for each that need no memory.

Everything about entity number `i` of a type is read from one hash of the seed, the counts, the type and `i`. So any
entity can be made alone and in any order, an id that another entity names is computed and not remembered, and the
same seed gives the same entities in every process.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

_T = TypeVar("_T")

GENERATION = 1
"""Part of every id. It grows whenever a change of the generators alters what a seed gives, so that an id never stands
for two contents."""

REFERENCE_TIME = datetime(2026, 1, 1, tzinfo=UTC)
"""The end of the generated history. Fixed: generated data does not depend on the day it is made."""

SECONDS_PER_DAY = 86_400
HISTORY_DAYS = 364
"""Payments and messages happen in these days before the reference time; accounts are older, customers older still."""

_DIGEST_BYTES = 64
_ID_BYTES = 16
_REFILL_BELOW = 1 << 72


class CountsError(ValueError):
    """Counts that allow no coherent data, such as accounts without anybody to own them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many entities of each type there are.

    Raises:
        CountsError: A count is negative or leaves a reference without anything to name; it says which.
    """

    persons: int = 100
    companies: int = 20
    accounts: int = 200
    transactions: int = 500
    communications: int = 100

    def __post_init__(self) -> None:
        for name in self.__slots__:
            count = getattr(self, name)
            if count < 0:
                raise CountsError(f"{name}: expected 0 or more, got {count}")
        if self.accounts and not self.persons + self.companies:
            raise CountsError("accounts: they need persons or companies that own them")
        if self.transactions and self.accounts < 2:
            raise CountsError(f"transactions: they need at least 2 accounts, got {self.accounts}")
        if self.communications and self.persons < 2:
            raise CountsError(f"communications: they need at least 2 persons, got {self.persons}")

    @property
    def total(self) -> int:
        """The entities of all types together."""
        return self.persons + self.companies + self.accounts + self.transactions + self.communications


class Draw:
    """A stream of uniform draws from one hash, the same on every platform and Python version."""

    __slots__ = ("_digest", "_state")

    def __init__(self, digest: bytes) -> None:
        self._digest = digest
        self._state = int.from_bytes(digest[_ID_BYTES:], "little")

    def below(self, bound: int) -> int:
        """An integer from 0 to `bound` - 1."""
        state = self._state
        if state < _REFILL_BELOW:
            self._digest = hashlib.blake2b(self._digest).digest()
            state = int.from_bytes(self._digest, "little")
        self._state, value = divmod(state, bound)
        return value

    def between(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return low + self.below(high - low + 1)

    def choice(self, items: Sequence[_T]) -> _T:
        """One of the items; items that stand there twice are twice as likely."""
        return items[self.below(len(items))]

    def chance(self, percent: int) -> bool:
        """True in that many of a hundred cases."""
        return self.below(100) < percent


class Population:
    """The entities that a seed and counts stand for, as ids and draws. Two populations share no id.

    Args:
        seed: Any integer.
        counts: How many of each type there are: references stay within them.
    """

    def __init__(self, seed: int, counts: Counts | None = None) -> None:
        self.seed = seed
        self.counts = counts or Counts()
        c = self.counts
        scope = f"{GENERATION}/{seed}/{c.persons}/{c.companies}/{c.accounts}/{c.transactions}/{c.communications}"
        self._hashers = {
            kind: hashlib.blake2b(f"{scope}/{kind}/".encode(), digest_size=_DIGEST_BYTES)
            for kind in ("person", "company", "account", "transaction", "communication", "pattern", "serial")
        }

    def digest(self, kind: str, index: int) -> bytes:
        """The hash that everything about one entity is read from."""
        hasher = self._hashers[kind].copy()
        hasher.update(index.to_bytes(8, "little"))
        return hasher.digest()

    def entity_id(self, kind: str, index: int) -> str:
        """The id of one entity."""
        return uuid_of(self.digest(kind, index))


def uuid_of(digest: bytes) -> str:
    """The id that the first 16 bytes of a digest make: a version 8 UUID (RFC 9562)."""
    text = digest[:_ID_BYTES].hex()
    return f"{text[:8]}-{text[8:12]}-8{text[13:16]}-{'89ab'[digest[8] & 3]}{text[17:20]}-{text[20:32]}"


def moment(seconds: int) -> datetime:
    """The time that many seconds after the reference time; before it where negative."""
    return REFERENCE_TIME + timedelta(seconds=seconds)


def money(cents: int) -> Decimal:
    """An exact amount with two decimal places."""
    return Decimal(f"{cents // 100}.{cents % 100:02d}")
