"""The graph sink against a real JanusGraph on each back end: what the graph holds after each kind of write."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from banking.streaming.entities import ENTITY_MODELS, EntityType, Kind
from banking.streaming.events import EntityEvent, content_hash, create_event, decode_event, encode_event
from banking.streaming.sink import (
    APPLIED,
    STALE,
    BatchFailedError,
    RejectionReason,
    SinkUnavailableError,
    Status,
)
from graph_consumer.sink import GraphSink
from tests.integration.graph.conftest import (
    ACCOUNT,
    COMMUNICATION,
    COMPANY,
    PERSON,
    TRANSACTION,
    Rivals,
    deleted,
    event,
)

if TYPE_CHECKING:
    from graph_consumer.settings import GraphSettings
    from tests.integration.graph.conftest import Graph

NASTY = "'\"); g.V().drop().iterate(); //\\ ${1/0} $x #{y} \u2028 \U0001f4b6 \x01 <b>\n\t]} null"


async def test_a_created_entity_is_a_vertex_with_its_declared_properties(
    sink: GraphSink, graph: Graph, unique: str
) -> None:
    person = event(
        PERSON,
        unique + "p",
        {"person_id": unique + "p", "name": "Ann", "date_of_birth": "1980-02-29", "is_pep": True,
         "created_at": "2024-01-01T02:00:00.123456+02:00"},
    )  # fmt: skip
    assert await sink.write([person]) == [APPLIED]
    vertex = await graph.vertex(PERSON, unique + "p")
    assert vertex is not None
    assert {name: vertex[name] for name in ("label", "entity_id", "entity_type", "version", "source")} == {
        "label": "person",
        "entity_id": unique + "p",
        "entity_type": "person",
        "version": 1,
        "source": "test",
    }
    assert vertex["content_hash"] == content_hash(person)
    assert vertex["event_time"] == person.timestamp.replace(
        tzinfo=None, microsecond=person.timestamp.microsecond // 1000 * 1000
    )
    assert (vertex["name"], vertex["date_of_birth"], vertex["is_pep"]) == ("Ann", "1980-02-29", True)
    assert vertex["created_at"].isoformat() == "2024-01-01T00:00:00.123000"
    assert json.loads(vertex["extra"]) == {"created_at": "2024-01-01T02:00:00.123456+02:00"}
    assert "deleted" not in vertex
    assert await graph.vertex(PERSON, unique + "p", source="live") == vertex


async def test_a_newer_version_replaces_the_whole_state(sink: GraphSink, graph: Graph, unique: str) -> None:
    await sink.write([event(PERSON, unique + "p", {"name": "Ann", "city": "Bonn", "shoe_size": 38}, 1)])
    assert await sink.write([event(PERSON, unique + "p", {"name": "Anna", "country": "DE"}, 2)]) == [APPLIED]
    vertex = await graph.vertex(PERSON, unique + "p")
    assert vertex is not None
    assert (vertex["name"], vertex["country"], vertex["version"]) == ("Anna", "DE", 2)
    assert not vertex.keys() & {"city", "extra"}


@pytest.mark.parametrize("version", [1, 2])
async def test_an_equal_or_older_version_changes_nothing(
    sink: GraphSink, graph: Graph, unique: str, version: int
) -> None:
    await sink.write(
        [event(ACCOUNT, unique + "a", {"status": "open", "owner_id": unique + "p", "owner_type": "person"}, 2)]
    )
    before = await graph.vertex(ACCOUNT, unique + "a")
    late = event(ACCOUNT, unique + "a", {"status": "closed"}, version)
    assert await sink.write([late]) == [STALE]
    assert await graph.vertex(ACCOUNT, unique + "a") == before
    assert len(await graph.edges(ACCOUNT, unique + "a")) == 1


async def test_money_is_a_number_and_exact_in_extra(sink: GraphSink, graph: Graph, unique: str) -> None:
    await sink.write([event(ACCOUNT, unique + "a", {"balance": "12345678901234567890.123456789"})])
    vertex = await graph.vertex(ACCOUNT, unique + "a")
    assert vertex is not None
    assert vertex["balance"] == 1.2345678901234567e19
    assert json.loads(vertex["extra"]) == {"balance": "12345678901234567890.123456789"}


async def test_undeclared_and_nested_values_are_kept_exactly(sink: GraphSink, graph: Graph, unique: str) -> None:
    undeclared = {
        "nested": {"a": [1, {"b": None}], "": NASTY},
        "large": 2**63 - 1,
        "float": 0.1,
        "list": [],
        "version": "their own",
        "deleted": True,
        "entity_id": "x",
    }
    await sink.write([event(COMPANY, unique + "c", {"name": "Acme", **undeclared})])
    vertex = await graph.vertex(COMPANY, unique + "c")
    assert vertex is not None
    assert json.loads(vertex["extra"]) == undeclared
    assert vertex["version"] == 1


async def test_references_become_edges_with_properties(sink: GraphSink, graph: Graph, unique: str) -> None:
    owners = {
        "owner_id": unique + "p1",
        "owner_type": "person",
        "joint_owners": [{"owner_id": unique + "p2", "owner_type": "person"}],
        "beneficial_owners": [
            {"owner_id": unique + "p1", "owner_type": "person", "percentage": 60},
            {"owner_id": unique + "c", "owner_type": "company", "percentage": 40.5},
        ],
    }
    payment = {
        "from_account_id": unique + "a",
        "to_account_id": unique + "a",
        "amount": "10.10",
        "currency": "EUR",
        "executed_at": "2024-05-01T00:00:00Z",
    }
    mail = {"sender_id": unique + "p1", "recipient_ids": [unique + "p2", unique + "p3", unique + "p2"]}
    company = {
        "parent_id": unique + "c",
        "officers": [{"person_id": unique + "p1", "role": "CEO"}, {"person_id": unique + "p1", "role": "Chair"}],
    }
    outcomes = await sink.write(
        [
            event(ACCOUNT, unique + "a", owners),
            event(TRANSACTION, unique + "t", payment),
            event(COMMUNICATION, unique + "m", mail),
            event(COMPANY, unique + "c", company),
            event(PERSON, unique + "p1", {"employer_id": unique + "c"}),
        ]
    )
    assert outcomes == [APPLIED] * 5
    assert await graph.edges(ACCOUNT, unique + "a") == [
        ("owned_by", f"company:{unique}c", {"role": "beneficial", "percentage": 40.5}),
        ("owned_by", f"person:{unique}p1", {"role": "beneficial", "percentage": 60.0}),
        ("owned_by", f"person:{unique}p1", {"role": "owner"}),
        ("owned_by", f"person:{unique}p2", {"role": "joint"}),
    ]
    edges = await graph.edges(TRANSACTION, unique + "t")
    assert [edge[:2] for edge in edges] == [
        ("from_account", f"account:{unique}a"),
        ("to_account", f"account:{unique}a"),
    ]
    for _, _, properties in edges:
        assert properties["amount"] == 10.1
        assert properties["currency"] == "EUR"
        assert properties["executed_at"].isoformat() == "2024-05-01T00:00:00"
    assert [edge[:2] for edge in await graph.edges(COMMUNICATION, unique + "m")] == [
        ("received_by", f"person:{unique}p2"),
        ("received_by", f"person:{unique}p3"),
        ("sent_by", f"person:{unique}p1"),
    ]
    assert await graph.edges(COMPANY, unique + "c") == [
        ("has_officer", f"person:{unique}p1", {"role": "CEO"}),
        ("has_officer", f"person:{unique}p1", {"role": "Chair"}),
        ("subsidiary_of", f"company:{unique}c", {}),
    ]
    assert await graph.edges(PERSON, unique + "p1") == [("employed_by", f"company:{unique}c", {})]


async def test_edges_follow_the_newest_payload(sink: GraphSink, graph: Graph, unique: str) -> None:
    def account(version: int, owner: str, beneficial: dict[str, float]) -> EntityEvent:
        owners = [
            {"owner_id": unique + name, "owner_type": "person", "percentage": percentage}
            for name, percentage in beneficial.items()
        ]
        payload = {"owner_id": unique + owner, "owner_type": "person", "beneficial_owners": owners}
        return event(ACCOUNT, unique + "a", payload, version)

    await sink.write([account(1, "p1", {"p2": 10, "p3": 20})])
    # The owner moves, p2 goes, p3's percentage changes, p4 comes.
    await sink.write([account(2, "p4", {"p3": 25, "p4": 5})])
    assert await graph.edges(ACCOUNT, unique + "a") == [
        ("owned_by", f"person:{unique}p3", {"role": "beneficial", "percentage": 25.0}),
        ("owned_by", f"person:{unique}p4", {"role": "beneficial", "percentage": 5.0}),
        ("owned_by", f"person:{unique}p4", {"role": "owner"}),
    ]
    await sink.write([event(ACCOUNT, unique + "a", {}, 3)])
    assert await graph.edges(ACCOUNT, unique + "a") == []
    assert await graph.keys_by_full_scan(unique) == sorted(
        [f"account:{unique}a", *(f"person:{unique}p{number}" for number in range(1, 5))]
    )


async def test_edge_properties_that_are_gone_are_removed(sink: GraphSink, graph: Graph, unique: str) -> None:
    officer = {"person_id": unique + "p", "role": "CEO"}
    await sink.write([event(COMPANY, unique + "c", {"officers": [officer]}, 1)])
    await sink.write([event(COMPANY, unique + "c", {"officers": [{"person_id": unique + "p"}]}, 2)])
    assert await graph.edges(COMPANY, unique + "c") == [("has_officer", f"person:{unique}p", {})]


async def test_edges_that_others_own_survive_an_update(sink: GraphSink, graph: Graph, unique: str) -> None:
    await sink.write([event(PERSON, unique + "p", {"name": "Ann"}, 1)])
    await sink.write([event(ACCOUNT, unique + "a", {"owner_id": unique + "p", "owner_type": "person"}, 1)])
    await sink.write([event(PERSON, unique + "p", {"name": "Anna"}, 2)])
    assert len(await graph.edges(ACCOUNT, unique + "a", source="live")) == 1


async def test_an_endpoint_that_has_not_arrived_is_a_stub_that_its_event_fills(
    sink: GraphSink, graph: Graph, unique: str
) -> None:
    await sink.write([event(ACCOUNT, unique + "a", {"owner_id": unique + "c", "owner_type": "company"})])
    assert await graph.vertex(COMPANY, unique + "c") == {
        "label": "company",
        "entity_key": f"company:{unique}c",
        "entity_id": unique + "c",
        "entity_type": "company",
    }
    assert await graph.vertex(COMPANY, unique + "c", source="live") is None
    assert await graph.edges(ACCOUNT, unique + "a", source="live") == []

    assert await sink.write([event(COMPANY, unique + "c", {"name": "Acme"}, 0)]) == [APPLIED]
    vertex = await graph.vertex(COMPANY, unique + "c", source="live")
    assert vertex is not None
    assert vertex["name"] == "Acme"
    assert await graph.edges(ACCOUNT, unique + "a", source="live") == [
        ("owned_by", f"company:{unique}c", {"role": "owner"})
    ]
    assert await graph.keys_by_full_scan(unique) == [f"account:{unique}a", f"company:{unique}c"]


async def test_one_id_under_two_types_is_two_entities(sink: GraphSink, graph: Graph, unique: str) -> None:
    events = [event(entity_type, unique + "x", {"created_at": "2024-01-01T00:00:00Z"}, 5) for entity_type in EntityType]
    assert await sink.write(events) == [APPLIED] * len(EntityType)
    await sink.write([event(ACCOUNT, unique + "a", {"owner_id": unique + "x", "owner_type": "company"})])
    assert await sink.write([deleted(PERSON, unique + "x", 6)]) == [APPLIED]
    company = await graph.vertex(COMPANY, unique + "x", source="live")
    assert company is not None
    assert company["label"] == "company"
    assert await graph.edges(ACCOUNT, unique + "a") == [("owned_by", f"company:{unique}x", {"role": "owner"})]


async def test_what_does_not_fit_is_rejected_and_the_others_go_in(sink: GraphSink, graph: Graph, unique: str) -> None:
    outcomes = await sink.write(
        [
            event(PERSON, unique + "p1", {"name": "Ann"}),
            event(PERSON, unique + "p2", {"is_pep": "perhaps"}),
            event(ACCOUNT, unique + "a1", {"balance": 0.1}),
            event(ACCOUNT, unique + "a2", {"owner_id": unique + "p1"}),
            event(PERSON, unique + "p3", {"name": "Bob"}),
        ]
    )
    assert [outcome.status for outcome in outcomes] == [
        Status.APPLIED,
        Status.REJECTED,
        Status.REJECTED,
        Status.REJECTED,
        Status.APPLIED,
    ]
    assert [outcome.reason for outcome in outcomes[1:4]] == [
        RejectionReason.INVALID_FIELD,
        RejectionReason.INVALID_FIELD,
        RejectionReason.INVALID_REFERENCE,
    ]
    for outcome, field in zip(outcomes[1:4], ("is_pep", "balance", "owner_type"), strict=True):
        assert f"payload.{field}: " in outcome.detail
    assert await graph.keys_by_full_scan(unique) == [f"person:{unique}p1", f"person:{unique}p3"]


async def test_a_delete_leaves_a_tombstone_without_personal_data(sink: GraphSink, graph: Graph, unique: str) -> None:
    await sink.write(
        [
            event(PERSON, unique + "p", {"name": "Ann", "employer_id": unique + "c", "x": 1}, 3),
            event(COMPANY, unique + "c", {"name": "Acme"}),
            event(ACCOUNT, unique + "a", {"owner_id": unique + "p", "owner_type": "person"}),
        ]
    )
    assert await sink.write([deleted(PERSON, unique + "p", 4)]) == [APPLIED]
    vertex = await graph.vertex(PERSON, unique + "p")
    assert vertex is not None
    identity = {"label", "entity_key", "entity_id", "entity_type"}
    assert vertex.keys() == identity | {"version", "content_hash", "event_time", "deleted", "deleted_at", "deleted_on"}
    assert (vertex["version"], vertex["deleted"]) == (4, True)
    assert await graph.edges(PERSON, unique + "p") == []
    assert len(await graph.edges(ACCOUNT, unique + "a")) == 1
    assert await graph.vertex(PERSON, unique + "p", source="live") is None
    assert await graph.edges(ACCOUNT, unique + "a", source="live") == []

    late = event(PERSON, unique + "p", {"name": "Ann"}, 3)
    assert await sink.write([late]) == [STALE]
    assert await graph.vertex(PERSON, unique + "p") == vertex

    assert await sink.write([event(PERSON, unique + "p", {"name": "Ann"}, 5)]) == [APPLIED]
    revived = await graph.vertex(PERSON, unique + "p", source="live")
    assert revived is not None
    assert "deleted_at" not in revived
    assert len(await graph.edges(ACCOUNT, unique + "a", source="live")) == 1


async def test_a_delete_before_anything_else_is_remembered(sink: GraphSink, graph: Graph, unique: str) -> None:
    await sink.write([event(ACCOUNT, unique + "a", {"owner_id": unique + "stub", "owner_type": "person"})])
    events = [deleted(PERSON, unique + name, 7) for name in ("unknown", "stub")]
    assert await sink.write(events) == [APPLIED, APPLIED]
    assert await sink.write([event(PERSON, unique + name, {}, 6) for name in ("unknown", "stub")]) == [STALE, STALE]
    for name in ("unknown", "stub"):
        vertex = await graph.vertex(PERSON, unique + name)
        assert vertex is not None
        assert vertex["deleted"]


async def test_eight_writers_on_the_same_entities_leave_one_of_each_at_the_highest_version(
    settings: GraphSettings, graph: Graph, unique: str
) -> None:
    rivals = Rivals(unique)
    counted = await rivals.write([settings])
    assert counted.keys() == {Status.APPLIED, Status.STALE}
    assert await graph.scan(unique) == rivals.expected()


async def test_text_that_looks_like_code_is_inert_in_every_field(sink: GraphSink, graph: Graph, unique: str) -> None:
    nasty_id = unique + "\"';$x)}]//\\"
    events = []
    for model in ENTITY_MODELS.values():
        named = {reference.field for reference in model.references} | {"owner_type"}
        payload: dict[str, Any] = {
            field.name: NASTY
            for field in model.fields
            if field.kind in {Kind.KEYWORD, Kind.TEXT} and field.name not in named
        }
        for reference in model.references:
            item: Any = nasty_id if reference.id_field is None else {reference.id_field: nasty_id, "role": NASTY}
            if isinstance(item, dict) and reference.type_field:
                item[reference.type_field] = "person"
            payload[reference.field] = [item] if reference.many else item
        if model.entity_type is ACCOUNT:
            payload["owner_type"] = "person"
        payload[NASTY] = NASTY
        made = create_event(model.entity_type, nasty_id, payload, version=1, source=NASTY)
        events.append(decode_event(encode_event(made)))
    assert await sink.write(events) == [APPLIED] * len(events)
    for made in events:
        vertex = await graph.vertex(made.entity_type, nasty_id, source="live")
        assert vertex is not None
        assert vertex["source"] == NASTY
        for field in ENTITY_MODELS[made.entity_type].fields:
            if made.payload.get(field.name) == NASTY:
                assert vertex[field.name] == NASTY
        assert json.loads(vertex["extra"])[NASTY] == NASTY


@pytest.mark.parametrize("text", ["", "\x00", "a\x00b\x7f", "\ud7ff\ue000\U0010ffff", "x" * 200_000])
async def test_any_text_comes_back_as_it_was(sink: GraphSink, graph: Graph, unique: str, text: str) -> None:
    looked_up = text[:20_000]  # on Cassandra it may be no longer
    assert await sink.write([event(PERSON, unique + "p", {"name": looked_up, "street": text})]) == [APPLIED]
    vertex = await graph.vertex(PERSON, unique + "p")
    assert vertex is not None
    assert (vertex["name"], vertex["street"]) == (looked_up, text)


async def test_a_batch_larger_than_a_request_may_be_is_cut(sink: GraphSink, graph: Graph, unique: str) -> None:
    body = '"\\\u00e4' * 100_000
    events = [event(COMMUNICATION, f"{unique}m{number}", {"body": body, "n": number}) for number in range(60)]
    assert sum(len(encode_event(made)) for made in events) > 20 * 1024 * 1024
    assert await sink.write(events) == [APPLIED] * 60
    assert len(await graph.keys_by_full_scan(unique)) == 60


async def test_the_largest_event_fits_a_request(sink: GraphSink, graph: Graph, unique: str) -> None:
    # In `extra`, which is JSON inside JSON, each of these characters is escaped twice.
    text = '"' * (2 * 1024 * 1024 - 2048)
    made = event(COMMUNICATION, unique + "m", {"undeclared": text})
    made = msgspec.structs.replace(made, text_for_embedding=None)
    assert len(encode_event(made)) > 4 * 1024 * 1024 - 8192
    assert await sink.write([made]) == [APPLIED]
    vertex = await graph.vertex(COMMUNICATION, unique + "m")
    assert vertex is not None
    assert json.loads(vertex["extra"]) == {"undeclared": text}


async def test_a_row_that_no_request_can_hold_is_rejected(settings: GraphSettings, unique: str) -> None:
    sink = GraphSink(settings.model_copy(update={"janusgraph_max_request_bytes": 100_000}))
    large, small = (event(COMMUNICATION, f"{unique}{size}", {"body": "x" * size}) for size in (100_000, 90_000))
    outcomes = await sink.write([large, small])
    assert [outcome.reason for outcome in outcomes] == [RejectionReason.REFUSED_BY_STORE, None]
    assert outcomes[1] == APPLIED
    await sink.close()


async def test_a_failure_that_is_not_the_stores_is_the_batchs(sink: GraphSink, unique: str) -> None:
    made = event(PERSON, unique + "p", {"name": "Ann"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "graph_consumer.sink.encode_row", lambda row: json.dumps(["no label", row.entity_id, 1, {}, []]).encode()
        )
        with pytest.raises(BatchFailedError):
            await sink.write([made])
    assert await sink.write([made]) == [APPLIED]


async def test_a_server_with_another_model_is_not_ready_and_writes_nothing(
    sink: GraphSink, graph: Graph, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "_fingerprint", "0123456789abcdef")
    with pytest.raises(SinkUnavailableError, match="0123456789abcdef"):
        await sink.check()
    with pytest.raises(SinkUnavailableError, match="0123456789abcdef"):
        await sink.write([event(PERSON, unique + "p", {"name": "Ann"})])
    assert await graph.vertex(PERSON, unique + "p") is None


async def test_a_value_that_the_server_cannot_hold_is_rejected_by_name(
    sink: GraphSink, graph: Graph, unique: str
) -> None:
    rows = [
        ["person", unique + "p1", 1, {"version": 1, "is_pep": "perhaps"}, [], False],
        ["person", unique + "p2", 1, {"version": 1, "undeclared": 1}, [], False],
        ["person", unique + "p3", 1, {"version": 1}, [], False],
    ]
    batch = json.dumps({"model": sink._fingerprint, "rows": rows})
    server = sink._servers.writer_of(unique + "p3")  # the only row that it writes
    answer = json.loads((await server.submit("writer.write(batch)", {"batch": batch}))[0])
    assert answer["outcomes"] == [
        ["invalid", "is_pep", "expected a Boolean, got String"],
        ["invalid", "undeclared", "is no property of the model"],
        "applied",
    ]
    assert await graph.keys_by_full_scan(unique) == [f"person:{unique}p3"]


async def test_requests_in_flight_share_a_connection(sink: GraphSink, unique: str) -> None:
    batches = [[event(PERSON, f"{unique}p{batch}-{row}", {"name": "x"}) for row in range(20)] for batch in range(20)]
    assert await asyncio.gather(*(sink.write(batch) for batch in batches)) == [[APPLIED] * 20] * 20


async def test_an_entity_twice_in_one_batch_keeps_the_newer(sink: GraphSink, graph: Graph, unique: str) -> None:
    def person(version: int, employer: str) -> EntityEvent:
        return event(PERSON, unique + "p", {"name": f"v{version}", "employer_id": unique + employer}, version)

    assert await sink.write([person(1, "c1"), person(3, "c3"), person(2, "c2")]) == [APPLIED, APPLIED, STALE]
    vertex = await graph.vertex(PERSON, unique + "p")
    assert vertex is not None
    assert vertex["name"] == "v3"
    assert await graph.edges(PERSON, unique + "p") == [("employed_by", f"company:{unique}c3", {})]
