"""The queries of docs/graph.md, run as they stand on a generated bank, find what was planted and nothing else.

What is not planted is worked out here from the generated entities, without the graph.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from banking.data_generators import (
    Account,
    BankingUniverse,
    Communication,
    Company,
    Counts,
    Pattern,
    Person,
    Transaction,
)
from banking.streaming.entity_converter import convert_entity_to_event
from banking.streaming.sink import Status
from fleet.compose import ROOT
from fleet.stores import GraphReader
from graph_consumer.sink import GraphSink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

    from graph_consumer.settings import GraphSettings

Item = TypeVar("Item")

TEXT = (ROOT / "docs" / "graph.md").read_text(encoding="utf-8")
QUERIES = dict(re.findall(r"^### (\d+)\. .*?^```groovy\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE))
SECONDS = 120.0
"""When a query counts as hanging."""

COUNTS = Counts(persons=300, companies=60, accounts=600, transactions=30 * 150, communications=900)
YEAR = {"since": "2025-01-01T00:00:00Z", "until": "2026-02-01T00:00:00Z"}
THRESHOLD = 10_000


class Bank:
    """A generated bank with all its entities in memory."""

    def __init__(self) -> None:
        universe = BankingUniverse(7, COUNTS)
        self.entities = list(universe.entities())
        self.persons = [entity for entity in self.entities if isinstance(entity, Person)]
        self.companies = [entity for entity in self.entities if isinstance(entity, Company)]
        self.accounts = {entity.account_id: entity for entity in self.entities if isinstance(entity, Account)}
        self.payments = {entity.transaction_id: entity for entity in self.entities if isinstance(entity, Transaction)}
        self.messages = [entity for entity in self.entities if isinstance(entity, Communication)]
        self.patterns = list(universe.patterns())
        self.account_ids = list(self.accounts)

    def planted(self, kind: str) -> list[Pattern]:
        return [pattern for pattern in self.patterns if pattern.kind == kind]

    @staticmethod
    def owners(account: Account) -> list[tuple[str, str, float | None]]:
        """The owners of an account: key, role, percentage."""
        found: list[tuple[str, str, float | None]] = [(f"{account.owner_type}:{account.owner_id}", "owner", None)]
        found += [(f"{joint.owner_type}:{joint.owner_id}", "joint", None) for joint in account.joint_owners]
        return found + [
            (f"{owner.owner_type}:{owner.owner_id}", "beneficial", owner.percentage)
            for owner in account.beneficial_owners
        ]

    def below(self, company_ids: Iterable[str], levels: int) -> dict[str, int]:
        """The subsidiaries of companies, with how far they are below them."""
        found: dict[str, int] = {}
        parents = set(company_ids)
        for level in range(1, levels + 1):
            parents = {company.company_id for company in self.companies if company.parent_id in parents}
            found.update((company_id, level) for company_id in parents - found.keys())
        return found

    def behind(self, account_id: str | None) -> set[str]:
        """The persons who own an account or are officers of a company that does."""
        if account_id is None:
            return set()
        officers = {company.company_id: company.officers for company in self.companies}
        persons = set()
        for key, _, _ in self.owners(self.accounts[account_id]):
            kind, _, owner = key.partition(":")
            persons |= {owner} if kind == "person" else {officer.person_id for officer in officers[owner]}
        return persons


class Investigator:
    """Asks the document's questions."""

    def __init__(self, reader: GraphReader) -> None:
        self._reader = reader

    async def ask(self, number: int, **bindings: Any) -> list[Any]:
        async with asyncio.timeout(SECONDS):
            return await self._reader.submit(QUERIES[str(number)], bindings)


@pytest.fixture(scope="module")
def bank(settings: GraphSettings) -> Bank:
    """The bank, in the graph."""
    bank = Bank()
    asyncio.run(store(settings, bank.entities))
    return bank


