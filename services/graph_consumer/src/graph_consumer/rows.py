"""Events into rows, the form in which JanusGraph's batch writer takes them. Pure: no clock, no connection.

A row is the whole state of one entity. Of the payload

- a declared field becomes a property of its declared class; a value that does not fit is a rejection that names it;
- a reference becomes an edge;
- everything that no property holds exactly stands in `extra`, a JSON object: undeclared and nested values, money as the
  decimal that was sent, moments finer than a millisecond or not in UTC. So the payload is the properties overlaid by
  `extra`; what it loses is a declared field that was null, and its own id under `id_field`, which `entity_id` holds.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from banking.streaming.entities import ENTITY_MODELS, EntityModel, EntityType, Field, Kind
from banking.streaming.events import EventType, content_hash
from banking.streaming.payloads import links, parse_value
from banking.streaming.repairs import RepairEvent

if TYPE_CHECKING:
    from banking.streaming.events import EntityEvent

_encoder = msgspec.json.Encoder()
_MILLISECONDS_IN_UTC = re.compile(r".{19}(?:\.[0-9]{1,3}0*)?(?:Z|[+-]00:00)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Edge(msgspec.Struct, array_like=True, frozen=True):
    """An edge that an entity owns: its payload names the target."""

    label: str
    target_type: EntityType
    target_id: str
    properties: dict[str, Any]


class Row(msgspec.Struct, array_like=True, frozen=True):
    """One entity at one version. On the wire it is the array that `EntityWriter.groovy` describes.

    A repair also takes the place of a state of the same version.
    """

    entity_type: EntityType
    entity_id: str
    version: int
    state: dict[str, Any]
    edges: list[Edge]
    repair: bool = False


def to_row(event: EntityEvent, now: datetime) -> Row:
    """The row of one event.

    Args:
        event: A decoded event.
        now: When the row is written; a tombstone is purged some time after it.

    Raises:
        InvalidPayloadError: The payload does not fit what is declared; it names the field.
    """
    state: dict[str, Any] = {
        "version": event.version,
        "content_hash": content_hash(event),
        "event_time": _milliseconds(event.timestamp),
    }
    repair = isinstance(event, RepairEvent)
    if event.event_type is EventType.DELETE:
        state["deleted"] = True
        state["deleted_at"] = _milliseconds(now)
        state["deleted_on"] = now.astimezone(UTC).date().isoformat()
        return Row(event.entity_type, event.entity_id, event.version, state, [], repair)
    state["source"] = event.source
    model = ENTITY_MODELS[event.entity_type]
    extra = _set_properties(state, event, model)
    edges = _edges(event)
    if extra:
        state["extra"] = _encoder.encode(extra).decode()
    return Row(event.entity_type, event.entity_id, event.version, state, edges, repair)


def encode_row(row: Row) -> bytes:
    """The row as JSON."""
    return _encoder.encode(row)


def _set_properties(state: dict[str, Any], event: EntityEvent, model: EntityModel) -> dict[str, Any]:
    """Put the declared values into the state; what is left for `extra` is returned."""
    fields = _FIELDS[event.entity_type]
    extra = {}
    for name, value in event.payload.items():
        field = fields.get(name)
        if field is None:
            if name != model.id_field or value != event.entity_id:
                extra[name] = value
        elif value is not None:
            state[name], is_exact = _to_property(field, value)
            if not is_exact:
                extra[name] = value
    return extra


def _edges(event: EntityEvent) -> list[Edge]:
    edges = []
    for link in links(event.entity_type, event.payload):
        reference = link.reference
        properties: dict[str, Any] = {} if reference.role is None else {"role": reference.role}
        for name, value in link.properties.items():
            properties[name] = _milliseconds(value) if isinstance(value, datetime) else value
        edges.append(Edge(reference.edge, link.target_type, link.target_id, properties))
    return _distinct(edges)


def _to_property(field: Field, value: object) -> tuple[Any, bool]:
    """A value as the row carries it, and whether that is exactly what the payload says."""
    parsed = parse_value(field, value)
    if field.kind is Kind.MONEY:
        return parsed, False
    if field.kind is Kind.NUMBER:
        return parsed, parsed == value
    if field.kind is Kind.TIMESTAMP:
        is_exact = isinstance(value, str) and _MILLISECONDS_IN_UTC.fullmatch(value) is not None
        return _milliseconds(parsed), is_exact
    return parsed, True


def _distinct(edges: list[Edge]) -> list[Edge]:
    """A payload that names the same thing twice says it once."""
    if len(edges) < 2:
        return edges
    kept: list[Edge] = []
    seen = set()
    for edge in edges:
        key = (edge.label, edge.target_type, edge.target_id, *edge.properties.items())
        if key not in seen:
            seen.add(key)
            kept.append(edge)
    return kept


def _milliseconds(moment: datetime) -> int:
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000


_FIELDS = {entity_type: {field.name: field for field in model.fields} for entity_type, model in ENTITY_MODELS.items()}
