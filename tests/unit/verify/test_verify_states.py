"""What a store has to hold of an event: its hash is the same however it is told, and another for any change."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from banking.streaming.entities import EntityType
from banking.streaming.events import EventType, content_hash, create_event, decode_event, encode_event
from graph_consumer.rows import encode_row, to_row
from vector_consumer.documents import encode_document
from verify import graph, index
from verify.entities import UNKNOWN_TYPE, Key

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def account(**payload):
    whole = {
        "owner_id": "p",
        "owner_type": "person",
        "balance": "10.10",
        "created_at": "2026-01-01T00:00:00Z",
    } | payload
    return on_the_wire(create_event(EntityType.ACCOUNT, "a", whole, source="test", version=3))


def on_the_wire(event):
    return decode_event(encode_event(event))


def vertex(event, **changes):
    """What `audit.page` answers of a vertex that was written from an event."""
    _, _, version, state, edges, _ = json.loads(encode_row(to_row(event, NOW)))
    state |= changes
    rows = [[label, f"{kind}:{entity_id}", values] for label, kind, entity_id, values in edges]
    return ["4104", "account:a", version, state["content_hash"], "deleted" in state, False, state, rows]


def test_a_vertex_that_was_written_from_an_event_holds_its_state():
    event = account(balance=5, joint_owners=[{"owner_id": "q", "owner_type": "company"}], nested={"b": [1, 2.5, None]})
    key, found = graph._held(vertex(event))
    assert key == Key("account", "a")
    assert found.state == graph.state_of(event, datetime.now(UTC))
    assert found.content.hex() == content_hash(event)


@pytest.mark.parametrize("changes", [{"balance": 10.2}, {"status": "closed"}, {"event_time": 5}, {"source": "other"}])
def test_a_changed_property_shows(changes):
    event = account()
    _, found = graph._held(vertex(event, **changes))
    assert found.state != graph.state_of(event, NOW)


def test_a_lost_edge_shows():
    event = account()
    row = vertex(event)
    row[-1].pop()
    assert graph._held(row)[1].state != graph.state_of(event, NOW)


def test_a_tombstone_has_a_state_whenever_it_was_written():
    event = on_the_wire(create_event(EntityType.ACCOUNT, "a", source="test", version=4, event_type=EventType.DELETE))
    _, found = graph._held(vertex(event, deleted_at=1, deleted_on="1970-01-01"))
    assert found.deleted
    assert found.state == graph.state_of(event, NOW)


def test_a_vertex_that_does_not_say_what_it_is_goes_by_its_own_id():
    for name in (None, "", "person:", "planet:earth"):
        key, _ = graph._held(["4104", name, None, None, False, False, None, None])
        assert key == Key(UNKNOWN_TYPE, "4104")


@pytest.mark.parametrize("text", [None, "words"])
def test_a_document_that_was_written_from_an_event_holds_its_state(text):
    made = create_event(
        EntityType.PERSON, "p", {"name": "Ann", "tags": [1.0, "x"]}, source="test", text_for_embedding=text
    )
    event = on_the_wire(made)
    document = json.loads(encode_document(event, "i", None, NOW).splitlines()[1])
    assert index._digest_of(document) == index.state_of(event)
    assert index._digest_of(document | {"payload": {"name": "Bob"}}) != index.state_of(event)
    assert index._digest_of({"entity_id": 5}) != index.state_of(event)
