"""Companies."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from banking.data_generators import lexicon
from banking.data_generators.entities import Company, Officer
from banking.data_generators.generator import EntityGenerator
from banking.data_generators.persons import ONBOARDED_FROM_DAYS, ONBOARDED_TO_DAYS
from banking.data_generators.population import SECONDS_PER_DAY, Draw, moment, uuid_of

if TYPE_CHECKING:
    from banking.data_generators.lexicon import Country

_RISK_LEVELS = ("low",) * 75 + ("medium",) * 20 + ("high",) * 5
_OFFSHORE_RISK_LEVELS = ("medium",) * 40 + ("high",) * 60
_ROLES = ("director", "managing director", "secretary", "chief financial officer", "authorised signatory")
_MAX_OFFICERS = 3


class CompanyProfile(NamedTuple):
    """What other entities need to know of a company."""

    company_id: str
    country: Country
    onboarded_at: int  # seconds from the reference time
    trade_name: str
    industry: str
    legal_form: str
    draw: Draw

    @property
    def name(self) -> str:
        """The registered name."""
        return f"{self.trade_name} {self.legal_form}"


class CompanyGenerator(EntityGenerator[Company]):
    """Makes companies: some belong to a company of a lower number, all have officers where there are persons."""

    def at(self, index: int) -> Company:
        """Company number `index`."""
        profile = self.profile(index)
        country, draw = profile.country, profile.draw
        officers = [
            Officer(person_id=self.population.entity_id("person", person), role=_ROLES[place and draw.between(1, 4)])
            for place, person in enumerate(self.officers(draw))
        ]
        has_parent = index > 0 and draw.chance(30)
        pool = lexicon.names(country.locale)
        return Company(
            company_id=profile.company_id,
            name=profile.name,
            legal_form=profile.legal_form,
            registration_number=f"{country.code}-{draw.between(10_000, 999_999)}-{index:07d}",
            industry=profile.industry,
            street=country.street_format.format(street=draw.choice(pool.streets), number=draw.between(1, 200)),
            city=draw.choice(pool.cities),
            postal_code=draw.choice(pool.postal_codes),
            country=country.code,
            founded_on=moment(profile.onboarded_at - SECONDS_PER_DAY * draw.between(30, 30 * 365)).date(),
            website=f"https://{''.join(map(lexicon.slug, profile.trade_name.split()))}{index}.example",
            parent_id=self.population.entity_id("company", draw.below(index)) if has_parent else None,
            officers=officers,
            risk_level=draw.choice(_OFFSHORE_RISK_LEVELS if country.offshore else _RISK_LEVELS),
            created_at=moment(profile.onboarded_at),
        )

    def profile(self, index: int) -> CompanyProfile:
        """The company as other entities see it; its draw goes on where `officers` begins."""
        digest = self.population.digest("company", index)
        draw = Draw(digest)
        country = draw.choice(lexicon.COMPANY_COUNTRIES)
        onboarded_at = draw.between(ONBOARDED_FROM_DAYS * SECONDS_PER_DAY, ONBOARDED_TO_DAYS * SECONDS_PER_DAY)
        if country.offshore or draw.chance(10):
            industry = lexicon.SHELL_INDUSTRY
            trade_name = f"{draw.choice(lexicon.SHELL_WORDS)} {draw.choice(lexicon.SHELL_SUFFIXES)}"
        else:
            word, industry = draw.choice(lexicon.INDUSTRIES)
            trade_name = f"{draw.choice(lexicon.names(country.locale).last)} {word}"
        return CompanyProfile(
            uuid_of(digest), country, onboarded_at, trade_name, industry, draw.choice(country.legal_forms), draw
        )

    def officers(self, draw: Draw) -> list[int]:
        """The numbers of a company's officers, from the draw of a fresh profile; the first is its director."""
        persons = self.population.counts.persons
        if not persons:
            return []
        first = draw.below(persons)
        return [(first + place) % persons for place in range(min(persons, draw.between(1, _MAX_OFFICERS)))]

    def home(self, index: int) -> tuple[Country, int]:
        """The country of a company and when it became a customer, in seconds: the cheap part of the profile."""
        draw = Draw(self.population.digest("company", index))
        country = draw.choice(lexicon.COMPANY_COUNTRIES)
        return country, draw.between(ONBOARDED_FROM_DAYS * SECONDS_PER_DAY, ONBOARDED_TO_DAYS * SECONDS_PER_DAY)
