"""A universe is coherent, deterministic and streams with constant memory."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from banking.data_generators import (
    REFERENCE_TIME,
    Account,
    AccountGenerator,
    BankingUniverse,
    CommunicationGenerator,
    Company,
    CompanyGenerator,
    Counts,
    CountsError,
    Person,
    PersonGenerator,
    Transaction,
    TransactionGenerator,
)
from banking.data_generators.population import Draw
from banking.streaming.entities import ENTITY_MODELS, EntityType, Kind

GENERATORS = {
    "persons": PersonGenerator,
    "companies": CompanyGenerator,
    "accounts": AccountGenerator,
    "transactions": TransactionGenerator,
    "communications": CommunicationGenerator,
}
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
KIND_TYPES = {
    Kind.KEYWORD: str,
    Kind.TEXT: str,
    Kind.MONEY: Decimal,
    Kind.NUMBER: float,
    Kind.INTEGER: int,
    Kind.BOOLEAN: bool,
    Kind.DATE: date,
    Kind.TIMESTAMP: datetime,
}

# What seed 42 gives with the default counts. When this changes on purpose, GENERATION has to grow with it: an id must
# never stand for two contents.
SEED_42 = "8ecf1d2d"

WRITE_DIGEST = """
import hashlib, msgspec
from banking.data_generators import BankingUniverse
universe = BankingUniverse(seed=42)
digest = hashlib.sha256()
for record in (*universe.entities(), *universe.patterns()):
    digest.update(msgspec.json.encode(record))
