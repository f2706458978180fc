"""The data that the benchmarks publish: generated entities, as events."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from banking.data_generators import Counts
from banking.streaming import StreamingConfig, StreamingOrchestrator
from banking.streaming.entities import EntityType
from banking.streaming.events import create_event

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from banking.streaming.events import EntityEvent

_REFERENCES = ("employer_id", "owner_id", "owner_type", "joint_owners", "beneficial_owners")


def mix(number: int) -> Counts:
    """How many entities of each type make up so many."""
    part = number // 20
    return Counts(
        persons=4 * part,
        companies=part,
        accounts=5 * part,
        transactions=number - 13 * part,
        communications=3 * part,
    )


def mixed(number: int, seed: int) -> Iterator[EntityEvent]:
    """Events of all five types; another seed, other entities."""
    return _generated(seed, mix(number))


def entities(number: int, name: str) -> list[EntityEvent]:
    """Persons and accounts without references, as many of each, under ids of that name."""
    return [
        create_event(
            event.entity_type,
            f"{name}-{event.entity_id}",
            {key: value for key, value in event.payload.items() if key not in _REFERENCES},
            source="benchmark",
            timestamp=event.timestamp,
        )
        for event in _generated(7, _counts(persons=number // 2, accounts=number // 2))
    ]


def payments(number: int, name: str, accounts: Sequence[EntityEvent]) -> list[EntityEvent]:
    """Transactions between accounts that are there."""
    ids = [event.entity_id for event in accounts if event.entity_type is EntityType.ACCOUNT]
    return [
        create_event(
            EntityType.TRANSACTION,
            f"{name}-t{index}",
            {
                "from_account_id": ids[index % len(ids)],
                "to_account_id": ids[(index * 7 + 1) % len(ids)],
                "amount": f"{index}.50",
                "currency": "EUR",
                "description": f"payment {index}",
                "executed_at": "2024-03-31T12:00:00Z",
            },
            source="benchmark",
        )
        for index in range(number)
    ]


def communications(number: int, *, texts: bool) -> list[EntityEvent]:
    """Messages, with texts to embed or without."""
    return [
        create_event(
            EntityType.COMMUNICATION,
            event.entity_id,
            event.payload,
            source="benchmark",
            text_for_embedding=None if texts else "",
            timestamp=event.timestamp,
        )
        for event in _generated(7, _counts(persons=200, communications=number))
        if event.entity_type is EntityType.COMMUNICATION
    ]


def _counts(**counts: int) -> Counts:
    """None of a type that is not named."""
    return Counts(**{field.name: 0 for field in fields(Counts)} | counts)


def _generated(seed: int, counts: Counts) -> Iterator[EntityEvent]:
    config = StreamingConfig(
        seed=seed,
        person_count=counts.persons,
        company_count=counts.companies,
        account_count=counts.accounts,
        transaction_count=counts.transactions,
        communication_count=counts.communications,
    )
    return StreamingOrchestrator(config).events()
