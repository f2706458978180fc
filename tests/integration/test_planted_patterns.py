"""Two questions of docs/graph.md on data that nobody here wrote: AMLSim's, where the accounts of patterns are labelled.

What the questions must find follows from the file alone; how much of it is labelled is printed.

    EXTERNAL_DATA=folder .venv/bin/pytest -m slow -s tests/integration/test_planted_patterns.py
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from fleet.compose import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleet.stores import GraphReader
    from tests.integration.conftest import AmlSim

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("EXTERNAL_DATA" not in os.environ, reason="EXTERNAL_DATA names no folder of external data"),
]

QUERIES = dict(
    re.findall(
        r"^### (\d+)\. .*?^```groovy\n(.*?)^```", (ROOT / "docs" / "graph.md").read_text(), re.DOTALL | re.MULTILINE
    )
)
PERIOD = {"since": "2024-01-01T00:00:00Z", "until": "2025-01-01T00:00:00Z"}
LOW, HIGH = 0.95, 1.05
RING, FAN_IN = "2", "9"


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    terminal = request.config.get_terminal_writer()
    return lambda line: terminal.line(f"[amlsim] {line}")


async def ask(graph: GraphReader, query: str, accounts: list[str], a_time: int, **bindings: Any) -> list[Any]:
    """Ask for some accounts at a time, two at once."""
    rows: list[Any] = []
    starts = iter(range(0, len(accounts), a_time))

    async def ask_on() -> None:
        for start in starts:
            some = accounts[start : start + a_time]
            rows.extend(await graph.submit(QUERIES[query], {**PERIOD, **bindings, "accounts": some}))

    async with asyncio.timeout(900), asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(ask_on())
    return rows


async def test_fan_in(graph: GraphReader, amlsim: AmlSim, say: Callable[[str], None]) -> None:
    """Three payers or more, each paying twice on average, amounts of one size."""
    payers: dict[tuple[str, int], list[str]] = defaultdict(list)
    for source, target, amount in amlsim.payments:
        payers[target, math.floor(math.log(amount) / math.log(1.5))].append(source)
    expected = {
        account
        for (account, _), some in payers.items()
        if len(set(some)) >= 3 and len(some) >= 2 * len(set(some))
    }  # fmt: skip
    rows = await ask(graph, FAN_IN, amlsim.accounts, 200, payers=3, each=2)
    found = {row["account"] for row in rows}
    assert found == expected
    say(
        f"fan-in: {len(found)} accounts found, {len(found & amlsim.labelled)} of them labelled, "
        f"{len(found - amlsim.labelled)} not; {len(amlsim.labelled)} are labelled for all patterns"
    )
    assert len(found & amlsim.labelled) > 20 * len(found - amlsim.labelled)


async def test_rings(graph: GraphReader, amlsim: AmlSim, say: Callable[[str], None]) -> None:
    """From every labelled account and every fortieth of the others; few at a time, for the sake of the time limit."""
    others = [account for account in amlsim.accounts if account not in amlsim.labelled]
    starts = sorted(amlsim.labelled) + others[::40]
    random.Random(7).shuffle(starts)  # those that pay very many are neighbours in the file
    expected = rings(amlsim.payments, starts)
    rows = await ask(graph, RING, starts, 5, low=LOW, high=HIGH)
    found = {frozenset(row["accounts"]) for row in rows}
    assert found == expected
    accounts = frozenset().union(*found)
    say(
        f"rings: {len(found)} found, of labelled accounts alone {sum(ring <= amlsim.labelled for ring in found)}; "
        f"on them {len(accounts & amlsim.labelled)} of {len(amlsim.labelled)} labelled accounts "
        f"and {len(accounts - amlsim.labelled)} that are not labelled"
    )
    assert len(accounts & amlsim.labelled) > len(accounts - amlsim.labelled)


def rings(payments: list[tuple[str, str, float]], starts: list[str]) -> set[frozenset[str]]:
    """The rings of at most six accounts that begin at these, each payment about as large as the first."""
    paid: dict[str, set[tuple[str, float]]] = defaultdict(set)
    for source, target, amount in payments:
        paid[source].add((target, amount))
    found = set()
    for start in starts:
        paths = [((start, target), first) for target, first in paid[start] if target != start]
        while paths:
            path, first = paths.pop()
            for target, amount in paid[path[-1]]:
                if not LOW * first <= amount <= HIGH * first:
                    continue
                if target == start:
                    found.add(frozenset(path))
                elif target not in path and len(path) < 6:
                    paths.append(((*path, target), first))
    return found
