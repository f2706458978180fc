"""What `fleet status` says of answers made by hand."""

from __future__ import annotations

import math

from fleet.status import QUERIES, Status, render

NOTHING = {expression: {} for expression in QUERIES}


def values(**answers):
    """The answers of the queries whose expressions hold these words."""
    found = dict(NOTHING)
    for words, answer in answers.items():
        [expression] = [expression for expression in QUERIES if words in expression]
        found[expression] = answer
    return found


def test_rates_backlogs_and_latencies_stand_in_their_topics_and_legs_row():
    status = Status(
        containers={"pulsar": (1, 1), "graph_consumer": (2, 3)},
        values=values(
            published={("persons-events",): 1234.56, ("graph-retry-events",): 0.5},
            consumed={("graph", "person"): 1000.0, ("vector", "person"): 0.0},
            backlog={
                ("graph-consumer", "persons-events"): 12345.0,
                ("vector-consumer", "persons-events"): 0.0,
                ("vector-consumer", "vector-retry-events"): 7.0,
                ("dlq-worker", "dlq-events"): 3.0,
            },
            event_to_store={("graph",): 0.25, ("vector",): 60.0},
            dead_letters={("graph",): 4.0, ("vector",): 0.0},
        ),
    )
    assert render(status).splitlines() == [
        "service         well",
        "pulsar           1/1",
        "graph_consumer   2/3",
        "",
        "topic                  published/s  graph/s  graph backlog  vector/s  vector backlog",
        "persons-events             1,234.6  1,000.0         12,345       0.0               0",
        "accounts-events                  -        -              -         -               -",
        "transactions-events              -        -              -         -               -",
        "companies-events                 -        -              -         -               -",
        "communications-events            -        -              -         -               -",
        "graph-retry-events             0.5                       -",
        "vector-retry-events              -                                                 7",
        "",
        "leg     latency 95 %  rejected in 5 min  dead letters waiting  archived in 1 h",
        "graph         0.25 s                  0                     4                -",
        "vector        > 60 s                  0                     0                -",
        "dlq-events: 3 entries that dlq_worker has not taken yet",
        "",
        "all is well",
    ]


def test_a_latency_of_nothing_is_no_number():
    status = Status(values=values(event_to_store={("graph",): math.nan}))
    assert "graph              -" in render(status)


def test_what_is_not_well_is_told_last_a_line_each():
    status = Status(containers={"pulsar": (0, 1)}, problems=["pulsar: gone", "graph is paused: broker"])
    assert not status.well
    assert render(status) == "service  well\npulsar    0/1\n\nnot well:\n  pulsar: gone\n  graph is paused: broker\n"
