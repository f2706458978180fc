"""Both legs judge an event alike: what is declared and fits goes into both real stores, what does not into neither."""

from __future__ import annotations

import uuid

import pytest

from banking.streaming.entities import ENTITY_MODELS, Kind
from banking.streaming.events import create_event, decode_event, encode_event
from banking.streaming.sink import APPLIED, RejectionReason, Status
from graph_consumer.sink import GraphSink
from vector_consumer.sink import VectorSink

FIT = {
    Kind.KEYWORD: ["", " ", "x" * 8191, "x" * 40_000, "Żółć 京都 🏦", '\u0000\n\t\\"', "\u2028"],
    Kind.TEXT: ["", "word " * 10_000, "x" * 40_000, "🏦" * 9_000, "\u0000"],
    Kind.MONEY: [
        "0",
        "-0",
        "+1.50",
        "00.10",
        "1e3",
        "1E-3",
        "-1E+3",
        "9" * 300,
        f"0.{'0' * 400}1",
        "1e-400",
        5,
        -(10**25),
    ],
    Kind.NUMBER: [0, 1.5, -1e308, 5e-324],
    Kind.INTEGER: [0, -(2**63), 2**63 - 1],
    Kind.BOOLEAN: [True, False],
    Kind.DATE: ["0001-01-01", "1582-10-10", "2024-02-29", "9999-12-31"],
    Kind.TIMESTAMP: [
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+18:00",
        "1969-12-31T23:59:59.999999999Z",
        "2024-03-31T12:00:00.1-18:00",
        "2024-03-31T12:00:00-00:00",
        "9999-12-31T23:59:59.999Z",
        "9999-12-31T23:59:59-18:00",
    ],
}
MISFIT = {
    Kind.KEYWORD: [5, True, ["x"], {"x": 1}],
    Kind.TEXT: [5.5, ["x"]],
    Kind.MONEY: [1.5, True, "", "1,5", "1.", ".5", "0x1p3", "1d", "NaN", "1e999", " 1", 10**400],
    Kind.NUMBER: ["5", True],
    Kind.INTEGER: [1.0, "1", 2**63],
    Kind.BOOLEAN: ["true", "", 1],
    Kind.DATE: ["2023-02-29", "2024-2-3", "20240203", "", 20240203],
    Kind.TIMESTAMP: ["2024-01-01T00:00:00", "2024-01-01 00:00:00Z", "2024-02-30T00:00:00Z", 1704067200, ""],
}
REFERENCES = [
    ("account", {"owner_id": "p"}),
    ("account", {"owner_id": "p", "owner_type": "transaction"}),
    ("account", {"joint_owners": [{"owner_id": "p"}]}),
    ("company", {"officers": ["p"]}),
    ("person", {"employer_id": "a b"}),
    ("communication", {"recipient_ids": ["p", 7]}),
]


@pytest.fixture
async def sinks(stack):
    found = (GraphSink(stack.addresses.graph_settings()), VectorSink(stack.addresses.vector_settings()))
    for sink in found:
        await sink.open()
    yield found
    for sink in found:
        await sink.close()


def over_the_wire(entity_type, payload):
    """An event as a leg gets it."""
    event = create_event(entity_type, f"agree-{uuid.uuid4()}", payload, source="test", text_for_embedding="")
    return decode_event(encode_event(event))


def with_values(values):
    return [
        over_the_wire(entity_type, {field.name: value} | ({"owner_id": None} if field.name == "owner_type" else {}))
        for entity_type, model in ENTITY_MODELS.items()
        for field in model.fields
        # What stands in a field of a reference has to be an id as well.
        if field.name not in {reference.field for reference in model.references}
        for value in values[field.kind]
    ]


async def test_what_fits_goes_into_both_stores(sinks):
    events = with_values(FIT)
    assert len(events) > 300
    for sink in sinks:
        for start in range(0, len(events), 100):
            part = events[start : start + 100]
            for event, outcome in zip(part, await sink.write(part), strict=True):
                assert outcome == APPLIED, (sink.leg, event.entity_type, event.payload, outcome)


async def test_what_does_not_fit_goes_into_neither_and_both_say_the_same(sinks):
    events = with_values(MISFIT) + [over_the_wire(*declared) for declared in REFERENCES]
    graph, vector = [await sink.write(events) for sink in sinks]
    for event, one, other in zip(events, graph, vector, strict=True):
        assert (one.status, one.reason) in {
            (Status.REJECTED, RejectionReason.INVALID_FIELD),
            (Status.REJECTED, RejectionReason.INVALID_REFERENCE),
        }, event.payload
        assert one == other, event.payload
