"""Account numbers: IBANs (ISO 13616) with valid check digits, national ones included where a country has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SERIAL_DIGITS = 10
"""Every IBAN holds a serial number of this many digits, so different serials never share an IBAN."""

_LETTERS = str.maketrans({chr(ord("A") + offset): str(10 + offset) for offset in range(26)})
_SPANISH_WEIGHTS = (1, 2, 4, 8, 5, 10, 9, 7, 3, 6)


def make_iban(country: str, bank_code: str, serial: str) -> str:
    """The IBAN of an account.

    Args:
        country: A country of `COUNTRIES`.
        bank_code: The bank's code there; see the bank lists of the lexicon.
        serial: `SERIAL_DIGITS` digits.
    """
    bban = _BBAN[country](bank_code, serial)
    check = 98 - int(f"{bban}{country}00".translate(_LETTERS)) % 97
    return f"{country}{check:02d}{bban}"


def _french(bank: str, serial: str) -> str:
    branch, account = "00100", f"0{serial}"
    key = 97 - (89 * int(bank) + 15 * int(branch) + 3 * int(account)) % 97
    return f"{bank}{branch}{account}{key:02d}"


def _spanish(bank: str, serial: str) -> str:
    branch = "0418"
    return f"{bank}{branch}{_spanish_digit(f'00{bank}{branch}')}{_spanish_digit(serial)}{serial}"


def _spanish_digit(digits: str) -> int:
    rest = 11 - sum(int(digit) * weight for digit, weight in zip(digits, _SPANISH_WEIGHTS, strict=True)) % 11
    return {10: 1, 11: 0}.get(rest, rest)


_BBAN: dict[str, Callable[[str, str], str]] = {
    "DE": lambda bank, serial: f"{bank}{serial}",
    "AT": lambda bank, serial: f"{bank}0{serial}",
    "CH": lambda bank, serial: f"{bank}00{serial}",
    "LI": lambda bank, serial: f"{bank}00{serial}",
    "FR": _french,
    "ES": _spanish,
    "GB": lambda bank, serial: f"{bank}{serial}",
    "IE": lambda bank, serial: f"{bank}{serial}",
    "LU": lambda bank, serial: f"{bank}000{serial}",
    "MT": lambda bank, serial: f"{bank}00000000{serial}",
    "CY": lambda bank, serial: f"{bank}000000{serial}",
}

COUNTRIES = frozenset(_BBAN)
"""The countries whose IBANs can be made."""
