"""Whether a payload fits what is declared of its entity type: the one judge for the producer and for both legs.

A store would judge by rules of its own: one takes 30 February, another a number where a text is declared. With one
check for all, what one leg can hold the other can hold as well. What is not declared may be anything.

Messages name the field and what was expected, never the value: they are logged, payloads are not.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from banking.streaming.entities import ENTITY_MODELS, EntityType, Field, Kind, Reference
from banking.streaming.events import ID_PATTERN, InvalidEventError
from banking.streaming.sink import RejectionReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

DECIMAL_PATTERN = r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
"""Money, as far as it is a string."""

TIMESTAMP_PATTERN = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:Z|[+-](?:(?:0[0-9]|1[0-7]):[0-5][0-9]|18:00))"
)
"""What both stores and Python read alike as a moment; the largest offset is Java's."""

_ID = re.compile(ID_PATTERN)
_DECIMAL = re.compile(DECIMAL_PATTERN)
_TIMESTAMP = re.compile(TIMESTAMP_PATTERN)
_MAX_LONG = 2**63 - 1
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]

EXPECTED: Mapping[Kind, str] = {
    Kind.KEYWORD: "a string",
    Kind.TEXT: "a string",
    Kind.MONEY: "a decimal string such as 12.50",
    Kind.NUMBER: "a finite number",
    Kind.INTEGER: "an integer of 64 bits",
    Kind.BOOLEAN: "true or false",
    Kind.DATE: "a calendar day as YYYY-MM-DD",
    Kind.TIMESTAMP: "a time with an offset such as 2024-03-31T12:00:00Z",
}
"""What a field of each kind holds, for messages."""


class InvalidPayloadError(InvalidEventError):
    """A payload that does not fit what is declared of its entity type.

    Attributes:
        field: The offending field, as a path such as `payload.joint_owners[0].owner_id`.
        reason: Why, from the fixed list that dead letters carry.
    """

    def __init__(self, reason: RejectionReason, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Link:
    """One entity that a payload refers to.

    Attributes:
        reference: What declares it.
        target_type: The type of the entity referred to.
        target_id: Its id.
        properties: The declared values beside it that are there, as `parse_value` gives them.
    """

    reference: Reference
    target_type: EntityType
    target_id: str
    properties: dict[str, Any]


def check_payload(entity_type: EntityType, payload: Mapping[str, Any]) -> None:
    """Check all that is declared of a payload: its fields, then its references.

    Raises:
        InvalidPayloadError: A value does not fit; it names the field.
    """
    fields = _FIELDS[entity_type]
    for name, value in payload.items():
        field = fields.get(name)
        # Most values are strings where strings are declared: nothing to parse.
        if field is not None and value is not None and not (type(value) is str and field.kind in _STRINGS):
            parse_value(field, value)
    for _ in links(entity_type, payload):
        pass


def parse_value(field: Field, value: object, path: str = "payload.") -> Any:
    """A declared field's value as stores compare it.

    Args:
        field: What is declared.
        value: What the payload says; not None.
        path: Where the field stands, ending in a dot.

    Returns:
        A str of a keyword, a text or a date; a float of money or a number, the nearest one; an int, a bool; a datetime
        with a time zone of a timestamp.

    Raises:
        InvalidPayloadError: The value does not fit; it names the field.
    """
    try:
        return _PARSERS[field.kind](value)
    except _MisfitError:
        problem = f"expected {EXPECTED[field.kind]}, got {_describe(value)}"
        raise InvalidPayloadError(RejectionReason.INVALID_FIELD, path + field.name, problem) from None


def links(entity_type: EntityType, payload: Mapping[str, Any]) -> Iterator[Link]:
    """Every entity that a payload refers to, in the order of the declarations; the same one twice where it says so.

    Raises:
        InvalidPayloadError: A reference cannot be followed, or a value beside it does not fit; it names the field.
    """
    for reference in ENTITY_MODELS[entity_type].references:
        value = payload.get(reference.field)
        if value is None:
            continue
        path = f"payload.{reference.field}"
        if not reference.many:
            yield _link(reference, value, payload, path, "payload.")
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                yield _link_of_item(reference, item, payload, f"{path}[{index}]")
        else:
            raise _unfollowable(path, "a list", value)


def _link_of_item(reference: Reference, item: object, payload: Mapping[str, Any], path: str) -> Link:
    if reference.id_field is None:
        return _link(reference, item, payload, path, "payload.")
    if isinstance(item, dict):
        return _link(reference, item.get(reference.id_field), item, f"{path}.{reference.id_field}", f"{path}.")
    raise _unfollowable(path, f"an object with {reference.id_field}", item)


def _link(reference: Reference, target_id: object, beside: Mapping[str, Any], id_path: str, path: str) -> Link:
    """The link to one target; its type and properties stand in `beside`, whose path ends in a dot."""
    if not isinstance(target_id, str) or _ID.match(target_id) is None:
        raise _unfollowable(id_path, "an id of 1 to 256 printable ASCII characters without white space", target_id)
    target_type = reference.targets[0]
    if reference.type_field is not None:
        said = beside.get(reference.type_field)
        if said not in reference.targets:
            expected = f"the type of {id_path}, one of {', '.join(reference.targets)}"
            raise _unfollowable(path + reference.type_field, expected, said)
        target_type = EntityType(said)
    properties = {}
    for field in reference.properties:
        value = beside.get(field.name)
        if value is not None:
            properties[field.name] = parse_value(field, value, path)
    return Link(reference, target_type, target_id, properties)


def _unfollowable(path: str, expected: str, value: object) -> InvalidPayloadError:
    problem = f"expected {expected}, got {_describe(value)}"
    return InvalidPayloadError(RejectionReason.INVALID_REFERENCE, path, problem)


class _MisfitError(ValueError):
    """A value that its kind cannot hold."""


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise _MisfitError


def _money(value: object) -> float:
    # Every integer is a decimal number, and of a very long one Python makes no text to be matched.
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, int | str | Decimal) and (is_integer or _DECIMAL.fullmatch(str(value))):
        return _double(value)
    raise _MisfitError


