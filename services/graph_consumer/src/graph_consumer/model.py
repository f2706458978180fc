"""The graph's schema, derived from the entity model, as the file that JanusGraph's init script reads.

`python -m graph_consumer.model [FILE]` writes `config/janusgraph/model.json`. Run it whenever
`banking.streaming.entities` changes; a test compares the two. The fingerprint in it travels with every batch, so that a
server that was started with another model refuses the batch instead of storing half of it.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import msgspec

from banking.streaming.entities import ENTITY_MODELS, EntityType, Field, Kind

DEFAULT_PATH = Path("config/janusgraph/model.json")

JAVA_TYPES: dict[Kind, str] = {
    Kind.KEYWORD: "String",
    Kind.TEXT: "String",
    Kind.MONEY: "Double",  # for arithmetic; `extra` has the exact decimal
    Kind.NUMBER: "Double",
    Kind.INTEGER: "Long",
    Kind.BOOLEAN: "Boolean",
    Kind.DATE: "String",  # YYYY-MM-DD sorts and compares as it is, and no time zone can move it to another day
    Kind.TIMESTAMP: "Date",  # a moment, comparable with gremlin's datetime(); to the millisecond
}
"""The class of a property by its field's kind."""

IDENTITY_PROPERTIES: dict[str, str] = {
    "entity_key": "String",  # type:id, unique
    "entity_id": "String",
    "entity_type": "String",
}
"""Properties that a vertex keeps for ever."""

STATE_PROPERTIES: dict[str, str] = {
    "version": "Long",
    "content_hash": "String",
    "source": "String",
    "event_time": "Date",
    "extra": "String",  # JSON object: what of the payload no property holds exactly
    "deleted": "Boolean",  # true on a tombstone, else absent
    "deleted_at": "Date",  # when the tombstone was written
    "deleted_on": "String",  # on which day, YYYY-MM-DD in UTC: indexed, so that the purge finds it
}
"""Properties of the fleet's own beside the declared ones."""


def build_model() -> dict[str, Any]:
    """The schema as plain data: property keys with their classes, labels, and indexes.

    Raises:
        ValueError: Two declarations contradict each other, or one takes a name that is reserved.
    """
    properties = IDENTITY_PROPERTIES | STATE_PROPERTIES
    lookups = {"entity_id", "deleted_on"}
    for entity_type, model in ENTITY_MODELS.items():
        for field in model.fields:
            if field.name in IDENTITY_PROPERTIES or field.name in STATE_PROPERTIES:
                raise ValueError(f"{entity_type}.{field.name}: the name is reserved in the graph")
            _declare(properties, f"{entity_type}.{field.name}", field)
            if field.lookup:
                lookups.add(field.name)
        for reference in model.references:
            if reference.role is not None:
                _declare(properties, f"{entity_type}.{reference.edge}.role", Field("role", Kind.KEYWORD))
            for field in reference.properties:
                _declare(properties, f"{entity_type}.{reference.edge}.{field.name}", field)
    edges = {reference.edge for model in ENTITY_MODELS.values() for reference in model.references}
    schema = {
        "properties": properties,
        "vertex_labels": [entity_type.value for entity_type in EntityType],
        "edge_labels": sorted(edges),
        "unique": ["entity_key"],
        "lookups": sorted(lookups),
    }
    return {"fingerprint": hashlib.blake2b(msgspec.json.encode(schema), digest_size=8).hexdigest(), **schema}


def encode_model() -> bytes:
    """The content of `model.json`."""
    return msgspec.json.format(msgspec.json.encode(build_model()), indent=2) + b"\n"


def _declare(properties: dict[str, str], path: str, field: Field) -> None:
    java_type = JAVA_TYPES[field.kind]
    if properties.setdefault(field.name, java_type) != java_type:
        raise ValueError(f"{path}: a {java_type} here, a {properties[field.name]} elsewhere; one name has one type")


def main(arguments: list[str]) -> None:
    """Write the file that is named, or `DEFAULT_PATH`."""
    path = Path(arguments[0]) if arguments else DEFAULT_PATH
    path.write_bytes(encode_model())


if __name__ == "__main__":
    main(sys.argv[1:])
