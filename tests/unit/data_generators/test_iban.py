"""IBANs: published examples, and check digits computed the long way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banking.data_generators import AccountGenerator, BankingUniverse, Counts
from banking.data_generators.iban import COUNTRIES, SERIAL_DIGITS, make_iban
from banking.data_generators.lexicon import COUNTRIES as KNOWN_COUNTRIES

REGISTERED_LENGTHS = {
    "DE": 22,
    "AT": 20,
    "CH": 21,
    "LI": 21,
    "FR": 27,
    "ES": 24,
    "GB": 22,
    "IE": 22,
    "LU": 20,
    "MT": 31,
    "CY": 28,
}


def remainder(iban: str) -> int:
    """ISO 7064 MOD 97-10, one character after the other."""
    rest = 0
    for char in iban[4:] + iban[:4]:
        for digit in char if char.isdigit() else str(ord(char) - 55):
            rest = (rest * 10 + int(digit)) % 97
    return rest


@pytest.mark.parametrize(
    ("country", "bank", "serial", "iban"),
    [
        ("DE", "37040044", "0532013000", "DE89370400440532013000"),
        ("GB", "WEST1234", "5698765432", "GB82WEST12345698765432"),
        ("IE", "AIBK9311", "5212345678", "IE29AIBK93115212345678"),
        ("AT", "19043", "0234573201", "AT611904300234573201"),
        ("ES", "2100", "0200051332", "ES9121000418450200051332"),
    ],
)
def test_examples_of_the_registry(country, bank, serial, iban):
    assert make_iban(country, bank, serial) == iban


@given(st.data())
def test_every_serial_of_every_bank_gives_valid_check_digits(data):
    country = data.draw(st.sampled_from(sorted(COUNTRIES)))
    bank = data.draw(st.sampled_from(KNOWN_COUNTRIES[country].banks))
    serial = f"{data.draw(st.integers(0, 10**SERIAL_DIGITS - 1)):0{SERIAL_DIGITS}d}"
    iban = make_iban(country, bank.code, serial)
    assert len(iban) == REGISTERED_LENGTHS[country]
    assert remainder(iban) == 1
    assert iban[4:].isascii()
    if country == "FR":  # the RIB and its key are divisible by 97, with weights for bank, branch and account
        rib = iban[4:]
        assert (89 * int(rib[:5]) + 15 * int(rib[5:10]) + 3 * int(rib[10:21]) + int(rib[21:])) % 97 == 0


def test_generated_ibans_are_valid_and_differ():
    ibans = [account.iban for account in AccountGenerator(seed=7).stream(5_000)]
    assert {remainder(iban) for iban in ibans} == {1}
    assert len(set(ibans)) == len(ibans)


def test_account_agrees_with_its_owner():
    universe = BankingUniverse(3, Counts(persons=60, companies=30, accounts=300))
    countries = {person.person_id: person.country for person in universe.persons.stream(60)}
    countries |= {company.company_id: company.country for company in universe.companies.stream(30)}
    for account in universe.accounts.stream(300):
        country = countries[account.owner_id]
        assert account.iban[:2] == country
        assert account.currency == KNOWN_COUNTRIES[country].currency
        assert account.account_number in account.iban
