"""The entities that the generators make: plain msgspec structs with the payload fields of the entity model.

What an entity does not have is None (or an empty list) here and left out when it is encoded or converted.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import ClassVar

import msgspec


class Person(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A customer. `employer_id` is a company's id."""

    entity_type: ClassVar[str] = "person"

    person_id: str
    name: str
    first_name: str
    last_name: str
    date_of_birth: date
    nationality: str
    email: str
    phone: str
    street: str
    city: str
    postal_code: str
    country: str
    occupation: str
    employer_id: str | None = None
    risk_level: str
    is_pep: bool
    created_at: datetime


class Officer(msgspec.Struct, frozen=True, kw_only=True):
    """A person who acts for a company, and as what."""

    person_id: str
    role: str


class Company(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A legal entity. `parent_id` is the id of the company that owns it; ownership has no cycles."""

    entity_type: ClassVar[str] = "company"

    company_id: str
    name: str
    legal_form: str
    registration_number: str
    industry: str
    street: str
    city: str
    postal_code: str
    country: str
    founded_on: date
    website: str
    parent_id: str | None = None
    officers: list[Officer] = []
    risk_level: str
    created_at: datetime


class JointOwner(msgspec.Struct, frozen=True, kw_only=True):
    """A person who owns an account beside its owner."""

    owner_id: str
    owner_type: str


class BeneficialOwner(msgspec.Struct, frozen=True, kw_only=True):
    """A person behind a company's account and the share held, in percent."""

    owner_id: str
    owner_type: str
    percentage: float


class Account(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A bank account. `owner_type` says whether `owner_id` is a person's or a company's id."""

    entity_type: ClassVar[str] = "account"

    account_id: str
    account_number: str
    iban: str
    account_type: str
    currency: str
    balance: Decimal
    status: str
    opened_on: date
    owner_id: str
    owner_type: str
    joint_owners: list[JointOwner] = []
    beneficial_owners: list[BeneficialOwner] = []
    bank_name: str
    risk_level: str
    created_at: datetime


class Transaction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A payment. A cash deposit comes from no account and a cash withdrawal goes to none."""

    entity_type: ClassVar[str] = "transaction"

    transaction_id: str
    from_account_id: str | None = None
    to_account_id: str | None = None
    amount: Decimal
    currency: str
    transaction_type: str
    description: str
    reference: str
    status: str
    executed_at: datetime
    created_at: datetime


class Communication(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message from one person to one or more others."""

    entity_type: ClassVar[str] = "communication"

    communication_id: str
    channel: str
    sender_id: str
    recipient_ids: list[str]
    subject: str
    body: str
    language: str
    sent_at: datetime
    created_at: datetime


class Pattern(msgspec.Struct, frozen=True, kw_only=True):
    """Ground truth: a pattern that was planted among the transactions, for judging what finds it.

    Attributes:
        pattern_id: Its id, in no payload.
        kind: `structuring` (cash deposits below the reporting threshold, then moved on), `ring` (money that returns to
            the account it left) or `mule_chain` (money handed on within hours, each hop keeping a commission).
        account_ids: The accounts, in the order the money passes them.
        person_ids: The persons who own them or act for the companies that do.
        transaction_ids: The payments, in time order.
        communication_ids: Messages between those persons about it; empty where too few are generated.
        total: The sum of the payments.
        currency: The currency of all of them.
        started_at: The first payment's time.
        ended_at: The last payment's time.
    """

    pattern_id: str
    kind: str
    account_ids: list[str]
    person_ids: list[str]
    transaction_ids: list[str]
    communication_ids: list[str]
    total: Decimal
    currency: str
    started_at: datetime
    ended_at: datetime


Entity = Person | Company | Account | Transaction | Communication
