"""Transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from banking.data_generators.accounts import AccountGenerator
from banking.data_generators.entities import Transaction
from banking.data_generators.generator import EntityGenerator
from banking.data_generators.lexicon import COUNTRIES
from banking.data_generators.patterns import MULE_CHAIN, RING, Patterns
from banking.data_generators.population import (
    HISTORY_DAYS,
    REFERENCE_TIME,
    SECONDS_PER_DAY,
    CountsError,
    Draw,
    moment,
    money,
    uuid_of,
)
from banking.data_generators.texts import FLOWS, ITEMS, MONTHS, PATTERN_DESCRIPTIONS

if TYPE_CHECKING:
    from banking.data_generators.patterns import Payment, Plan
    from banking.data_generators.population import Counts
    from banking.data_generators.texts import Flow

_STATUSES = ("completed",) * 96 + ("pending",) * 2 + ("rejected",) * 2
_CASH_CURRENCY = COUNTRIES["DE"].currency


class _Parties(NamedTuple):
    source: int | None
    target: int | None


class TransactionGenerator(EntityGenerator[Transaction]):
    """Makes payments between accounts: salaries, cards, rents, invoices, cash, and the planted patterns."""

    def __init__(self, seed: int = 42, counts: Counts | None = None) -> None:
        super().__init__(seed, counts)
        self.accounts = AccountGenerator(seed, counts)
        self.patterns = Patterns(self.accounts)
        self._flows = [flow for flow in FLOWS for _ in range(flow.weight) if self._is_possible(flow)]

    def at(self, index: int) -> Transaction:
        """Transaction number `index`."""
        digest = self.population.digest("transaction", index)
        draw = Draw(digest)
        reference = f"TX{int.from_bytes(digest[8:14], 'big'):015d}"
        part = self.patterns.payment_of(index)
        if part is not None:
            return self._of_pattern(uuid_of(digest), reference, *part, draw)
        if self.population.counts.accounts < 2:
            raise CountsError("transactions: they need at least 2 accounts")
        flow = draw.choice(self._flows)
        parties = self._parties(flow, draw)
        executed_at = draw.between(-HISTORY_DAYS * SECONDS_PER_DAY, -SECONDS_PER_DAY)
        steps = (flow.high - flow.low) // flow.step
        # The smaller of two draws: small amounts are the common ones.
        cents = flow.low + flow.step * min(draw.below(steps + 1), draw.below(steps + 1))
        return Transaction(
            transaction_id=uuid_of(digest),
            from_account_id=self._account_id(parties.source),
            to_account_id=self._account_id(parties.target),
            amount=money(cents),
            currency=self._currency(parties),
            transaction_type=flow.transaction_type,
            description=self._describe(flow, parties, executed_at, draw),
            reference=reference,
            status=draw.choice(_STATUSES),
            executed_at=moment(executed_at),
            created_at=moment(executed_at + draw.between(1, 30)),
        )

    def _of_pattern(self, transaction_id: str, reference: str, plan: Plan, payment: Payment, draw: Draw) -> Transaction:
        if payment.source is None:
            transaction_type, descriptions = "cash deposit", PATTERN_DESCRIPTIONS["cash"]
        elif plan.kind == MULE_CHAIN:
            transaction_type, descriptions = "transfer", PATTERN_DESCRIPTIONS["mule"]
        elif plan.kind == RING:
            transaction_type, descriptions = "wire", PATTERN_DESCRIPTIONS["ring"]
        else:
            transaction_type, descriptions = "wire", PATTERN_DESCRIPTIONS["moved_on"]
        return Transaction(
            transaction_id=transaction_id,
            from_account_id=self._account_id(payment.source),
            to_account_id=self._account_id(payment.target),
            amount=money(payment.cents),
            currency=plan.currency,
            transaction_type=transaction_type,
            description=draw.choice(descriptions).format(number=draw.between(1_000, 99_999)),
            reference=reference,
            status="completed",
            executed_at=moment(payment.executed_at),
            created_at=moment(payment.executed_at + draw.between(1, 30)),
        )

    def _is_possible(self, flow: Flow) -> bool:
        return all(kind is None or self.accounts.count_of(kind) for kind in (flow.source, flow.target))

    def _parties(self, flow: Flow, draw: Draw) -> _Parties:
        target = None if flow.target is None else self._pick(flow.target, draw)
        if flow.source is None:
            return _Parties(None, target)
        source = self._employer_account(target) if flow.transaction_type == "salary" and target is not None else None
        if source is None:
            source = self._pick(flow.source, draw)
        if source == target:
            source = (source + 1) % self.population.counts.accounts
        return _Parties(source, target)

    def _pick(self, owner_type: str, draw: Draw) -> int:
        return self.accounts.number_of(owner_type, draw.below(self.accounts.count_of(owner_type)))

    def _employer_account(self, account: int) -> int | None:
        """The first account of the company that employs an account's owner."""
        persons = self.accounts.persons
        employer = persons.employer(persons.profile(self.accounts.profile(account).owner).draw)
        if employer is None or employer >= self.accounts.count_of("company"):
            return None
        return self.accounts.number_of("company", employer)

    def _account_id(self, index: int | None) -> str | None:
        return None if index is None else self.population.entity_id("account", index)

    def _currency(self, parties: _Parties) -> str:
        account = parties.source if parties.source is not None else parties.target
        return _CASH_CURRENCY if account is None else self.accounts.profile(account).currency

    def _describe(self, flow: Flow, parties: _Parties, executed_at: int, draw: Draw) -> str:
        day = (REFERENCE_TIME.toordinal() * SECONDS_PER_DAY + executed_at) // SECONDS_PER_DAY
        month = MONTHS[min(11, (day - REFERENCE_TIME.toordinal() + HISTORY_DAYS + 1) * 12 // 365)]
        return draw.choice(flow.descriptions).format(
            company=self._company_name(parties) if flow.names_company else "",
            month=month,
            item=draw.choice(ITEMS),
            number=draw.between(1_000, 99_999),
        )

    def _company_name(self, parties: _Parties) -> str:
        """The name of the company that is paid, or else that pays."""
        for account in (parties.target, parties.source):
            if account is not None:
                profile = self.accounts.profile(account)
                if profile.owner_type == "company":
                    return self.accounts.companies.profile(profile.owner).name
        return ""
