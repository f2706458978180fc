"""Patterns worth finding, planted among the transactions, and the ground truth that says where.

The transactions are cut into blocks of `BLOCK` numbers; each complete block holds one pattern, whose payments stand
at some of its numbers. A block's plan is read from its own hash, so it is made when it is met and then forgotten.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from banking.data_generators.entities import Pattern
from banking.data_generators.population import HISTORY_DAYS, SECONDS_PER_DAY, Draw, moment, money, uuid_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from banking.data_generators.accounts import AccountGenerator

BLOCK = 150
"""One pattern among this many transactions."""

STRUCTURING, RING, MULE_CHAIN = "structuring", "ring", "mule_chain"
REPORTING_THRESHOLD_CENTS = 1_000_000
"""Cash deposits from this amount on are reported; structuring stays below."""

_COMMUNICATION_EVERY, _COMMUNICATION_PLACE = 20, 7
_HOUR = 3_600
_LATEST_START = -20 * SECONDS_PER_DAY


class Payment(NamedTuple):
    """One payment of a pattern: account numbers, None where it is cash."""

    source: int | None
    target: int | None
    cents: int
    executed_at: int  # seconds from the reference time


class Plan(NamedTuple):
    """A pattern in numbers."""

    pattern_id: str
    kind: str
    accounts: tuple[int, ...]
    currency: str
    payments: tuple[Payment, ...]
    first: int  # the number of the first payment's transaction
    stride: int  # between one payment's number and the next one's


class Patterns:
    """The patterns of a population.

    Args:
        accounts: The generator of its accounts.
    """

    def __init__(self, accounts: AccountGenerator) -> None:
        self.population = accounts.population
        self._accounts = accounts
        ring = next((kind for kind in ("company", "person") if accounts.count_of(kind) >= 3), None)
        chain = next((kind for kind in ("person", "company") if accounts.count_of(kind) >= 4), None)
        cash = next((kind for kind in ("person", "company") if accounts.count_of(kind) >= 2), None)
        kinds = ((MULE_CHAIN, chain), (RING, ring), (STRUCTURING, cash))
        self._kinds = [(kind, owners) for kind, owners in kinds if owners]
        self.count = self.population.counts.transactions // BLOCK if self._kinds else 0
        self._last: tuple[int, Plan] | None = None

    def payment_of(self, transaction: int) -> tuple[Plan, Payment] | None:
        """The payment that a transaction makes within a pattern; None for most."""
        block = transaction // BLOCK
        if block >= self.count:
            return None
        plan = self.plan(block)
        place, rest = divmod(transaction - plan.first, plan.stride)
        if rest or not 0 <= place < len(plan.payments):
            return None
        return plan, plan.payments[place]

    def behind_communication(self, communication: int) -> Plan | None:
        """The pattern that a message is about; None for most."""
        block, place = divmod(communication, _COMMUNICATION_EVERY)
        if place != _COMMUNICATION_PLACE or block >= self.count:
            return None
        plan = self.plan(block)
        return plan if len(self.contacts(plan)) >= 2 else None

    def contacts(self, plan: Plan) -> list[int]:
        """The numbers of the persons behind a pattern's accounts, in their order."""
        contacts = (self._accounts.contact(account) for account in plan.accounts)
        return list(dict.fromkeys(contact for contact in contacts if contact is not None))

    def plan(self, number: int) -> Plan:
        """Pattern `number`; the last one asked for is kept."""
        if self._last is None or self._last[0] != number:
            self._last = (number, self._make_plan(number))
        return self._last[1]

    def records(self) -> Iterator[Pattern]:
        """The ground truth, one record a pattern."""
        for number in range(self.count):
            plan = self.plan(number)
            communication = number * _COMMUNICATION_EVERY + _COMMUNICATION_PLACE
            is_about_it = communication < self.population.counts.communications and len(self.contacts(plan)) >= 2
            yield Pattern(
                pattern_id=plan.pattern_id,
                kind=plan.kind,
                account_ids=[self.population.entity_id("account", account) for account in plan.accounts],
                person_ids=[self.population.entity_id("person", person) for person in self.contacts(plan)],
                transaction_ids=[
                    self.population.entity_id("transaction", plan.first + place * plan.stride)
                    for place in range(len(plan.payments))
                ],
                communication_ids=[self.population.entity_id("communication", communication)] if is_about_it else [],
                total=money(sum(payment.cents for payment in plan.payments)),
                currency=plan.currency,
                started_at=moment(plan.payments[0].executed_at),
                ended_at=moment(plan.payments[-1].executed_at),
            )

    def _make_plan(self, number: int) -> Plan:
        digest = self.population.digest("pattern", number)
        draw = Draw(digest)
        kind, owners = self._kinds[number % len(self._kinds)]
        start = draw.between(-HISTORY_DAYS * SECONDS_PER_DAY, _LATEST_START)
        make = {STRUCTURING: self._structuring, RING: self._ring, MULE_CHAIN: self._mule_chain}[kind]
        accounts, payments = make(owners, start, draw)
        stride = draw.between(1, BLOCK // (2 * len(payments)))
        first = number * BLOCK + draw.below(BLOCK - (len(payments) - 1) * stride)
        currency = self._accounts.profile(accounts[0]).currency
        return Plan(uuid_of(digest), kind, accounts, currency, tuple(payments), first, stride)

    def _structuring(self, owners: str, start: int, draw: Draw) -> tuple[tuple[int, ...], list[Payment]]:
        """Cash deposits just below the threshold, several a day, and most of it moved on at the end."""
        account, beneficiary = accounts = self._distinct(owners, 2, draw)
        payments, at = [], start
        for _ in range(draw.between(6, 9)):
            cents = REPORTING_THRESHOLD_CENTS - 5_000 * draw.between(1, 20)
            payments.append(Payment(None, account, cents, at))
            at += draw.between(3 * _HOUR, 30 * _HOUR)
        moved_on = sum(payment.cents for payment in payments) * draw.between(92, 98) // 100
        return accounts, [*payments, Payment(account, beneficiary, moved_on, at)]

    def _ring(self, owners: str, start: int, draw: Draw) -> tuple[tuple[int, ...], list[Payment]]:
        """Money that passes three to six accounts and returns to the first, less a small loss each time."""
        accounts = self._distinct(owners, draw.between(3, min(6, self._accounts.count_of(owners))), draw)
        payments, at, cents = [], start, 100 * draw.between(20_000, 200_000)
        for source, target in zip(accounts, (*accounts[1:], accounts[0]), strict=True):
            payments.append(Payment(source, target, cents, at))
            at += draw.between(6 * _HOUR, 60 * _HOUR)
            cents = cents * draw.between(970, 999) // 1_000
        return accounts, payments

    def _mule_chain(self, owners: str, start: int, draw: Draw) -> tuple[tuple[int, ...], list[Payment]]:
        """Money handed on within hours, each hop keeping a commission."""
        accounts = self._distinct(owners, draw.between(4, min(7, self._accounts.count_of(owners))), draw)
        payments, at, cents = [], start, 100 * draw.between(5_000, 30_000)
        for source, target in pairwise(accounts):
            payments.append(Payment(source, target, cents, at))
            at += draw.between(_HOUR // 2, 5 * _HOUR)
            cents = cents * draw.between(930, 980) // 1_000
        return accounts, payments

    def _distinct(self, owners: str, number: int, draw: Draw) -> tuple[int, ...]:
        """So many different accounts of persons, or of companies."""
        count = self._accounts.count_of(owners)
        first, step = draw.below(count), draw.between(1, count // number)
        return tuple(self._accounts.number_of(owners, (first + place * step) % count) for place in range(number))
