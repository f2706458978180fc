"""Data that nobody here made: AMLSim's accounts and payments, from its files into both stores.

EXTERNAL_DATA=folder .venv/bin/pytest -m slow tests/integration/producer/test_producer_amlsim.py    # all of it
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import os
import re
from itertools import islice
from pathlib import Path

import pytest

from banking.streaming.entities import EntityType
from fleet.comparison import Expectation, wait_until_equal
from producer.intake import IdHash

pytestmark = pytest.mark.skipif(
    "EXTERNAL_DATA" not in os.environ, reason="EXTERNAL_DATA names no folder of external data"
)

ACCOUNTS, PAYMENTS = 20_000, 120_558
FIRST_ACCOUNTS, FIRST_PAYMENTS = 2_000, 12_000
STORE_SECONDS = 900
LOOKUP_KEYS = 500
LOOKUPS_AT_ONCE = 2

EDGES = """
g.V().has('entity_key', within(wanted)).outE('from_account', 'to_account')
 .project('payment', 'edge', 'account').by(outV().values('entity_id')).by(label).by(inV().values('entity_id'))
"""


async def publish(command, path, mapping):
    """The control totals that the command prints: read, accepted, rejected, unconfirmed and the hash."""
    status, output, errors = await command("publish", path, "--mapping", mapping)
    assert status == 0, errors
    counts = re.search(rf"{path.name} +([\d,]+) +([\d,]+) +([\d,]+) +([\d,]+) +[\d,]+ +(\w{{32}})", output)
    return (*(int(count.replace(",", "")) for count in counts.groups()[:4]), counts[5])


def rows(path):
    with gzip.open(path, "rt", newline="") as file:
        yield from csv.DictReader(file)


async def edges_of(graph, ids):
    """The edges of payments: (payment, edge, account), each as often as it is there."""
    room = asyncio.Semaphore(LOOKUPS_AT_ONCE)

    async def lookup(chunk):
        async with room:
            found = await graph.submit(EDGES, {"wanted": [f"transaction:{entity_id}" for entity_id in chunk]})
        return [(row["payment"], str(row["edge"]), row["account"]) for row in found]

    chunks = [ids[start : start + LOOKUP_KEYS] for start in range(0, len(ids), LOOKUP_KEYS)]
    return [edge for found in await asyncio.gather(*map(lookup, chunks)) for edge in found]


def first_rows(folder, accounts, payments):
    """Files of the first rows, in a folder of the test's own."""
    for name, number in (("nodes", accounts), ("transactions", payments)):
        source = Path(os.environ["EXTERNAL_DATA"]) / "amlsim" / f"{name}.csv.gz"
        with gzip.open(source) as whole, gzip.open(folder / source.name, "wb") as part:
            part.writelines(islice(whole, 1 + number))


@pytest.mark.parametrize(
    ("accounts", "payments"),
    [
        pytest.param(FIRST_ACCOUNTS, FIRST_PAYMENTS, id="the first rows"),
        pytest.param(ACCOUNTS, PAYMENTS, id="all rows", marks=pytest.mark.slow),
    ],
)
async def test_accounts_and_payments_reach_both_stores_with_their_edges(
    command, broker, graph, vector, tmp_path, accounts, payments
):
    first_rows(tmp_path, accounts, payments)
    published = [
        await publish(command, tmp_path / "nodes.csv.gz", "amlsim-accounts"),
        await publish(command, tmp_path / "transactions.csv.gz", "amlsim-payments"),
    ]
    events = [
        await broker.events("accounts-events", accounts, "amlsim-account-"),
        await broker.events("transactions-events", payments, "amlsim-payment-"),
    ]
    for (*counts, hashed), sent in zip(published, events, strict=True):
        ids = IdHash()
        for event in sent:
            ids.add(event.entity_id)
        assert (*counts, hashed) == (len(sent), len(sent), 0, 0, ids.hex())

    expectation = Expectation()
    for sent in events:
        expectation.add_all(sent)
    assert expectation.count() == {EntityType.ACCOUNT: accounts, EntityType.TRANSACTION: payments}
    comparisons = await asyncio.gather(
        *(wait_until_equal(store, expectation, STORE_SECONDS) for store in (graph, vector))
    )
    for comparison in comparisons:
        assert comparison.differences == []
        assert comparison.equal == expectation.count()

    # An id holds its row's number in the file, and the row says who pays whom.
    id_of = {event.entity_id.split("-")[2]: event.entity_id for event in events[1]}
    expected = [
        edge
        for number, row in enumerate(rows(tmp_path / "transactions.csv.gz"), start=1)
        for edge in (
            (id_of[str(number)], "from_account", f"amlsim-account-{row['sourceNodeId']}"),
            (id_of[str(number)], "to_account", f"amlsim-account-{row['targetNodeId']}"),
        )
    ]
    assert len(expected) == 2 * payments
    assert sorted(await edges_of(graph, list(id_of.values()))) == sorted(expected)


async def test_the_files_own_digits_are_kept(command, broker, tmp_path):
    first_rows(tmp_path, 1, 1)
    await publish(command, tmp_path / "nodes.csv.gz", "amlsim-accounts")
    await publish(command, tmp_path / "transactions.csv.gz", "amlsim-payments")
    [account] = await broker.events("accounts-events", 1, "amlsim-account-")
    [payment] = await broker.events("transactions-events", 1, "amlsim-payment-")
    assert account.payload["balance"] == "184.44"
    assert (payment.payload["amount"], payment.payload["executed_at"]) == ("163.3", "2024-01-02T00:00:00Z")
