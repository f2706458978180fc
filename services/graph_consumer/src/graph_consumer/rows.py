"""Events into rows, the form in which JanusGraph's batch writer takes them. Pure: no clock, no connection.

A row is the whole state of one entity. Of the payload

- a declared field becomes a property of its declared class; a value that does not fit is a rejection that names it;
- a reference becomes an edge;
- everything that no property holds exactly stands in `extra`, a JSON object: undeclared and nested values, money as the
  decimal that was sent, moments finer than a millisecond or not in UTC. So the payload is the properties overlaid by
  `extra`; what it loses is a declared field that was null, and its own id under `id_field`, which `entity_id` holds.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from banking.streaming.entities import ENTITY_MODELS, EntityModel, EntityType, Field, Kind, Reference
from banking.streaming.events import EventType, content_hash
from banking.streaming.sink import Outcome, RejectionReason, rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TypeAlias

    from banking.streaming.events import EntityEvent

    Convert: TypeAlias = Callable[[Any], tuple[Any, bool]]

_encoder = msgspec.json.Encoder()
_ID = re.compile(r"[\x21-\x7e]{1,256}")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_MILLISECONDS_IN_UTC = re.compile(r".{19}(?:\.[0-9]{1,3}0*)?(?:[Zz]|[+-]00:00)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_LONG = 2**63 - 1
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Edge(msgspec.Struct, array_like=True, frozen=True):
    """An edge that an entity owns: its payload names the target."""

    label: str
    target_type: EntityType
    target_id: str
    properties: dict[str, Any]


class Row(msgspec.Struct, array_like=True, frozen=True):
    """One entity at one version. On the wire it is the array that `config/janusgraph/init.groovy` describes."""

    entity_type: EntityType
    entity_id: str
    version: int
    state: dict[str, Any]
    edges: list[Edge]


class InvalidRowError(ValueError):
    """An event that the graph can never hold.

    Attributes:
        outcome: The rejection, whose detail names the payload's field.
    """

    def __init__(self, reason: RejectionReason, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.outcome: Outcome = rejected(reason, f"{field}: {problem}")


class _MisfitError(ValueError):
    """A value that its kind cannot hold; the message says what was expected."""


def to_row(event: EntityEvent, now: datetime) -> Row:
    """The row of one event.

    Args:
        event: A decoded event.
        now: When the row is written; a tombstone is purged some time after it.

    Raises:
        InvalidRowError: The payload does not fit the model.
    """
    state: dict[str, Any] = {
        "version": event.version,
        "content_hash": content_hash(event),
        "event_time": _milliseconds(event.timestamp),
    }
    if event.event_type is EventType.DELETE:
        state["deleted"] = True
        state["deleted_at"] = _milliseconds(now)
        return Row(event.entity_type, event.entity_id, event.version, state, [])
    state["source"] = event.source
    model = ENTITY_MODELS[event.entity_type]
    extra = _set_properties(state, event, model)
    edges = [edge for reference in model.references for edge in _edges(reference, event.payload)]
    if extra:
        state["extra"] = _encoder.encode(extra).decode()
    return Row(event.entity_type, event.entity_id, event.version, state, _distinct(edges))


def encode_row(row: Row) -> bytes:
    """The row as JSON."""
    return _encoder.encode(row)


def _set_properties(state: dict[str, Any], event: EntityEvent, model: EntityModel) -> dict[str, Any]:
    """Put the declared values into the state; what is left for `extra` is returned."""
    fields = _FIELDS[event.entity_type]
    extra = {}
    for name, value in event.payload.items():
        convert = fields.get(name)
        if convert is None:
            if name != model.id_field or value != event.entity_id:
                extra[name] = value
        elif value is not None:
            try:
                state[name], is_exact = convert(value)
            except _MisfitError as misfit:
                raise InvalidRowError(RejectionReason.INVALID_FIELD, f"payload.{name}", str(misfit)) from None
            if not is_exact:
                extra[name] = value
    return extra


def _edges(reference: Reference, payload: Mapping[str, Any]) -> Iterator[Edge]:
    value = payload.get(reference.field)
    if value is None:
        return
    path = f"payload.{reference.field}"
    if not reference.many:
        yield _edge(reference, value, payload, path, "payload.")
        return
    if not isinstance(value, list | tuple):
        raise InvalidRowError(RejectionReason.INVALID_REFERENCE, path, f"expected a list, got {_show(value)}")
    for index, item in enumerate(value):
        if reference.id_field is None:
            yield _edge(reference, item, payload, f"{path}[{index}]", "payload.")
        elif isinstance(item, dict):
            item_path = f"{path}[{index}]."
            yield _edge(reference, item.get(reference.id_field), item, item_path + reference.id_field, item_path)
        else:
            problem = f"expected an object with {reference.id_field}, got {_show(item)}"
            raise InvalidRowError(RejectionReason.INVALID_REFERENCE, f"{path}[{index}]", problem)


def _edge(reference: Reference, target_id: object, beside: Mapping[str, Any], id_path: str, path: str) -> Edge:
    """The edge to one target; its type and properties stand in `beside`, whose path ends in a dot."""
    if not isinstance(target_id, str) or _ID.fullmatch(target_id) is None:
        raise InvalidRowError(RejectionReason.INVALID_REFERENCE, id_path, f"expected an id, got {_show(target_id)}")
    properties: dict[str, Any] = {} if reference.role is None else {"role": reference.role}
    for field in reference.properties:
        value = beside.get(field.name)
        if value is not None:
            try:
                properties[field.name], _ = _CONVERT[field.kind](value)
            except _MisfitError as misfit:
                raise InvalidRowError(RejectionReason.INVALID_FIELD, path + field.name, str(misfit)) from None
    return Edge(
        reference.edge, reference.target or _target_type(reference, beside, id_path, path), target_id, properties
    )


def _target_type(reference: Reference, beside: Mapping[str, Any], id_path: str, path: str) -> EntityType:
    value: Any = beside.get(reference.type_field or "")
    try:
        return EntityType(value)
    except ValueError:
        expected = ", ".join(EntityType)
        problem = f"says of which type {id_path} is: expected one of {expected}, got {_show(value)}"
        raise InvalidRowError(RejectionReason.INVALID_REFERENCE, f"{path}{reference.type_field}", problem) from None


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


# One function a kind: the value as the row carries it, and whether that is exactly what the payload says.


def _text(value: object) -> tuple[str, bool]:
    if isinstance(value, str):
        return value, True
    raise _MisfitError(f"expected a string, got {_show(value)}")


def _money(value: object) -> tuple[float, bool]:
    if isinstance(value, str | Decimal | int) and not isinstance(value, bool) and _DECIMAL.fullmatch(str(value)):
        return _double(value), False
    raise _MisfitError(f"expected a decimal string, got {_show(value)}")


def _number(value: object) -> tuple[float, bool]:
    if isinstance(value, float):
        if math.isfinite(value):
            return value, True
    elif isinstance(value, int | Decimal) and not isinstance(value, bool):
        number = _double(value)
        return number, number == value
    raise _MisfitError(f"expected a finite number, got {_show(value)}")


def _double(value: str | Decimal | int) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isfinite(number):
        return number
    raise _MisfitError(f"expected a number below 1.8e308, got {_show(value)}")


def _integer(value: object) -> tuple[int, bool]:
    if isinstance(value, int) and not isinstance(value, bool) and -_MAX_LONG - 1 <= value <= _MAX_LONG:
        return value, True
    raise _MisfitError(f"expected a 64-bit integer, got {_show(value)}")


def _boolean(value: object) -> tuple[bool, bool]:
    if isinstance(value, bool):
        return value, True
    raise _MisfitError(f"expected true or false, got {_show(value)}")


def _date(value: object) -> tuple[str, bool]:
    try:
        return msgspec.convert(value, date).isoformat(), True
    except msgspec.ValidationError:
        raise _MisfitError(f"expected a date as YYYY-MM-DD, got {_show(value)}") from None


def _timestamp(value: object) -> tuple[int, bool]:
    try:
        moment = msgspec.convert(value, _Moment)
    except msgspec.ValidationError:
        raise _MisfitError(f"expected an RFC 3339 time with an offset, got {_show(value)}") from None
    return _milliseconds(moment), isinstance(value, str) and _MILLISECONDS_IN_UTC.fullmatch(value) is not None


def _show(value: object) -> str:
    """What kind of thing a value is. The value itself is not shown: messages are logged, payloads are not."""
    if value is None:
        return "nothing"
    for kind, name in _NAMES.items():
        if isinstance(value, kind):
            return name
    return f"a {type(value).__name__}"


_NAMES = {
    str: "another string",
    bool: "a boolean",
    int: "an integer",
    float: "a floating-point number",
    dict: "an object",
    list: "a list",
}

_CONVERT: dict[Kind, Convert] = {
    Kind.KEYWORD: _text,
    Kind.TEXT: _text,
    Kind.MONEY: _money,
    Kind.NUMBER: _number,
    Kind.INTEGER: _integer,
    Kind.BOOLEAN: _boolean,
    Kind.DATE: _date,
    Kind.TIMESTAMP: _timestamp,
}


def _converters(fields: tuple[Field, ...]) -> dict[str, Convert]:
    return {field.name: _CONVERT[field.kind] for field in fields}


_FIELDS = {entity_type: _converters(model.fields) for entity_type, model in ENTITY_MODELS.items()}
