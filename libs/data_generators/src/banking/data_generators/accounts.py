"""Accounts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from banking.data_generators.companies import CompanyGenerator
from banking.data_generators.entities import Account, BeneficialOwner, JointOwner
from banking.data_generators.generator import EntityGenerator
from banking.data_generators.iban import SERIAL_DIGITS, make_iban
from banking.data_generators.persons import PersonGenerator
from banking.data_generators.population import HISTORY_DAYS, SECONDS_PER_DAY, CountsError, Draw, moment, money, uuid_of

if TYPE_CHECKING:
    from banking.data_generators.lexicon import Country
    from banking.data_generators.population import Counts

_COMPANY_EVERY = 5  # where there are both, every fifth account is a company's
_SERIALS = 10**SERIAL_DIGITS
_SERIAL_STEP = 7_368_787_351  # shares no factor with 10: consecutive accounts get distant serials, none twice
_STATUSES = ("active",) * 94 + ("dormant",) * 4 + ("frozen",) * 2
_RISK_LEVELS = ("low",) * 85 + ("medium",) * 12 + ("high",) * 3
_PERSONAL_TYPES = ("checking",) * 6 + ("savings",) * 3 + ("investment",)
_BUSINESS_TYPES = ("business checking",) * 7 + ("business savings",) * 2 + ("escrow",)
_BALANCES = ((0, 50_000), (50_000, 500_000), (50_000, 500_000), (500_000, 5_000_000), (5_000_000, 40_000_000))  # cents
_BUSINESS_FACTOR = 8


class AccountProfile(NamedTuple):
    """What other entities need to know of an account."""

    account_id: str
    owner_type: str
    owner: int  # its number
    country: Country
    owner_since: int  # seconds from the reference time
    draw: Draw

    @property
    def currency(self) -> str:
        """The currency it is kept in."""
        return self.country.currency


class AccountGenerator(EntityGenerator[Account]):
    """Makes accounts. Every person and every company owns one, as far as there are enough; the rest is spread."""

    def __init__(self, seed: int = 42, counts: Counts | None = None) -> None:
        super().__init__(seed, counts)
        self.persons = PersonGenerator(seed, counts)
        self.companies = CompanyGenerator(seed, counts)
        self._serial_offset = int.from_bytes(self.population.digest("serial", 0)[:8], "little") % _SERIALS

    def at(self, index: int) -> Account:
        """Account number `index`."""
        profile = self.profile(index)
        country, draw = profile.country, profile.draw
        personal = profile.owner_type == "person"
        bank = draw.choice(country.banks)
        serial = f"{(index * _SERIAL_STEP + self._serial_offset) % _SERIALS:0{SERIAL_DIGITS}d}"
        low, high = draw.choice(_BALANCES)
        opened_at = draw.between(profile.owner_since, -(HISTORY_DAYS + 1) * SECONDS_PER_DAY)
        return Account(
            account_id=profile.account_id,
            account_number=serial,
            iban=make_iban(country.code, bank.code, serial),
            account_type=draw.choice(_PERSONAL_TYPES if personal else _BUSINESS_TYPES),
            currency=country.currency,
            balance=money(draw.between(low, high) * (1 if personal else _BUSINESS_FACTOR)),
            status=draw.choice(_STATUSES),
            opened_on=moment(opened_at).date(),
            owner_id=self.population.entity_id(profile.owner_type, profile.owner),
            owner_type=profile.owner_type,
            joint_owners=self._joint_owners(profile.owner, draw) if personal else [],
            beneficial_owners=[] if personal else self._beneficial_owners(draw),
            bank_name=bank.name,
            risk_level=draw.choice(_RISK_LEVELS),
            created_at=moment(opened_at),
        )

    def profile(self, index: int) -> AccountProfile:
        """The account as other entities see it."""
        digest = self.population.digest("account", index)
        draw = Draw(digest)
        owner_type, owner = self._owner(index, draw)
        country, since = (self.persons if owner_type == "person" else self.companies).home(owner)
        return AccountProfile(uuid_of(digest), owner_type, owner, country, since, draw)

    def contact(self, index: int) -> int | None:
        """The number of the person who owns an account, or is the director of the company that does."""
        profile = self.profile(index)
        if profile.owner_type == "person":
            return profile.owner
        officers = self.companies.officers(self.companies.profile(profile.owner).draw)
        return officers[0] if officers else None

    def count_of(self, owner_type: str) -> int:
        """How many of the population's accounts belong to persons, or to companies."""
        counts = self.population.counts
        if not counts.companies:
            return counts.accounts if owner_type == "person" else 0
        if not counts.persons:
            return counts.accounts if owner_type == "company" else 0
        of_companies = -(-counts.accounts // _COMPANY_EVERY)
        return of_companies if owner_type == "company" else counts.accounts - of_companies

    def number_of(self, owner_type: str, place: int) -> int:
        """The number of the account at a place among those of persons, or of companies."""
        counts = self.population.counts
        if not counts.persons or not counts.companies:
            return place
        if owner_type == "company":
            return place * _COMPANY_EVERY
        return place // (_COMPANY_EVERY - 1) * _COMPANY_EVERY + place % (_COMPANY_EVERY - 1) + 1

    def _owner(self, index: int, draw: Draw) -> tuple[str, int]:
        counts = self.population.counts
        if not counts.persons + counts.companies:
            raise CountsError("accounts: they need persons or companies that own them")
        if not counts.persons:
            owner_type, place, owners = "company", index, counts.companies
        elif not counts.companies:
            owner_type, place, owners = "person", index, counts.persons
        elif index % _COMPANY_EVERY == 0:
            owner_type, place, owners = "company", index // _COMPANY_EVERY, counts.companies
        else:
            owner_type, place, owners = "person", index - index // _COMPANY_EVERY - 1, counts.persons
        return owner_type, place if place < owners else draw.below(owners)

    def _joint_owners(self, owner: int, draw: Draw) -> list[JointOwner]:
        persons = self.population.counts.persons
        if persons < 2 or not draw.chance(15):
            return []
        other = (owner + 1 + draw.below(persons - 1)) % persons
        return [JointOwner(owner_id=self.population.entity_id("person", other), owner_type="person")]

    def _beneficial_owners(self, draw: Draw) -> list[BeneficialOwner]:
        """Nobody, or up to three persons with at least a quarter each."""
        persons = self.population.counts.persons
        if not persons or not draw.chance(60):
            return []
        number = min(persons, draw.between(1, 3))
        first = draw.below(persons)
        return [
            BeneficialOwner(
                owner_id=self.population.entity_id("person", (first + place) % persons),
                owner_type="person",
                percentage=float(draw.between(25, 100 // number)),
            )
            for place in range(number)
        ]
