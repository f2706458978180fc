"""Data that nobody here made: AMLSim's accounts and payments, from its files into both stores."""

from __future__ import annotations

import asyncio
import csv
import gzip
import os
import re
from pathlib import Path

import pytest

from banking.streaming.entities import EntityType
from fleet.comparison import Expectation, wait_until_equal
from producer.intake import IdHash

ACCOUNTS, PAYMENTS = 20_000, 120_558
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


@pytest.mark.skipif("EXTERNAL_DATA" not in os.environ, reason="EXTERNAL_DATA names no folder of external data")
async def test_all_accounts_and_payments_reach_both_stores_with_their_edges(command, broker, graph, vector):
    folder = Path(os.environ["EXTERNAL_DATA"]) / "amlsim"
    published = [
        await publish(command, folder / "nodes.csv.gz", "amlsim-accounts"),
        await publish(command, folder / "transactions.csv.gz", "amlsim-payments"),
    ]
    events = [
        await broker.events("accounts-events", ACCOUNTS, "amlsim-account-"),
        await broker.events("transactions-events", PAYMENTS, "amlsim-payment-"),
    ]
    for (*counts, hashed), sent in zip(published, events, strict=True):
        ids = IdHash()
        for event in sent:
            ids.add(event.entity_id)
        assert (*counts, hashed) == (len(sent), len(sent), 0, 0, ids.hex())

    expectation = Expectation()
    for sent in events:
        expectation.add_all(sent)
    assert expectation.count() == {EntityType.ACCOUNT: ACCOUNTS, EntityType.TRANSACTION: PAYMENTS}
    comparisons = await asyncio.gather(
        *(wait_until_equal(store, expectation, STORE_SECONDS) for store in (graph, vector))
    )
    for comparison in comparisons:
        assert comparison.differences == []
        assert comparison.equal == expectation.count()

    # An id holds its row's number in the file, and the row says who pays whom.
    payments = {event.entity_id.split("-")[2]: event.entity_id for event in events[1]}
    expected = [
        edge
        for number, row in enumerate(rows(folder / "transactions.csv.gz"), start=1)
        for edge in (
            (payments[str(number)], "from_account", f"amlsim-account-{row['sourceNodeId']}"),
            (payments[str(number)], "to_account", f"amlsim-account-{row['targetNodeId']}"),
        )
    ]
    assert len(expected) == 2 * PAYMENTS
    assert sorted(await edges_of(graph, list(payments.values()))) == sorted(expected)


@pytest.mark.skipif("EXTERNAL_DATA" not in os.environ, reason="EXTERNAL_DATA names no folder of external data")
async def test_the_files_own_digits_are_kept(command, broker, tmp_path):
    folder = Path(os.environ["EXTERNAL_DATA"]) / "amlsim"
    for name in ("nodes", "transactions"):
        with gzip.open(folder / f"{name}.csv.gz") as whole:
            (tmp_path / f"{name}.csv").write_bytes(whole.readline() + whole.readline())
    await publish(command, tmp_path / "nodes.csv", "amlsim-accounts")
    await publish(command, tmp_path / "transactions.csv", "amlsim-payments")
    [account] = await broker.events("accounts-events", 1, "amlsim-account-")
    [payment] = await broker.events("transactions-events", 1, "amlsim-payment-")
    assert account.payload["balance"] == "184.44"
    assert (payment.payload["amount"], payment.payload["executed_at"]) == ("163.3", "2024-01-02T00:00:00Z")