print(digest.hexdigest())
"""

# The peak of a process that makes the first 10,000 of each type, which fills the name pools, and then 200,000.
WRITE_GROWTH = """
import resource
from banking.data_generators import BankingUniverse, Counts
counts = Counts(persons=40_000, companies=10_000, accounts=50_000, transactions=80_000, communications=20_000)
universe = BankingUniverse(2, counts)
for generator in (universe.companies, universe.persons, universe.accounts, universe.transactions,
                  universe.communications):
    for _ in generator.stream(10_000):
        pass
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = sum(1 for _ in universe.entities())
print(made, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def ids_by_type(universe: BankingUniverse) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {entity_type.value: [] for entity_type in EntityType}
    for entity in universe.entities():
        ids[entity.entity_type].append(getattr(entity, ENTITY_MODELS[entity.entity_type].id_field))
    return ids


def check_references(universe: BankingUniverse) -> None:
    """Every reference of the model names an entity that is there, of the right type."""
    ids = {entity_type: set(found) for entity_type, found in ids_by_type(universe).items()}
    for entity in universe.entities():
        payload = msgspec.to_builtins(entity)
        for reference in ENTITY_MODELS[entity.entity_type].references:
            value = payload.get(reference.field)
            items = [] if value is None else value if reference.many else [value]
            for item in items:
                beside = item if isinstance(item, dict) else payload
                named = item[reference.id_field] if reference.id_field else item
                target = beside[reference.type_field] if reference.type_field else reference.targets[0]
                assert named in ids[target], (entity, reference.field)


def counts_strategy() -> st.SearchStrategy[Counts]:
    def build(persons: int, companies: int, accounts: int, transactions: int, communications: int) -> Counts:
        accounts = accounts if persons + companies else 0
        return Counts(
            persons=persons,
            companies=companies,
            accounts=accounts,
            transactions=transactions if accounts >= 2 else 0,
            communications=communications if persons >= 2 else 0,
        )

    small = st.integers(0, 12)
    return st.builds(build, small, small, st.integers(0, 30), st.sampled_from([0, 1, 40, 320]), st.integers(0, 60))


@given(counts=counts_strategy(), seed=st.integers())
# One person's and one company's account: no two of one kind of owner, so no structuring.
@example(counts=Counts(persons=1, companies=1, accounts=2, transactions=320, communications=0), seed=0)
@settings(max_examples=40, deadline=None)
def test_any_universe_is_coherent(counts, seed):
    universe = BankingUniverse(seed, counts)
    ids = ids_by_type(universe)
    assert {plural: len(ids[kind]) for kind, plural in zip(ids, _plurals(ids), strict=True)} == msgspec.to_builtins(
        counts
    )
    for found in ids.values():
        assert len(set(found)) == len(found)
        assert all(UUID.fullmatch(entity_id) for entity_id in found)
    check_references(universe)


def _plurals(ids: dict[str, list[str]]) -> list[str]:
    return [ENTITY_MODELS[EntityType(kind)].plural for kind in ids]


def test_default_universe_is_coherent():
    universe = BankingUniverse(seed=42)
    check_references(universe)
    owners = {account.owner_id for account in universe.accounts.stream(200)}
    assert all(company.company_id in owners for company in universe.companies.stream(20))
    assert all(person.person_id in owners for person in universe.persons.stream(100))


def test_fields_have_the_names_and_types_of_the_model():
    for entity in BankingUniverse(5, Counts(persons=300, companies=100, accounts=600, transactions=900)).entities():
        model = ENTITY_MODELS[entity.entity_type]
        declared = {field.name: field.kind for field in model.fields}
        listed = {reference.field for reference in model.references if reference.many}
        for name in entity.__struct_fields__:
            value = getattr(entity, name)
            if name == model.id_field or name in listed:
                continue
            if value is not None:
                assert type(value) is KIND_TYPES[declared[name]], name
            else:
                assert name in {"employer_id", "parent_id", "from_account_id", "to_account_id"}


def test_times_and_amounts_make_sense():
    counts = Counts(persons=400, companies=100, accounts=800, transactions=3_000, communications=1_000)
    universe = BankingUniverse(11, counts)
    born_before: dict[str, datetime] = {}
    opened: dict[str, Account] = {}
    for entity in universe.entities():
        assert entity.created_at < REFERENCE_TIME
        if isinstance(entity, Person):
            born_before[entity.person_id] = entity.created_at
            assert entity.created_at.date() - entity.date_of_birth > timedelta(days=18 * 365)
            assert entity.email.isascii()
            assert entity.email.count("@") == 1
        elif isinstance(entity, Company):
            born_before[entity.company_id] = entity.created_at
            assert entity.founded_on < entity.created_at.date()
        elif isinstance(entity, Account):
            opened[entity.account_id] = entity
            assert entity.created_at >= born_before[entity.owner_id]
            assert entity.opened_on == entity.created_at.date()
            assert sum(owner.percentage for owner in entity.beneficial_owners) <= 100
            assert not entity.beneficial_owners or entity.owner_type == "company"
            assert entity.owner_id not in {owner.owner_id for owner in entity.joint_owners}
        elif isinstance(entity, Transaction):
            assert entity.amount > 0
            assert entity.amount.as_tuple().exponent == -2
            assert entity.executed_at < entity.created_at
            accounts = [entity.from_account_id, entity.to_account_id]
            assert accounts[0] != accounts[1]
            assert all(opened[account].created_at < entity.executed_at for account in accounts if account)
        else:
            assert entity.sender_id not in entity.recipient_ids
            assert len(set(entity.recipient_ids)) == len(entity.recipient_ids) >= 1
            assert "{" not in entity.subject + entity.body


def test_ownership_of_companies_has_no_cycle():
    seen: set[str] = set()
    parents = 0
    for company in CompanyGenerator(3, Counts(companies=500)).stream(500):
        assert company.parent_id is None or company.parent_id in seen
        parents += company.parent_id is not None
        seen.add(company.company_id)
    assert parents > 50


def test_salaries_come_from_the_employer():
    universe = BankingUniverse(8, Counts(persons=50, companies=10, accounts=100, transactions=2_000))
    employers = {person.person_id: person.employer_id for person in universe.persons.stream(50)}
    owners = {account.account_id: account.owner_id for account in universe.accounts.stream(100)}
    salaries = [
        (employers[owners[payment.to_account_id]], owners[payment.from_account_id])
        for payment in universe.transactions.stream(2_000)
        if payment.transaction_type == "salary"
    ]
    assert len(salaries) > 50
    assert all(payer == employer for employer, payer in salaries if employer is not None)


def test_texts_are_varied():
    universe = BankingUniverse(1, Counts(persons=500, companies=100, transactions=2_000, communications=2_000))
    messages = list(universe.communications.stream(2_000))
    assert len({message.body for message in messages}) > 1_900
    assert {message.language for message in messages} == {"en", "de", "fr"}
    assert len({payment.description for payment in universe.transactions.stream(2_000)}) > 800
    topics = Counter(universe.communications.topic(index) for index in range(2_000))
    assert len(topics) > 20
    mortgages = [m for i, m in enumerate(messages) if universe.communications.topic(i) == "mortgage"]
    assert all(any(word in m.body + m.subject for word in ("ortgage", "loan")) for m in mortgages)


@pytest.mark.parametrize("plural", GENERATORS)
def test_generator_alone_agrees_with_the_universe(plural):
    generator = GENERATORS[plural](seed=42)
    universe = BankingUniverse(seed=42)
    alone = [generator.generate() for _ in range(30)]
    assert alone == list(getattr(universe, plural).stream(30))
    assert alone[17] == getattr(universe, plural).at(17)
    assert alone[0] != GENERATORS[plural](seed=43).generate()
    assert getattr(universe, plural).at(10**9)  # past the count


def test_other_counts_share_no_id():
    # Contents depend on the counts, so ids do as well: one id never stands for two contents.
    first, second = (BankingUniverse(1, Counts(companies=companies)) for companies in (20, 21))
    assert {person.person_id for person in first.persons.stream(100)}.isdisjoint(
        person.person_id for person in second.persons.stream(100)
    )


def test_same_bytes_in_every_process():
    seen = set()
    for hash_seed, zone in (("0", "UTC"), ("1", "Asia/Tokyo"), ("random", "America/Lima")):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "TZ": zone}
        run = subprocess.run(
            [sys.executable, "-c", WRITE_DIGEST], env=environment, capture_output=True, text=True, check=True
        )
        seen.add(run.stdout.strip())
    digest = hashlib.sha256()
    universe = BankingUniverse(seed=42)
    for record in (*universe.entities(), *universe.patterns()):
        digest.update(msgspec.json.encode(record))
    assert seen == {digest.hexdigest()}
    assert digest.hexdigest()[:8] == SEED_42, "the output changed: let GENERATION grow, then record this digest"


