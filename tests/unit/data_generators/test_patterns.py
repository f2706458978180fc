"""The ground truth tells the truth: each record is looked up among the transactions and recognised by its shape."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest

from banking.data_generators import BankingUniverse, Counts, Pattern, Transaction
from banking.data_generators.patterns import BLOCK

COUNTS = Counts(persons=300, companies=60, accounts=600, transactions=30 * BLOCK + 20, communications=600)


@pytest.fixture(scope="module")
def universe() -> BankingUniverse:
    return BankingUniverse(9, COUNTS)


@pytest.fixture(scope="module")
def transactions(universe) -> dict[str, Transaction]:
    return {payment.transaction_id: payment for payment in universe.transactions.stream(COUNTS.transactions)}


def of_kind(universe: BankingUniverse, kind: str) -> list[Pattern]:
    return [pattern for pattern in universe.patterns() if pattern.kind == kind]


def payments_of(pattern: Pattern, transactions: dict[str, Transaction]) -> list[Transaction]:
    return [transactions[transaction_id] for transaction_id in pattern.transaction_ids]


def test_records_agree_with_the_transactions(universe, transactions):
    records = list(universe.patterns())
    assert len(records) == 30
    planted = [transaction_id for record in records for transaction_id in record.transaction_ids]
    assert len(set(planted)) == len(planted)
    for record in records:
        payments = payments_of(record, transactions)
        assert sum((payment.amount for payment in payments), Decimal(0)) == record.total
        assert {payment.currency for payment in payments} == {record.currency}
        assert payments[0].executed_at == record.started_at
        assert payments[-1].executed_at == record.ended_at
        assert all(one.executed_at < next_one.executed_at for one, next_one in pairwise(payments))
        touched = {payment.from_account_id for payment in payments} | {payment.to_account_id for payment in payments}
        assert touched - {None} == set(record.account_ids)


def test_structuring_stays_below_the_threshold_and_moves_on(universe, transactions):
    for pattern in of_kind(universe, "structuring"):
        *deposits, moved_on = payments_of(pattern, transactions)
        assert len(deposits) >= 6
        assert all(Decimal(8_900) <= deposit.amount < Decimal(10_000) for deposit in deposits)
        assert {(deposit.from_account_id, deposit.to_account_id) for deposit in deposits} == {
            (None, pattern.account_ids[0])
        }
        assert moved_on.from_account_id == pattern.account_ids[0]
        assert moved_on.amount > sum((deposit.amount for deposit in deposits), Decimal(0)) * Decimal("0.9")


def test_rings_return_to_where_they_began(universe, transactions):
    for pattern in of_kind(universe, "ring"):
        payments = payments_of(pattern, transactions)
        assert [payment.from_account_id for payment in payments] == pattern.account_ids
        assert all(one.to_account_id == next_one.from_account_id for one, next_one in pairwise(payments))
        assert payments[-1].to_account_id == payments[0].from_account_id
        assert len(set(pattern.account_ids)) == len(pattern.account_ids) >= 3


def test_mule_chains_hand_on_less_within_hours(universe, transactions):
    for pattern in of_kind(universe, "mule_chain"):
        payments = payments_of(pattern, transactions)
        for one, next_one in pairwise(payments):
            assert one.to_account_id == next_one.from_account_id
            assert Decimal("0.9") * one.amount < next_one.amount < one.amount
            assert (next_one.executed_at - one.executed_at).total_seconds() <= 5 * 3_600
        assert len(set(pattern.account_ids)) == len(payments) + 1 >= 4


def test_messages_about_patterns_are_between_the_people_behind_them(universe):
    messages = {message.communication_id: message for message in universe.communications.stream(600)}
    found = 0
    for pattern in universe.patterns():
        for communication_id in pattern.communication_ids:
            message = messages[communication_id]
            assert {message.sender_id, *message.recipient_ids} <= set(pattern.person_ids)
            assert message.sent_at < pattern.started_at
            found += 1
    assert found >= 25


def test_default_data_holds_every_kind():
    patterns = list(BankingUniverse(seed=42).patterns())
    assert {pattern.kind for pattern in patterns} == {"structuring", "ring", "mule_chain"}


def test_what_too_few_accounts_allow():
    few = BankingUniverse(1, Counts(persons=2, companies=0, accounts=2, transactions=600, communications=10))
    assert {pattern.kind for pattern in few.patterns()} == {"structuring"}
    assert list(BankingUniverse(1, Counts(transactions=BLOCK - 1)).patterns()) == []
