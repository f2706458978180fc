"""Reading all of the graph for the audit, on both back ends: every vertex once, whatever the index says."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from banking.streaming.entities import EntityType
from banking.streaming.events import content_hash
from tests.integration.graph.conftest import deleted, event
from verify import graph as audited
from verify.entities import UNKNOWN_TYPE, Key
from verify.graph import GraphStore

PERSON, ACCOUNT = EntityType.PERSON, EntityType.ACCOUNT


async def scan(settings, unique, **options):
    store = GraphStore(settings, **options)
    try:
        return [row async for page in store.scan() for row in page if row[0].entity_id.startswith(unique)]
    finally:
        await store.close()


async def test_every_vertex_is_read_once_with_what_it_holds(settings, sink, unique, monkeypatch):
    monkeypatch.setattr(audited, "_PAGE_KEYS", 97)
    persons = [event(PERSON, f"{unique}p{number}", {"name": "Ann"}, version=number + 1) for number in range(250)]
    owned = event(ACCOUNT, f"{unique}a", {"owner_id": f"{unique}x", "owner_type": "person"})
    gone = deleted(PERSON, f"{unique}gone", 7)
    await sink.write([*persons, owned, gone])
    found = await scan(settings, unique)
    counted = Counter(key for key, _ in found)
    assert set(counted.values()) == {1}
    held = dict(found)
    assert set(held) == {Key(made.entity_type.value, made.entity_id) for made in (*persons, owned, gone)} | {
        Key("person", f"{unique}x")
    }
    for made in (*persons, owned, gone):
        row = held[Key(made.entity_type.value, made.entity_id)]
        assert (row.version, row.content.hex()) == (made.version, content_hash(made))
        assert row.deleted == (made is gone)
    stub = held[Key("person", f"{unique}x")]
    assert (stub.version, stub.referred, stub.content) == (None, True, b"")


async def test_what_vertices_hold_is_what_their_events_say(settings, sink, unique):
    payload = {
        "owner_id": f"{unique}x",
        "owner_type": "company",
        "balance": "12345678901234567890.12",
        "opened_on": "2026-01-01",
        "created_at": "2026-01-01T00:00:00.123456+02:00",
        "joint_owners": [{"owner_id": f"{unique}y", "owner_type": "person"}],
        "undeclared": {"deep": [1, 2.5, None, "ü"]},
    }
    made = [
        event(ACCOUNT, f"{unique}a", payload),
        event(PERSON, f"{unique}p", {"name": "Ann"}),
        deleted(PERSON, f"{unique}g", 3),
    ]
    await sink.write(made)
    held = dict(await scan(settings, unique, contents=True))
    for one in made:
        assert held[Key(one.entity_type.value, one.entity_id)].state == audited.state_of(one, datetime.now(UTC))
    assert held[Key("company", f"{unique}x")].state == b""


async def test_looking_again_finds_by_key_and_by_vertex(settings, sink, client, unique):
    await sink.write([event(PERSON, f"{unique}a"), event(PERSON, f"{unique}b")])
    store = GraphStore(settings)
    rows = dict(await scan(settings, unique))
    a, b = Key("person", f"{unique}a"), Key("person", f"{unique}b")
    try:
        assert dict(await store.look([a, Key("person", f"{unique}none"), Key(UNKNOWN_TYPE, "1")], [])) == {a: rows[a]}
        assert dict(await store.look([], [rows[b].place])) == {b: rows[b]}
        assert len(await store.look([a, b], [rows[a].place, rows[b].place])) == 2
        await client.submit(
            "g.V().has('entity_key', wanted).drop().iterate(); g.tx().commit(); 1", {"wanted": f"person:{unique}b"}
        )
        assert dict(await store.look([a, b], [rows[a].place, rows[b].place])) == {a: rows[a]}
    finally:
        await store.close()


async def test_only_stubs_that_nobody_names_are_removed(settings, sink, client, unique):
    await sink.write(
        [
            event(PERSON, f"{unique}person"),
            event(ACCOUNT, f"{unique}a", {"owner_id": f"{unique}named", "owner_type": "person"}),
            event(ACCOUNT, f"{unique}b", {"owner_id": f"{unique}left", "owner_type": "person"}),
        ]
    )
    # The owner changes: nobody names the first one any more.
    await sink.write([event(ACCOUNT, f"{unique}b", {"owner_id": f"{unique}named", "owner_type": "person"}, version=2)])
    store = GraphStore(settings)
    keys = [Key("person", f"{unique}{name}") for name in ("person", "named", "left", "none")]
    try:
        held = dict(await store.look(keys, []))
        assert {key.entity_id.removeprefix(unique): held[key].referred for key in held} == {
            "person": False,
            "named": True,
            "left": False,
        }
        assert await store.remove_stubs(keys) == 1
        assert set(dict(await store.look(keys, []))) == set(keys[:2])
    finally:
        await store.close()
