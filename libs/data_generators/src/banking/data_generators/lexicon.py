"""The words that entities are made of: names and places drawn once from mimesis, and lists of our own.

Companies and banks are invented: mimesis names real ones, which have no business in generated suspicions. Phone
numbers and domains are of ranges that nobody has.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from mimesis import Address, Gender, Locale
from mimesis import Person as MimesisPerson

if TYPE_CHECKING:
    from collections.abc import Callable

_POOL_DRAWS = 800
_POOL_SEED = 0


@dataclass(frozen=True, slots=True)
class Bank:
    """An invented bank: its name and its code in an IBAN of its country."""

    name: str
    code: str


@dataclass(frozen=True, slots=True)
class Country:
    """What the generators know of a country.

    Attributes:
        code: ISO 3166-1 alpha-2.
        currency: ISO 4217.
        calling_code: The telephone prefix, with a plus sign.
        locale: The locale of its names.
        street_format: How a street and a number are written.
        banks: The banks there.
        legal_forms: The legal forms of companies there.
        offshore: Whether only companies sit there, of the kind that has no staff.
    """

    code: str
    currency: str
    calling_code: str
    locale: Locale
    street_format: str
    banks: tuple[Bank, ...]
    legal_forms: tuple[str, ...]
    offshore: bool = False


@dataclass(frozen=True, slots=True)
class Names:
    """The pools of one locale."""

    female: tuple[str, ...]
    male: tuple[str, ...]
    last: tuple[str, ...]
    streets: tuple[str, ...]
    cities: tuple[str, ...]
    postal_codes: tuple[str, ...]


_NUMBER_LAST = "{street} {number}"
_NUMBER_FIRST = "{number} {street}"

COUNTRIES = {
    country.code: country
    for country in (
        Country(
            "DE",
            "EUR",
            "+49",
            Locale.DE,
            _NUMBER_LAST,
            (
                Bank("Rheintal Volksbank", "90000111"),
                Bank("Hansekontor Bank", "90000222"),
                Bank("Isar Direkt", "90000333"),
            ),
            ("GmbH", "GmbH", "AG", "KG", "UG"),
        ),
        Country(
            "AT",
            "EUR",
            "+43",
            Locale.DE_AT,
            _NUMBER_LAST,
            (Bank("Donauland Bank", "99011"), Bank("Alpenkredit Wien", "99022")),
            ("GmbH", "GmbH", "AG"),
        ),
        Country(
            "CH",
            "CHF",
            "+41",
            Locale.DE_CH,
            _NUMBER_LAST,
            (Bank("Limmat Privatbank", "99101"), Bank("Seeland Kantonalkasse", "99202")),
            ("AG", "AG", "GmbH"),
        ),
        Country(
            "FR",
            "EUR",
            "+33",
            Locale.FR,
            _NUMBER_FIRST,
            (Bank("Crédit des Deux Rives", "99001"), Bank("Banque Mirabeau", "99002")),
            ("SARL", "SAS", "SA"),
        ),
        Country(
            "ES",
            "EUR",
            "+34",
            Locale.ES,
            _NUMBER_LAST,
            (Bank("Banco Levante", "9901"), Bank("Caja Sierra Norte", "9902")),
            ("S.L.", "S.L.", "S.A."),
        ),
        Country(
            "GB",
            "GBP",
            "+44",
            Locale.EN_GB,
            _NUMBER_FIRST,
            (Bank("Thornbury & Vale Bank", "TVBK9900"), Bank("Northgate Building Society", "NGBS9901")),
            ("Ltd", "Ltd", "PLC", "LLP"),
        ),
        Country(
            "IE",
            "EUR",
            "+353",
            Locale.EN_GB,
            _NUMBER_FIRST,
            (Bank("Liffey Mutual Bank", "LMBK9900"),),
            ("Ltd", "DAC", "PLC"),
        ),
        Country(
            "LU",
            "EUR",
            "+352",
            Locale.FR,
            _NUMBER_FIRST,
            (Bank("Alzette Private Bank", "990"),),
            ("S.à r.l.", "S.A."),
            offshore=True,
        ),
        Country(
            "LI",
            "CHF",
            "+423",
            Locale.DE_CH,
            _NUMBER_LAST,
            (Bank("Rätikon Trust Bank", "99808"),),
            ("Anstalt", "AG", "Stiftung"),
            offshore=True,
        ),
        Country(
            "MT",
            "EUR",
            "+356",
            Locale.EN_GB,
            _NUMBER_FIRST,
            (Bank("Grand Harbour Merchant Bank", "GHMB99044"),),
            ("Ltd", "Holdings Ltd"),
            offshore=True,
        ),
        Country(
            "CY",
            "EUR",
            "+357",
            Locale.EN_GB,
            _NUMBER_FIRST,
            (Bank("Levant Corporate Bank", "99010010"),),
            ("Ltd", "Holdings Ltd"),
            offshore=True,
        ),
    )
}

PERSON_COUNTRIES = tuple(
    COUNTRIES[code]
    for code, weight in (("DE", 8), ("FR", 4), ("GB", 4), ("ES", 3), ("AT", 2), ("CH", 2), ("IE", 1))
    for _ in range(weight)
)
"""Where persons live, by weight."""

COMPANY_COUNTRIES = PERSON_COUNTRIES + tuple(country for country in COUNTRIES.values() if country.offshore)
"""Where companies sit, by weight."""

INDUSTRIES = (
    ("Logistics", "freight forwarding and warehousing"),
    ("Foods", "food wholesale"),
    ("Motors", "used car trade"),
    ("Textiles", "textile import and export"),
    ("Solar", "solar power installation"),
    ("Pharma", "pharmaceutical manufacturing"),
    ("Software", "software development"),
    ("Consulting", "management consulting"),
    ("Construction", "building construction"),
    ("Jewellery", "precious metals and jewellery"),
    ("Hospitality", "restaurants and hotels"),
    ("Real Estate", "property letting and management"),
    ("Medical", "medical devices"),
    ("Shipping", "maritime transport"),
    ("Energy", "electricity and gas supply"),
    ("Insurance", "insurance brokerage"),
    ("Media", "advertising and publishing"),
    ("Recycling", "scrap metal recycling"),
    ("Robotics", "industrial automation"),
    ("Travel", "travel agency"),
    ("Timber", "timber trade"),
    ("Telecom", "telecommunications"),
    ("Gaming", "online gambling"),
    ("Art", "art dealing and auctions"),
    ("Farms", "agriculture and dairy"),
    ("Security", "private security services"),
    ("Chemicals", "chemical manufacturing"),
    ("Furniture", "furniture retail"),
)
"""Pairs of the word in a company's name and its industry in full."""

