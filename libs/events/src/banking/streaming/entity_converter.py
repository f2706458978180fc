"""Entities of any kind as events: msgspec structs, dataclasses, pydantic models and plain mappings.

What becomes of an entity:

* Its id is taken out of the payload and becomes `entity_id`. It is looked for under the id field of its type
  (`person_id`, …), then `entity_id`, then `id`.
* Its type is the `entity_type` it carries, which is taken out as well, or else the one whose id field it has.
* All the rest is the payload, under the names the entity is encoded by. Decimals stay exact; dates, times, UUIDs and
  enums become the text that JSON holds; nested entities become objects.

Nothing is guessed: what would be changed in silence, such as money in a float, is refused by an error naming the field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import msgspec

from banking.streaming.entities import ENTITY_MODELS, EntityType, Kind
from banking.streaming.events import InvalidEventError, compose_text, create_event

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from banking.streaming.events import EntityEvent, EventType

_TYPE_FIELD = "entity_type"
_COMMON_ID_FIELDS = ("entity_id", "id")
_ID_FIELDS = {model.id_field: entity_type for entity_type, model in ENTITY_MODELS.items()}
_TYPED = {
    entity_type: tuple(
        (field.name, field.kind) for field in model.fields if field.kind in (Kind.MONEY, Kind.DATE, Kind.TIMESTAMP)
    )
    for entity_type, model in ENTITY_MODELS.items()
}
_SCALARS = (str, int, float, Decimal)
_AS_THEY_ARE = frozenset((str, int, float, bool, Decimal, type(None)))
_MAX_DEPTH = 64


def convert_entity_to_event(
    entity: object,
    source: str = "unknown",
    *,
    entity_type: EntityType | str | None = None,
    entity_id: str | None = None,
    **options: Any,
) -> EntityEvent:
    """Make the event that an entity's whole state is.

    Args:
        entity: A msgspec struct, dataclass instance, pydantic model or mapping.
        source: The system the event comes from.
        entity_type: Its type, where the entity does not say it.
        entity_id: Its id, where the entity does not say it.
        options: Further ones of `create_event`: event_type, text_for_embedding, version, timestamp, event_id, metadata.

    Raises:
        InvalidEventError: The entity has no type or id, or a value that no event can hold; it names the field.
        TypeError: It is none of the kinds above.
    """
    state, entity_type, entity_id = _take_apart(entity, entity_type, entity_id)
    if options.get("event_type") == "delete":
        state = {}
    return create_event(entity_type, entity_id, state, source=source, **options)


def convert_entities_to_events(
    entities: Iterable[object],
    source: str = "unknown",
    *,
    entity_type: EntityType | str | None = None,
    event_type: EventType | str = "create",
    metadata: Mapping[str, Any] | None = None,
) -> Iterator[EntityEvent]:
    """Make the events of any number of entities, one when it is asked for.

    Args:
        entities: Entities as `convert_entity_to_event` takes them; their types may be mixed.
        source: The system the events come from.
        entity_type: The type of all of them, where they do not say it.
        event_type: What happened to all of them.
        metadata: Metadata of every event.

    Raises:
        InvalidEventError: As above; the field begins with the entity's place, such as `entities[3].payload.balance`.
        TypeError: An entity is of no kind that is taken.
    """
    for index, entity in enumerate(entities):
        try:
            event = convert_entity_to_event(
                entity, source, entity_type=entity_type, event_type=event_type, metadata=metadata
            )
        except InvalidEventError as error:
            field = f"entities[{index}].{error.field}"
            raise InvalidEventError(field, str(error).removeprefix(f"{error.field}: ")) from error
        yield event


def entity_to_dict(entity: object) -> dict[str, Any]:
    """An entity as a new dictionary of what JSON holds, with its id and type, and Decimals left as they are.

    Raises:
        InvalidEventError: A value cannot be written as JSON; it names the field.
        TypeError: It is no msgspec struct, dataclass instance, pydantic model or mapping.
    """
    return _payload(_fields(entity))


def get_entity_type(entity: object) -> EntityType:
    """The type of an entity.

    Raises:
        InvalidEventError: It carries no type that is known, and not exactly one id field.
        TypeError: It is of no kind that is taken.
    """
    return _type_of(entity, _fields(entity))


def get_entity_id(entity: object) -> str:
    """The id of an entity; UUIDs and integers as text.

    Raises:
        InvalidEventError: It has no type or no id.
        TypeError: It is of no kind that is taken.
    """
    fields = _fields(entity)
    return _id_of(fields, _type_of(entity, fields))[0]


def get_text_for_embedding(entity: object) -> str:
    """The text that is embedded of an entity unless another is given: its declared text fields, joined by spaces.

    Raises:
        InvalidEventError: Its type is not known, or a value cannot be written as JSON.
        TypeError: It is of no kind that is taken.
    """
    return compose_text(get_entity_type(entity), entity_to_dict(entity))


def _take_apart(
    entity: object, entity_type: EntityType | str | None, entity_id: str | None
) -> tuple[dict[str, Any], EntityType, str]:
    """The payload, type and id of an entity."""
    fields = _fields(entity)
    kind = _type_of(entity, fields) if entity_type is None else _member(entity_type)
    if entity_id is None:
        entity_id, id_field = _id_of(fields, kind)
        del fields[id_field]
    elif str(fields.get(ENTITY_MODELS[kind].id_field)) == entity_id:
        del fields[ENTITY_MODELS[kind].id_field]
    # Where the caller says the type, a field of that name may say something else, which is part of the state.
    if fields.get(_TYPE_FIELD, kind) in (kind, None):
        fields.pop(_TYPE_FIELD, None)
    _check_typed(fields, kind)
    return _payload(fields), kind, entity_id


def _fields(entity: object, path: str = "payload") -> dict[str, Any]:
    """The fields of an entity, or of an object within it, under the names it is encoded by, values as they are."""
    if isinstance(entity, msgspec.Struct):
        return _fields_of_struct(entity)
    if isinstance(entity, Mapping):
        for key in entity:
            if not isinstance(key, str):
                raise InvalidEventError(path, f"expected texts as keys, got {key!r:.80}")
        return dict(entity)
    if dataclasses.is_dataclass(entity) and not isinstance(entity, type):
        return {field.name: getattr(entity, field.name) for field in dataclasses.fields(entity)}
    if _is_pydantic(entity):
        return dict(entity.model_dump(by_alias=True))  # type: ignore[attr-defined]
    raise TypeError(
        f"expected a msgspec struct, dataclass instance, pydantic model or mapping, got {type(entity).__name__}"
    )


def _is_pydantic(entity: object) -> bool:
    """Whether it is an instance of a pydantic model, without importing pydantic for those who do not use it."""
    kind = type(entity)
    return hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_dump")


class _StructPlan(NamedTuple):
    """How the structs of a class are encoded, beside their fields as they are."""

    renamed: tuple[str, ...] | None  # the encoded names, where they differ from the attributes
    defaults: tuple[tuple[str, Any], ...]  # of the attributes that have one
    omit_defaults: bool
    tag: dict[str, Any]


@cache
def _plan_of(kind: type[msgspec.Struct]) -> _StructPlan:
    config = kind.__struct_config__
    if config.array_like:
        raise TypeError(f"expected a struct that is encoded as an object, {kind.__name__} is encoded as an array")
    names, encoded, defaults = kind.__struct_fields__, kind.__struct_encode_fields__, kind.__struct_defaults__
    with_default = zip(names[len(names) - len(defaults) :], defaults, strict=True)
    return _StructPlan(
        renamed=None if names == encoded else encoded,
        defaults=tuple((name, default) for name, default in with_default if default is not msgspec.NODEFAULT),
        omit_defaults=config.omit_defaults,
        tag={config.tag_field: config.tag} if config.tag_field is not None else {},
    )


def _fields_of_struct(entity: msgspec.Struct) -> dict[str, Any]:
    """What msgspec would encode, values as they are: under the encoded names, without what is unset or left out."""
    plan = _plan_of(type(entity))
    fields = msgspec.structs.asdict(entity)
    if plan.renamed is not None:
        renamed = dict(zip(fields, plan.renamed, strict=True))
    for name, default in plan.defaults:
        value = fields[name]
        if value is msgspec.UNSET or (plan.omit_defaults and _is_default(value, default)):
            del fields[name]
    if plan.renamed is not None:
        fields = {renamed[name]: value for name, value in fields.items()}
    return plan.tag | fields if plan.tag else fields


def _is_default(value: object, default: object) -> bool:
    if value is default:
        return True
    # msgspec keeps a default of an empty list, dictionary or set as a factory.
    return isinstance(value, list | dict | set) and not value and getattr(default, "factory", None) is type(value)


def _type_of(entity: object, fields: Mapping[str, Any]) -> EntityType:
    value = fields[_TYPE_FIELD] if _TYPE_FIELD in fields else getattr(type(entity), _TYPE_FIELD, None)
    if isinstance(value, Enum):
        value = value.value
    if value is not None:
        return _member(value)
    found = [entity_type for id_field, entity_type in _ID_FIELDS.items() if id_field in fields]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(ENTITY_MODELS[entity_type].id_field for entity_type in found)
        raise InvalidEventError(_TYPE_FIELD, f"is missing, and there are several id fields: {names}")
    raise InvalidEventError(_TYPE_FIELD, f"is missing, and there is no id field: one of {', '.join(_ID_FIELDS)}")


def _member(value: Any) -> EntityType:
    try:
        return EntityType(value)
    except ValueError:
        expected = ", ".join(EntityType)
        raise InvalidEventError(_TYPE_FIELD, f"expected one of {expected}, got {value!r:.80}") from None


def _id_of(fields: Mapping[str, Any], entity_type: EntityType) -> tuple[str, str]:
    """The id and the field that holds it."""
    names = (ENTITY_MODELS[entity_type].id_field, *_COMMON_ID_FIELDS)
    for name in names:
        value = fields.get(name)
        if value is None:
            continue
        if isinstance(value, UUID) or (isinstance(value, int) and not isinstance(value, bool)):
            return str(value), name
        if not isinstance(value, str):
            raise InvalidEventError(name, f"expected a text, a UUID or an integer, got {type(value).__name__}")
        return value, name
    raise InvalidEventError(names[0], "is missing")


def _check_typed(fields: Mapping[str, Any], entity_type: EntityType) -> None:
    """Refuse Python values that lose or lack something for the declared type of their field."""
    for name, kind in _TYPED[entity_type]:
        value = fields.get(name)
        if kind is Kind.MONEY:
            if isinstance(value, float):
                raise InvalidEventError(f"payload.{name}", "is money: expected a Decimal or decimal text, got a float")
        elif kind is Kind.DATE:
            if isinstance(value, datetime):
                raise InvalidEventError(f"payload.{name}", "expected a date, got a date with a time")
        elif isinstance(value, datetime):
            if value.tzinfo is None:
                raise InvalidEventError(f"payload.{name}", f"needs a time zone, got {value.isoformat()}")
        elif isinstance(value, date):
            raise InvalidEventError(f"payload.{name}", "expected a time with a time zone, got a date")


def _payload(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value if type(value) in _AS_THEY_ARE else _plain(value, f"payload.{key}") for key, value in fields.items()
    }


def _plain(value: Any, path: str, depth: int = 0) -> Any:
    """A value as JSON holds it, Decimals left as they are."""
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, _SCALARS):
        return value
    if isinstance(value, datetime):
        return _time_text(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    return _plain_collection(value, path, depth + 1)


def _plain_collection(value: Any, path: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise InvalidEventError(path, f"nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}[{index}]", depth) for index, item in enumerate(value)]
    if isinstance(value, AbstractSet):
        # A set has no order of its own, and the same entity must always give the same bytes.
        items = [_plain(item, path, depth) for item in value]
        return sorted(items, key=lambda item: (type(item).__name__, str(item)))
    try:
        fields = _fields(value, path)
    except TypeError:
        raise InvalidEventError(path, f"cannot be written as JSON: {type(value).__name__}") from None
    return {key: _plain(item, f"{path}.{key}", depth) for key, item in fields.items()}


def _time_text(value: datetime) -> str:
    """RFC 3339, as msgspec writes it."""
    text = value.isoformat()
    return f"{text.removesuffix('+00:00')}Z" if text.endswith("+00:00") else text