async def store(settings: GraphSettings, entities: Sequence[object]) -> None:
    sink = GraphSink(settings)
    async with asyncio.timeout(300):
        for batch in parts(entities, 500):
            events = [convert_entity_to_event(entity, source="generator") for entity in batch]
            while not {outcome.status for outcome in await sink.write(events)} <= {Status.APPLIED, Status.STALE}:
                await asyncio.sleep(0.1)
    await sink.close()


@pytest.fixture
async def investigator(settings: GraphSettings) -> AsyncIterator[Investigator]:
    reader = GraphReader(settings)
    yield Investigator(reader)
    await reader.close()


def test_there_are_ten() -> None:
    assert list(QUERIES) == [str(number) for number in range(1, 11)]


async def test_accounts_of_a_person_through_companies(bank: Bank, investigator: Investigator) -> None:
    through = 0
    for person in [company.officers[0].person_id for company in bank.companies[:12]]:
        direct = {
            company.company_id
            for company in bank.companies
            if person in {officer.person_id for officer in company.officers}
        }
        holders = {f"person:{person}"} | {f"company:{name}" for name in direct | bank.below(direct, 4).keys()}
        expected = Counter(
            (account.account_id, key, role)
            for account in bank.accounts.values()
            for key, role, _ in bank.owners(account)
            if key in holders
        )
        rows = await investigator.ask(1, person=person)
        assert Counter((row["account"], row["holder"], row["role"]) for row in rows) == expected
        through += sum(key.startswith("company:") for _, key, _ in expected)
    assert through > 12


async def test_a_ring_is_found_from_each_of_its_accounts(bank: Bank, investigator: Investigator) -> None:
    rings = bank.planted("ring")
    assert len(rings) == 10
    for ring in rings:
        period = {
            "since": text(ring.started_at - timedelta(hours=1)),
            "until": text(ring.ended_at + timedelta(hours=1)),
        }
        for place, start in enumerate(ring.account_ids):
            [row] = await investigator.ask(2, **period, accounts=[start], low=0.8, high=1.25)
            in_turn = [*ring.account_ids[place + 1 :], *ring.account_ids[: place + 1]]
            assert row["accounts"] == in_turn
            assert set(row["payments"]) == set(ring.transaction_ids)


async def test_money_that_is_handed_on_within_a_day(bank: Bank, investigator: Investigator) -> None:
    chains = bank.planted("mule_chain")
    assert len(chains) == 10
    for chain in chains:
        rows = await investigator.ask(3, **YEAR, accounts=[chain.account_ids[0]], hours=24, kept=0.9)
        longest = rows[0]
        assert longest["payments"] == chain.transaction_ids
        assert [*longest["accounts"], longest["ends_at"]] == chain.account_ids


async def test_all_accounts_show_the_chains_that_were_planted_and_no_others(
    bank: Bank, investigator: Investigator
) -> None:
    """Of three payments or more; where a chain begins later, or ends earlier, it is part of one that is planted."""
    found = []
    for some in parts(bank.account_ids, 100):
        rows = await investigator.ask(3, **YEAR, accounts=some, hours=6, kept=0.9)
        found += ["".join(row["payments"]) for row in rows if len(row["payments"]) >= 3]
    planted = {"".join(chain.transaction_ids) for chain in bank.planted("mule_chain")}
    assert {chain for chain in found if not any(chain != other and chain in other for other in found)} == planted


async def test_common_recipients(bank: Bank, investigator: Investigator) -> None:
    suspects = bank.account_ids[:60]
    payers = defaultdict(set)
    for payment in bank.payments.values():
        if payment.from_account_id in suspects and payment.to_account_id is not None:
            payers[payment.to_account_id].add(payment.from_account_id)
    expected = {recipient: some for recipient, some in payers.items() if len(some) >= 3}
    assert len(expected) > 3
    rows = await investigator.ask(4, **YEAR, accounts=suspects, payers=3)
    assert {row["recipient"]: set(row["payers"]) for row in rows} == expected
    assert len(rows) == len(expected)


