"""Persons."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from banking.data_generators import lexicon
from banking.data_generators.entities import Person
from banking.data_generators.generator import EntityGenerator
from banking.data_generators.population import SECONDS_PER_DAY, Draw, moment, uuid_of

if TYPE_CHECKING:
    from banking.data_generators.lexicon import Country

_RISK_LEVELS = ("low",) * 80 + ("medium",) * 16 + ("high",) * 4
_MAIL_DOMAINS = ("post.example", "mail.example", "inbox.example", "example.org", "example.net")
ONBOARDED_FROM_DAYS, ONBOARDED_TO_DAYS = -8 * 365, -2 * 365
"""Customers are taken on between these days, counted from the reference time."""


class PersonProfile(NamedTuple):
    """What other entities need to know of a person."""

    person_id: str
    country: Country
    onboarded_at: int  # seconds from the reference time
    first_name: str
    last_name: str
    draw: Draw

    @property
    def name(self) -> str:
        """The name in full."""
        return f"{self.first_name} {self.last_name}"


class PersonGenerator(EntityGenerator[Person]):
    """Makes persons: adults, three in five of them employed by one of the population's companies."""

    def at(self, index: int) -> Person:
        """Person number `index`."""
        person_id, country, onboarded_at, first_name, last_name, draw = self.profile(index)
        pool = lexicon.names(country.locale)
        employer = self.employer(draw)
        mailbox = f"{lexicon.slug(first_name)}.{lexicon.slug(last_name)}.{draw.below(10_000)}"
        is_pep = draw.below(100) == 0
        return Person(
            person_id=person_id,
            name=f"{first_name} {last_name}",
            first_name=first_name,
            last_name=last_name,
            date_of_birth=moment(onboarded_at - SECONDS_PER_DAY * draw.between(19 * 365, 80 * 365)).date(),
            nationality=country.code if draw.chance(85) else draw.choice(lexicon.PERSON_COUNTRIES).code,
            email=f"{mailbox}@{draw.choice(_MAIL_DOMAINS)}",
            phone=f"{country.calling_code} 555 {draw.below(10_000_000):07d}",
            street=country.street_format.format(street=draw.choice(pool.streets), number=draw.between(1, 120)),
            city=draw.choice(pool.cities),
            postal_code=draw.choice(pool.postal_codes),
            country=country.code,
            occupation=draw.choice(lexicon.EMPLOYED_ELSEWHERE if employer is None else lexicon.occupations()),
            employer_id=None if employer is None else self.population.entity_id("company", employer),
            risk_level="high" if is_pep else draw.choice(_RISK_LEVELS),
            is_pep=is_pep,
            created_at=moment(onboarded_at),
        )

    def profile(self, index: int) -> PersonProfile:
        """The person as other entities see it; its draw goes on where `employer` begins."""
        digest = self.population.digest("person", index)
        draw = Draw(digest)
        country = draw.choice(lexicon.PERSON_COUNTRIES)
        onboarded_at = draw.between(ONBOARDED_FROM_DAYS * SECONDS_PER_DAY, ONBOARDED_TO_DAYS * SECONDS_PER_DAY)
        pool = lexicon.names(country.locale)
        first_name = draw.choice(draw.choice((pool.female, pool.male)))
        return PersonProfile(uuid_of(digest), country, onboarded_at, first_name, draw.choice(pool.last), draw)

    def employer(self, draw: Draw) -> int | None:
        """The number of the company that employs a person, from the draw of a fresh profile."""
        companies = self.population.counts.companies
        return draw.below(companies) if companies and draw.chance(60) else None

    def home(self, index: int) -> tuple[Country, int]:
        """The country of a person and when it became a customer, in seconds: the cheap part of the profile."""
        draw = Draw(self.population.digest("person", index))
        country = draw.choice(lexicon.PERSON_COUNTRIES)
        return country, draw.between(ONBOARDED_FROM_DAYS * SECONDS_PER_DAY, ONBOARDED_TO_DAYS * SECONDS_PER_DAY)