def _number(value: object) -> float:
    if isinstance(value, float | int | Decimal) and not isinstance(value, bool):
        return _double(value)
    raise _MisfitError


def _double(value: str | Decimal | float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isfinite(number):
        return number
    raise _MisfitError


def _integer(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and -_MAX_LONG - 1 <= value <= _MAX_LONG:
        return value
    raise _MisfitError


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _MisfitError


def _date(value: object) -> str:
    try:
        return msgspec.convert(value, date).isoformat()
    except msgspec.ValidationError:
        raise _MisfitError from None


def _timestamp(value: object) -> datetime:
    if isinstance(value, str) and _TIMESTAMP.fullmatch(value) is None:
        raise _MisfitError
    try:
        return msgspec.convert(value, _Moment)
    except msgspec.ValidationError:
        raise _MisfitError from None


_PARSERS: Mapping[Kind, Callable[[object], Any]] = {
    Kind.KEYWORD: _text,
    Kind.TEXT: _text,
    Kind.MONEY: _money,
    Kind.NUMBER: _number,
    Kind.INTEGER: _integer,
    Kind.BOOLEAN: _boolean,
    Kind.DATE: _date,
    Kind.TIMESTAMP: _timestamp,
}
_STRINGS = (Kind.KEYWORD, Kind.TEXT)
_FIELDS = {entity_type: {field.name: field for field in model.fields} for entity_type, model in ENTITY_MODELS.items()}
_NAMES: Mapping[type, str] = {
    str: "another string",
    bool: "a boolean",
    int: "an integer",
    float: "a floating-point number",
    dict: "an object",
    list: "a list",
}


def _describe(value: object) -> str:
    """What kind of thing a value is."""
    if value is None:
        return "nothing"
    for kind, name in _NAMES.items():
        if isinstance(value, kind):
            return name
    return f"a {type(value).__name__}"