async def test_structuring(bank: Bank, investigator: Investigator) -> None:
    planted = {pattern.account_ids[0]: set(pattern.transaction_ids[:-1]) for pattern in bank.planted("structuring")}
    assert len(planted) == 10
    found = {}
    for some in parts(bank.account_ids, 200):
        rows = await investigator.ask(5, **YEAR, accounts=some, threshold=THRESHOLD, deposits=5)
        found.update({row["account"]: set(row["deposits"]) for row in rows})
    assert found == planted


async def test_joint_and_beneficial_owners(bank: Bank, investigator: Investigator) -> None:
    shared = [account for account in bank.accounts.values() if len(bank.owners(account)) > 1]
    persons = {key for account in shared[::7] for key, _, _ in bank.owners(account) if key.startswith("person:")}
    assert len(persons) > 10
    roles = set()
    for person in sorted(persons)[:25]:
        expected = Counter(
            (account.account_id, role, percentage, other, others_role, others_percentage)
            for account in shared
            for key, role, percentage in bank.owners(account)
            for other, others_role, others_percentage in bank.owners(account)
            if key == person != other
        )
        rows = await investigator.ask(6, person=person.removeprefix("person:"))
        found = Counter(
            (
                row["account"], row["own"]["role"], row["own"].get("percentage"),
                row["other"], row["theirs"]["role"], row["theirs"].get("percentage"),
            )
            for row in rows
        )  # fmt: skip
        assert found == expected
        roles |= {row["theirs"]["role"] for row in rows}
    assert roles == {"owner", "joint", "beneficial"}


async def test_subsidiaries_down_some_levels(bank: Bank, investigator: Investigator) -> None:
    names = {company.company_id: company.name for company in bank.companies}
    depths = {company: max(bank.below([company], 5).values(), default=0) for company in names}
    assert max(depths.values()) >= 2
    for top in sorted(names, key=lambda company: -depths[company])[:8]:
        for levels in (1, 2, 5):
            rows = await investigator.ask(7, company=top, levels=levels)
            expected = bank.below([top], levels)
            assert {row["company"]: row["level"] for row in rows} == expected
            assert len(rows) == len(expected)
            assert all(row["name"] == names[row["company"]] for row in rows)


async def test_companies_that_own_each_other_in_a_circle_end_a_query_too(
    settings: GraphSettings, investigator: Investigator, unique: str
) -> None:
    circle = [f"{unique}{number}" for number in range(5)]
    companies = [
        {"entity_type": "company", "company_id": below, "name": below, "parent_id": above}
        for above, below in pairwise([circle[-1], *circle])
    ]
    await asyncio.to_thread(asyncio.run, store(settings, companies))
    for levels in (3, 50):
        rows = await investigator.ask(7, company=circle[0], levels=levels)
        expected = [(company, level) for level, company in enumerate(circle) if 0 < level <= levels]
        assert [(row["company"], row["level"]) for row in rows] == expected


async def test_who_talks_to_whom_around_a_payment(bank: Bank, investigator: Investigator) -> None:
    planted = found_of_planted = 0
    days = timedelta(days=15)
    for pattern in bank.patterns:
        payment = bank.payments[pattern.transaction_ids[-1 if pattern.kind == "structuring" else 0]]
        people = bank.behind(payment.from_account_id) | bank.behind(payment.to_account_id)
        expected = {
            (message.communication_id, message.sender_id, recipient)
            for message in bank.messages
            for recipient in message.recipient_ids
            if {message.sender_id, recipient} <= people and abs(message.sent_at - payment.executed_at) <= days
        }
        rows = await investigator.ask(8, reference=payment.reference, days=15)
        found = {(row["message"], row["sender"], row["recipient"]) for row in rows}
        assert found == expected
        planted += len(pattern.communication_ids)
        found_of_planted += len({message for message, _, _ in found} & set(pattern.communication_ids))
    assert planted == found_of_planted > 20


