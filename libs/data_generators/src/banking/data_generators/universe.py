"""All five generators over one population."""

from __future__ import annotations

from typing import TYPE_CHECKING

from banking.data_generators.accounts import AccountGenerator
from banking.data_generators.communications import CommunicationGenerator
from banking.data_generators.companies import CompanyGenerator
from banking.data_generators.persons import PersonGenerator
from banking.data_generators.population import Counts
from banking.data_generators.transactions import TransactionGenerator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from banking.data_generators.entities import Entity, Pattern


class BankingUniverse:
    """A coherent bank: every id that one of its entities names is the id of another of them.

    Args:
        seed: Any integer. The same seed and counts give the same entities in every process, on every day.
        counts: How many entities of each type there are.
    """

    def __init__(self, seed: int = 42, counts: Counts | None = None) -> None:
        self.seed = seed
        self.counts = counts or Counts()
        self.companies = CompanyGenerator(seed, self.counts)
        self.persons = PersonGenerator(seed, self.counts)
        self.accounts = AccountGenerator(seed, self.counts)
        self.transactions = TransactionGenerator(seed, self.counts)
        self.communications = CommunicationGenerator(seed, self.counts)

    def entities(self) -> Iterator[Entity]:
        """All entities, what is referred to mostly before what refers to it. Nothing is kept: memory stays flat."""
        yield from self.companies.stream(self.counts.companies)
        yield from self.persons.stream(self.counts.persons)
        yield from self.accounts.stream(self.counts.accounts)
        yield from self.transactions.stream(self.counts.transactions)
        yield from self.communications.stream(self.counts.communications)

    def patterns(self) -> Iterator[Pattern]:
        """The ground truth: one record for every pattern among the transactions."""
        return self.transactions.patterns.records()