def test_memory_stays_flat(capsys):
    run = subprocess.run([sys.executable, "-c", WRITE_GROWTH], capture_output=True, text=True, check=True)
    made, growth_kib = map(int, run.stdout.split())
    assert made == 200_000
    with capsys.disabled():
        sys.stdout.write(f"\n{made:,} entities: {growth_kib:,} KiB more resident at the peak\n")
    assert growth_kib < 4 * 1024


def test_rate(capsys):
    universe = BankingUniverse(
        4, Counts(persons=5_000, companies=1_000, accounts=8_000, transactions=12_000, communications=4_000)
    )
    started = time.process_time()
    made = sum(1 for _ in universe.entities())
    rate = made / (time.process_time() - started)
    with capsys.disabled():
        sys.stdout.write(f"\n{made:,} entities: {rate:,.0f} a second of processor time\n")


@pytest.mark.parametrize(
    ("counts", "named"),
    [
        ({"persons": -1}, "persons"),
        ({"persons": 0, "companies": 0, "accounts": 1}, "accounts"),
        ({"accounts": 1, "transactions": 1}, "transactions"),
        ({"persons": 1, "communications": 1}, "communications"),
    ],
)
def test_counts_that_allow_no_coherent_data_are_named(counts, named):
    nothing = {"accounts": 0, "transactions": 0, "communications": 0}
    with pytest.raises(CountsError, match=rf"^{named}: "):
        Counts(**{**nothing, **counts})


def test_entities_that_cannot_exist_are_refused():
    empty = Counts(persons=0, companies=0, accounts=0, transactions=0, communications=0)
    for generator in (AccountGenerator, TransactionGenerator, CommunicationGenerator):
        with pytest.raises(CountsError):
            generator(1, empty).generate()
    assert PersonGenerator(1, empty).generate().employer_id is None
    assert CompanyGenerator(1, empty).generate().officers == []


@given(digest=st.binary(min_size=64, max_size=64), bounds=st.lists(st.integers(1, 10**9), max_size=60))
def test_draws_stay_in_range_and_repeat(digest, bounds):
    first, second = Draw(digest), Draw(digest)
    values = [first.below(bound) for bound in bounds]
    assert all(0 <= value < bound for value, bound in zip(values, bounds, strict=True))
    assert values == [second.below(bound) for bound in bounds]


def test_draws_never_run_out():
    # One hash holds fewer bits than are drawn here: it is renewed, and the draws stay even.
    draw = Draw(hashlib.blake2b(b"long").digest())
    counts = Counter(draw.below(10**9) // 10**8 for _ in range(20_000))
    assert all(abs(counts[part] - 2_000) < 250 for part in range(10))


def test_draws_are_even():
    counts = Counter(Draw(hashlib.blake2b(index.to_bytes(4, "little")).digest()).below(10) for index in range(20_000))
    assert all(abs(count - 2_000) < 250 for count in counts.values())


def test_reference_time_is_fixed():
    assert datetime(2026, 1, 1, tzinfo=UTC) == REFERENCE_TIME
