"""The event as a JSON Schema for producers in other languages: `event.schema.json`, made of the code.

`python -m banking.streaming.schema` writes the file. Run it whenever `events.py`, `entities.py` or `payloads.py`
changes; a test compares the two. What no schema can say is left to the services: days that no calendar has, sizes,
nesting.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from banking.streaming.entities import ENTITY_MODELS, EntityModel, EntityType, Kind, Reference
from banking.streaming.events import ID_PATTERN, SCHEMA_VERSION, EntityEvent, EventType
from banking.streaming.payloads import DECIMAL_PATTERN, TIMESTAMP_PATTERN

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE_NAME = "event.schema.json"

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DESCRIPTIONS = {
    "entity_id": "Names the entity, together with its type; a UUID as a rule.",
    "entity_type": "The kind of entity.",
    "event_type": "What happened. Create and update both carry the whole state.",
    "payload": "The entity's whole state, not a patch; empty for a delete. It may hold more than is described here.",
    "version": "Grows with every event of the entity: the newest version alone decides what a store holds.",
    "event_id": "Unique to this event.",
    "timestamp": "When it happened.",
    "source": "The system it comes from.",
    "text_for_embedding": "The text that is searched by meaning; null or empty: none.",
    "metadata": "Anything about the event that is not the entity's state.",
    "schema_version": "major.minor; a newer minor only adds fields.",
}
_NULL = {"type": "null"}


def _pattern(expression: str) -> str:
    """Anchored so that Python's `$`, too, lets no final line feed through."""
    return f"^(?:{expression})$(?!\\n)"


_KINDS: Mapping[Kind, dict[str, Any]] = {
    Kind.KEYWORD: {"type": "string"},
    Kind.TEXT: {"type": "string"},
    Kind.MONEY: {
        "description": "An exact decimal: a string, or a whole number.",
        "anyOf": [{"type": "string", "pattern": _pattern(DECIMAL_PATTERN)}, {"type": "integer"}],
    },
    Kind.NUMBER: {"type": "number"},
    Kind.INTEGER: {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    Kind.BOOLEAN: {"type": "boolean"},
    Kind.DATE: {"type": "string", "format": "date", "pattern": _pattern(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")},
    Kind.TIMESTAMP: {"type": "string", "format": "date-time", "pattern": _pattern(TIMESTAMP_PATTERN)},
}


def build_event_schema() -> dict[str, Any]:
    """The schema of an event as it stands on the wire, as plain data."""
    # The class's docstring speaks of Python; each field is described here instead.
    _, definitions = msgspec.json.schema_components([EntityEvent], ref_template="#/$defs/{name}")
    fields = definitions.pop("EntityEvent")["properties"]
    fields.pop(
        "unknown_fields"
    )  # where Python keeps fields of a newer schema; on the wire they stand beside the others
    required = [name for name, field in fields.items() if "default" not in field]
    for name, field in fields.items():
        field["description"] = _DESCRIPTIONS[name]
    for enum in definitions.values():
        enum.pop("description")
    payloads = {f"{model.entity_type}_payload": _payload(model) for model in ENTITY_MODELS.values()}
    return {
        "$schema": _DIALECT,
        "title": f"Banking entity event, schema version {SCHEMA_VERSION}",
        "type": "object",
        "properties": fields,
        "required": required,
        "allOf": [_state_of(entity_type) for entity_type in ENTITY_MODELS],
        "$defs": definitions | payloads,
    }


def encode_event_schema() -> bytes:
    """The content of `event.schema.json`."""
    return msgspec.json.format(msgspec.json.encode(build_event_schema()), indent=2) + b"\n"


def read_event_schema() -> bytes:
    """The file that this package carries."""
    return files("banking.streaming").joinpath(FILE_NAME).read_bytes()


def _state_of(entity_type: EntityType) -> dict[str, Any]:
    """A type's events, deletes aside, hold what is declared of the type."""
    return {
        "if": {
            "properties": {"entity_type": {"const": entity_type}, "event_type": {"not": {"const": EventType.DELETE}}}
        },
        "then": {"properties": {"payload": {"$ref": f"#/$defs/{entity_type}_payload"}}},
    }


def _payload(model: EntityModel) -> dict[str, Any]:
    properties = {field.name: {"anyOf": [_KINDS[field.kind], _NULL]} for field in model.fields}
    typed = []
    for reference in model.references:
        if reference.many:
            properties[reference.field] = {"anyOf": [{"type": "array", "items": _item(reference)}, _NULL]}
        else:
            properties[reference.field] = {"anyOf": [_id(), _NULL]}
            if reference.type_field:
                named = {"properties": {reference.field: {"type": "string"}}, "required": [reference.field]}
                typed.append({"if": named, "then": _typed(reference)})
    return {"type": "object", "properties": properties} | ({"allOf": typed} if typed else {})


def _item(reference: Reference) -> dict[str, Any]:
    """What stands in a list of references: ids, or objects that hold one."""
    if reference.id_field is None:
        return _id()
    item = _typed(reference)
    item["properties"] |= {field.name: {"anyOf": [_KINDS[field.kind], _NULL]} for field in reference.properties}
    item["properties"][reference.id_field] = _id()
    item["required"].append(reference.id_field)
    return {"type": "object", **item}


def _typed(reference: Reference) -> dict[str, Any]:
    if reference.type_field is None:
        return {"properties": {}, "required": []}
    return {"properties": {reference.type_field: {"enum": [*reference.targets]}}, "required": [reference.type_field]}


def _id() -> dict[str, Any]:
    return {"type": "string", "pattern": ID_PATTERN}


if __name__ == "__main__":
    Path(__file__).with_name(FILE_NAME).write_bytes(encode_event_schema())
