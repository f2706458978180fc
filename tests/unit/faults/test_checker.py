"""The checker of the fault suite finds each kind of loss that is planted, and nothing where nothing is wrong."""

from __future__ import annotations

import copy

import pytest

from banking.streaming.broker import PublishError
from banking.streaming.entities import EntityType
from banking.streaming.events import EventType, create_event
from tests.integration.faults.checker import document_violations, graph_violations
from tests.integration.faults.history import Driver, History
from tests.replay import document_of, identity, vertex_of

OWNER, OTHER = "person-1", "person-2"
ACCOUNT = (EntityType.ACCOUNT, "account-1")
KEY = "account:account-1"
LOST = PublishError("no receipt came")


def account(version, event_type=EventType.UPDATE, owner=OWNER, balance="10.00"):
    state = {"owner_id": owner, "owner_type": "person", "balance": balance, "currency": "EUR"}
    payload = {} if event_type is EventType.DELETE else state
    return create_event(*ACCOUNT, payload, source="test", version=version, event_type=event_type)


def history(*receipts):
    found = History()
    for event, error in receipts:
        found.note(event, error)
    return found


def in_graph(event):
    return {KEY: copy.deepcopy(vertex_of(event))}


def in_index(event):
    return {ACCOUNT: (event.version, document_of(event))}


ALIVE, NEWER, DELETED = account(1), account(2, balance="20.00"), account(2, EventType.DELETE)


@pytest.mark.parametrize("receipts", [[(ALIVE, None), (NEWER, None)], [(NEWER, None), (ALIVE, None)]])
def test_the_newest_acknowledged_event_is_what_must_be_there(receipts):
    published = history(*receipts)
    assert graph_violations(published, in_graph(NEWER), {KEY: 1}) == []
    assert document_violations(published, in_index(NEWER)) == []
    assert graph_violations(published, in_graph(ALIVE), {}) == [f"graph: {KEY} is at 1: 2 was acknowledged"]
    assert document_violations(published, in_index(ALIVE)) == [f"vector: {KEY} is at 1: 2 was acknowledged"]


def test_an_event_without_receipt_may_be_there_or_not():
    published = history((ALIVE, None), (NEWER, LOST))
    for event in (ALIVE, NEWER):
        assert graph_violations(published, in_graph(event), {}) == []
        assert document_violations(published, in_index(event)) == []
    assert graph_violations(history((ALIVE, LOST)), {}, {}) == []
    assert document_violations(history((ALIVE, LOST)), {}) == []


def test_a_lost_entity_is_found():
    published = history((ALIVE, None))
    stub = {KEY: (identity(*ACCOUNT), {})}
    for vertices in ({}, stub):
        assert graph_violations(published, vertices, {}) == [f"graph: {KEY} is lost: 1 was acknowledged"]
    assert document_violations(published, {}) == [f"vector: {KEY} is lost: 1 was acknowledged"]


def test_a_version_that_nobody_published_is_found():
    published = history((ALIVE, None))
    assert graph_violations(published, in_graph(NEWER), {}) == [f"graph: {KEY} is at 2, which nobody published"]
    assert document_violations(published, in_index(NEWER)) == [f"vector: {KEY} is at 2, which nobody published"]


def test_an_entity_that_rose_from_the_dead_is_found():
    published = history((ALIVE, None), (DELETED, None))
    assert graph_violations(published, in_graph(DELETED), {}) == []
    assert document_violations(published, in_index(DELETED)) == []
    assert graph_violations(published, in_graph(NEWER), {}) == [
        f"graph: {KEY} is alive at 2, published was the contrary"
    ]
    assert document_violations(published, in_index(NEWER)) == [
        f"vector: {KEY} is alive at 2, published was the contrary"
    ]


def test_a_second_vertex_is_found():
    assert graph_violations(history((ALIVE, None)), in_graph(ALIVE), {KEY: 2}) == [f"graph: {KEY} has 2 vertices"]


def test_another_content_under_the_same_version_is_found():
    published, changed = history((ALIVE, None)), account(1, balance="10.01")
    [in_the_graph] = graph_violations(published, in_graph(changed), {})
    [in_the_index] = document_violations(published, in_index(changed))
    assert in_the_graph.startswith(f"graph: {KEY} differs at 1 in balance, ")
    assert in_the_index.startswith(f"vector: {KEY} differs at 1 in balance, ")


def test_edges_that_are_missing_or_too_many_are_found():
    published = history((ALIVE, None))
    vertices = in_graph(ALIVE)
    edges = vertices[KEY][1]
    [edge] = edges
    edges[edge] += 1
    [twice] = graph_violations(published, vertices, {})
    del edges[edge]
    [none] = graph_violations(published, vertices, {})
    edges[("owned_by", f"person:{OTHER}", ())] += 1
    [moved] = graph_violations(published, vertices, {})
    assert twice.startswith(f"graph: {KEY} edges differ at 1: [('owned_by', 'person:{OWNER}', ")
    assert twice.endswith("too many, [] missing")
    assert "edges differ at 1: [] too many, [('owned_by', 'person:person-1', " in none
    assert "person:person-2" in moved.split(" too many")[0]


def test_a_seed_gives_the_same_events_again():
    one, two = (Driver(5) for _ in range(2))
    events = [(one.next(), two.next()) for _ in range(3000)]
    assert all(
        (a.key, a.version, a.event_type, a.payload) == (b.key, b.version, b.event_type, b.payload) for a, b in events
    )
    assert {a.event_type for a, _ in events} == set(EventType)
    assert {a.entity_type for a, _ in events} == set(EntityType)
