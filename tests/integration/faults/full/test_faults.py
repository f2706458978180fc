"""A few thousand entities change while everything that can happen to the fleet does, at random.

make test-faults MINUTES=30 SEED=1
"""

from __future__ import annotations

import os

import pytest

from tests.integration.faults.campaign import EVENTS_PER_SECOND, Campaign
from tests.integration.faults.faults import LEGS

MINUTES = float(os.environ.get("FAULT_MINUTES", "5"))
SEED = int(os.environ.get("FAULT_SEED", "1"))
# Of one fault alone, or of some, for whoever looks for the cause of something.
ONLY = os.environ.get("FAULT_ONLY", "")


@pytest.mark.slow
async def test_every_promise_holds_under_faults(stack, faults, graph, vector, say):
    faults.all = {name: fault for name, fault in faults.all.items() if ONLY in name}
    say(f"seed {SEED}, {MINUTES:g} minutes, {len(faults.all)} kinds of faults")
    campaign = Campaign(stack, faults, SEED, say)
    async with campaign.publishing():
        await campaign.harm(MINUTES * 60)
    await campaign.check(graph, vector)
    assert campaign.history.counted["acknowledged"] > MINUTES * 60 * EVENTS_PER_SECOND / 10
    for service in LEGS:
        assert len(stack.containers(service)) == 1
