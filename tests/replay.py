"""What both stores must hold: entities that change at random, and a plain replay of their newest versions.

The replay is a few dictionaries in this process, and shares with the fleet the row and the document of one event.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

from banking.streaming.entities import EntityType
from graph_consumer.rows import to_row
from vector_consumer.documents import encode_document
from vector_consumer.mappings import alias_of
from verify.graph import GraphStore

CHUNK = 500
WRITTEN_AT = ("deleted_at", "deleted_on")  # when a store wrote a tombstone is no part of the event

DUMP = """
g.V().has('entity_key', within(wanted)).project('properties', 'edges').by(valueMap())
  .by(outE().project('label', 'target', 'properties').by(label).by(inV().values('entity_key')).by(valueMap()).fold())
"""


def evolve(payload, entity_type, draw, ids):
    """Another state of the same entity: values change, edges are added, moved and removed."""
    changed = dict(payload)
    changed["note"] = {"revision": draw.randrange(10**9)}
    # Now and then an entity that no event ever describes.
    person, company, account = (
        draw.choice(ids[kind]) if draw.random() < 0.95 else f"never-{kind}-{draw.randrange(200)}"
        for kind in (EntityType.PERSON, EntityType.COMPANY, EntityType.ACCOUNT)
    )
    match entity_type:
        case EntityType.PERSON:
            changed["employer_id"] = draw.choice([None, company])
            changed.pop("phone", None)
        case EntityType.COMPANY:
            roles = [{"person_id": person, "role": draw.choice(["director", "secretary"])}]
            changed["officers"] = draw.choice([[], roles, roles * 2])
            changed["parent_id"] = company
        case EntityType.ACCOUNT:
            changed["balance"] = f"{draw.randrange(10**12)}.{draw.randrange(100):02}"
            changed["joint_owners"] = draw.choice([[], [{"owner_id": person, "owner_type": "person"}]])
            if draw.random() < 0.3:
                changed |= {"owner_id": company, "owner_type": "company"}
        case EntityType.TRANSACTION:
            changed["to_account_id"] = account
            changed["status"] = draw.choice(["completed", "reversed"])
        case EntityType.COMMUNICATION:
            changed["recipient_ids"] = draw.choice([[], [person], [person, person]])
    return changed


@dataclass
class Replay:
    """What both stores must hold: the newest event of every entity, and the entities that are only referred to."""

    newest: dict = field(default_factory=dict)

    def add(self, event):
        held = self.newest.get(event.key)
        if held is None or event.version > held.version:
            self.newest[event.key] = event

    def graph(self):
        """Properties and edges by vertex."""
        vertices = {}
        for event in self.newest.values():
            vertex = vertex_of(event)
            vertices[vertex[0]["entity_key"]] = vertex
        for _, edges in list(vertices.values()):
            for _, target, _ in edges:
                vertices.setdefault(target, (identity(*target.split(":", 1)), Counter()))
        return vertices


def vertex_of(event):
    """The properties of an event's vertex, and the edges that it owns, each with how many there are."""
    row = to_row(event, datetime.now(UTC))
    edges = Counter(
        (edge.label, f"{edge.target_type.value}:{edge.target_id}", frozen(edge.properties)) for edge in row.edges
    )
    return without_time(dict(row.state) | identity(row.entity_type, row.entity_id)), edges


def document_of(event):
    """The document of an event, without its vector."""
    return without_time(json.loads(encode_document(event, "index", None, datetime.now(UTC)).splitlines()[1]))


def identity(entity_type, entity_id):
    return {
        "entity_key": f"{EntityType(entity_type).value}:{entity_id}",
        "entity_id": entity_id,
        "entity_type": EntityType(entity_type).value,
    }


def frozen(properties):
    return tuple(sorted((name, plain(value)) for name, value in properties.items()))


def plain(value):
    """A value of the graph as a row carries it."""
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    return value


def without_time(properties):
    return {name: value for name, value in properties.items() if name not in WRITTEN_AT}


async def graph_as_it_is(graph, keys):
    vertices = {}
    for start in range(0, len(keys), CHUNK):
        for found in await graph.submit(DUMP, {"wanted": keys[start : start + CHUNK]}):
            properties = {name: plain(values[0]) for name, values in found["properties"].items()}
            edges = Counter((edge["label"], edge["target"], frozen(edge["properties"])) for edge in found["edges"])
            assert properties["entity_key"] not in vertices, "two vertices under one key"
            vertices[properties["entity_key"]] = (without_time(properties), edges)
    return vertices


async def vertices_by_scan(settings):
    """How many vertices each entity has, as `type:id`, by a full scan: an index would hide a second one."""
    store = GraphStore(settings)
    try:
        return Counter([f"{key.entity_type}:{key.entity_id}" async for page in store.scan() for key, _ in page])
    finally:
        await store.close()


async def documents_as_they_are(vector, entity_type, ids):
    alias = alias_of("banking", entity_type)
    for start in range(0, len(ids), CHUNK):
        answer = await vector.client.mget(index=alias, body={"ids": ids[start : start + CHUNK]})
        for document in answer["docs"]:
            yield document["_id"], document.get("_source"), document.get("_version")