async def test_fan_in(bank: Bank, investigator: Investigator) -> None:
    payers: dict[tuple[str, int], list[str]] = defaultdict(list)
    for payment in bank.payments.values():
        if payment.from_account_id is not None and payment.to_account_id is not None:
            size = math.floor(math.log(float(payment.amount)) / math.log(1.5))
            payers[payment.to_account_id, size].append(payment.from_account_id)
    expected = Counter(
        (account, frozenset(some), len(some)) for (account, _), some in payers.items() if len(set(some)) >= 4
    )
    assert len(expected) > 10
    found: Counter[tuple[str, frozenset[str], int]] = Counter()
    for some in parts(bank.account_ids, 200):
        rows = await investigator.ask(9, **YEAR, accounts=some, payers=4, each=1)
        found.update((row["account"], frozenset(row["payers"]), row["payments"]) for row in rows)
    assert found == expected


async def test_the_shortest_path_between_two_persons(bank: Bank, investigator: Investigator) -> None:
    neighbours = ties(bank)
    persons = [person.person_id for person in bank.persons[::70]]
    lengths = set()
    for one, other in combinations(persons, 2):
        distance = distances(neighbours, f"person:{one}").get(f"person:{other}")
        answer = await investigator.ask(10, person=one, other=other)
        if distance is None or distance > 6:
            assert answer == []
            continue
        [path] = answer
        assert (path[0], path[-1], len(path) - 1) == (f"person:{one}", f"person:{other}", distance)
        assert all(after in neighbours[before] for before, after in pairwise(path))
        lengths.add(distance)
    assert len(lengths) > 1


@pytest.mark.parametrize("language", ["sh", "python"])
async def test_the_ways_to_ask_work_as_written(settings: GraphSettings, bank: Bank, language: str) -> None:
    [snippet] = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    host, port = settings.janusgraph_servers[0]
    name = next(name for name, number in Counter(person.name for person in bank.persons).items() if number == 1)
    here = snippet.replace("localhost:8182", f"{host}:{port}").replace("John Doe", name)
    command = [sys.executable, "-c", here + "print(people)\n"] if language == "python" else ["bash", "-euc", here]
    result = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, check=False, env=os.environ
    )
    assert result.returncode == 0, result.stderr
    person = next(person for person in bank.persons if person.name == name)
    assert f"person:{person.person_id}" in result.stdout


async def test_money_is_exact_in_extra(bank: Bank, investigator: Investigator) -> None:
    payment = next(iter(bank.payments.values()))
    script = "live.V().has('reference', reference).project('amount', 'extra').by('amount').by('extra')"
    [found] = await investigator._reader.submit(script, {"reference": payment.reference})
    assert found["amount"] == float(payment.amount)
    assert Decimal(re.findall(r'"amount":"([0-9.]+)"', found["extra"])[0]) == payment.amount


def ties(bank: Bank) -> dict[str, set[str]]:
    """What is tied to what, by the edges that the tenth question follows."""
    neighbours: dict[str, set[str]] = defaultdict(set)

    def tie(one: str, other: str | None) -> None:
        if other is not None:
            neighbours[one].add(other)
            neighbours[other].add(one)

    for person in bank.persons:
        tie(f"person:{person.person_id}", person.employer_id and f"company:{person.employer_id}")
    for company in bank.companies:
        tie(f"company:{company.company_id}", company.parent_id and f"company:{company.parent_id}")
        for officer in company.officers:
            tie(f"company:{company.company_id}", f"person:{officer.person_id}")
    for account in bank.accounts.values():
        for owner, _, _ in bank.owners(account):
            tie(f"account:{account.account_id}", owner)
    for message in bank.messages:
        for person_id in (message.sender_id, *message.recipient_ids):
            tie(f"communication:{message.communication_id}", f"person:{person_id}")
    return neighbours


def distances(neighbours: dict[str, set[str]], start: str) -> dict[str, int]:
    found = {start: 0}
    border = {start}
    while border:
        border = {other for one in border for other in neighbours[one]} - found.keys()
        found.update(dict.fromkeys(border, max(found.values()) + 1))
    return found


def parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
