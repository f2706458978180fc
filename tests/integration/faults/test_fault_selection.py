"""Some faults, always the same ones, alone and together; `make test-faults` inflicts all of them at random."""

from __future__ import annotations

from tests.integration.faults.campaign import Campaign
from tests.integration.faults.faults import Faults

STEPS = (
    ["kill pulsar", "kill graph_consumer"],
    ["slow network between graph_consumer and janusgraph", "cut vector_consumer from opensearch"],
    ["kill janusgraph", "kill opensearch", "poison"],
    ["scale graph_consumer", "kill vector_consumer"],
)


async def test_every_promise_holds_under_some_faults(stack, graph, vector, say):
    campaign = Campaign(stack, Faults(stack), 1, say)
    async with campaign.publishing():
        for names in STEPS:
            await campaign.inflict(names)
    await campaign.check(graph, vector)
    assert campaign.history.counted["acknowledged"] > 1000