SHELL_WORDS = ("Blue Harbour", "Silverline", "Meridian", "Northstar", "Oakbridge", "Summit", "Amber Coast", "Polaris")
SHELL_SUFFIXES = ("Holdings", "Ventures", "Trading", "Capital", "Nominees", "Investments")
SHELL_INDUSTRY = "holding company without operations"

EMPLOYED_ELSEWHERE = ("Self-employed", "Pensioner", "Student", "Homemaker", "Freelance translator", "Farmer")
"""Occupations of persons who work for none of the companies."""


@cache
def names(locale: Locale) -> Names:
    """The names and places of a locale."""
    person = MimesisPerson(locale, seed=_POOL_SEED)
    address = Address(locale, seed=_POOL_SEED)

    def street() -> str:
        if locale is Locale.FR:
            return f"{address.street_suffix()} {address.street_name()}"
        if locale is Locale.EN_GB:
            return f"{address.street_name()} {address.street_suffix()}"
        return address.street_name()

    return Names(
        female=_pool(lambda: person.first_name(gender=Gender.FEMALE)),
        male=_pool(lambda: person.first_name(gender=Gender.MALE)),
        last=_pool(person.last_name),
        streets=_pool(street),
        cities=_pool(address.city),
        postal_codes=_pool(address.postal_code),
    )


@cache
def occupations() -> tuple[str, ...]:
    """Occupations, in English."""
    return _pool(MimesisPerson(Locale.EN, seed=_POOL_SEED).occupation)


def _pool(draw: Callable[[], str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(draw() for _ in range(_POOL_DRAWS)))


@lru_cache(maxsize=16_384)
def slug(text: str) -> str:
    """A text as it stands in an address on the web: lower-case ASCII letters and digits. Cached: names come again."""
    folded = text.lower().replace("ß", "ss").replace("ä", "ae").replace("ö", "oe").replace("ü", "ue")
    decomposed = unicodedata.normalize("NFKD", folded)
    return "".join(char for char in decomposed if char.isascii() and char.isalnum())
