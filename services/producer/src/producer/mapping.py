"""Mapping files: how the rows of somebody else's file become events. `docs/publishing.md` describes them."""

from __future__ import annotations

import codecs
import hashlib
import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal, DecimalException
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from banking.streaming.entities import ENTITY_MODELS, EntityType, Kind
from banking.streaming.events import EventType, InvalidEventError, create_event
from producer.drafts import check_declared, exact_decimal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from banking.streaming.events import EntityEvent

ROW = "row"
"""The name under which a template finds the row's number, from 1."""

DIGEST = "digest"
"""The name under which a template finds a hash of the row's values: 16 hex digits."""

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_MAX_EXPONENT = 20
_UNIT_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400}


class MappingError(ValueError):
    """A mapping that cannot be used; the message names the file and the key."""


class ValueType(StrEnum):
    """How a cell is read."""

    TEXT = "text"
    MONEY = "money"
    NUMBER = "number"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"
    JSON = "json"


_TYPE_OF_KIND = {
    Kind.KEYWORD: ValueType.TEXT,
    Kind.TEXT: ValueType.TEXT,
    Kind.MONEY: ValueType.MONEY,
    Kind.NUMBER: ValueType.NUMBER,
    Kind.INTEGER: ValueType.INTEGER,
    Kind.BOOLEAN: ValueType.BOOLEAN,
    Kind.DATE: ValueType.DATE,
    Kind.TIMESTAMP: ValueType.TIMESTAMP,
}


class FieldMapping(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where one value comes from: exactly one of `field`, `template` and `value`.

    Attributes:
        field: The column.
        template: A text with columns in braces.
        value: A constant.
        type: How it is read; as the entity model declares the payload field where it is left out.
        format: The `strptime` format of a date or timestamp.
        zone: The time zone of timestamps that name none.
        base: For timestamps: the moment that the column counts from.
        unit: For timestamps: what the column counts.
        missing: Texts that stand for no value.
        values: Translations of texts; others are refused.
        required: Whether a row without the value is refused.
    """

    field: str | None = None
    template: str | None = None
    value: str | int | float | bool | None = None
    type: ValueType | None = None
    format: str | None = None
    zone: str | None = None
    base: datetime | None = None
    unit: str = "seconds"
    missing: tuple[str, ...] = ("",)
    values: dict[str, str | int | float | bool] | None = None
    required: bool = False


class CsvFormat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How a CSV file is written."""

    delimiter: str = ","
    encoding: str = "utf-8"
    decimal_separator: str = "."


class MappingFile(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A mapping file, key by key.

    Attributes:
        entity_type: What a row is.
        id: Template of the entity's id.
        event_type: Create, update or delete.
        source: The events' source.
        version: Where the version comes from; without it, from the event's time.
        timestamp: Where the event's time comes from; without it, now.
        text_for_embedding: Template of the text to embed; without it, composed of the payload's text fields.
        other_columns: `drop` or `keep` the columns that the payload does not name.
        csv: How CSV files are written.
        payload: Where each payload field comes from; a text is short for a column.
    """

    entity_type: str
    id: str
    event_type: str = "create"
    source: str | None = None
    version: FieldMapping | None = None
    timestamp: FieldMapping | None = None
    text_for_embedding: str | None = None
    other_columns: str = "drop"
    csv: CsvFormat = msgspec.field(default_factory=CsvFormat)
    payload: dict[str, str | FieldMapping] = {}


class Row(msgspec.Struct):
    """A row of a file.

    Attributes:
        number: From 1; a corrected row keeps the number it had in the first file.
        values: What stands in its columns: texts from CSV, JSON values from NDJSON.
    """

    number: int
    values: dict[str, Any]


class RowMapping:
    """Makes events of rows.

    Args:
        description: What the mapping file says.
        name: What errors call the file.

    Raises:
        MappingError: It says something that cannot be done.
    """

    def __init__(self, description: MappingFile, name: str = "mapping") -> None:
        self._name = name
        self.csv = _checked_csv(description.csv, name)
        self.columns: set[str] = set()
        self._entity_type = self._checked(EntityType, "entity_type", description.entity_type)
        self._event_type = self._checked(EventType, "event_type", description.event_type)
        self._source = description.source
        self._id = self._template("id", description.id)
        self._text = None
        if description.text_for_embedding is not None:
            self._text = self._template("text_for_embedding", description.text_for_embedding)
        self._version = self._value("version", description.version, ValueType.INTEGER)
        self._timestamp = self._value("timestamp", description.timestamp, ValueType.TIMESTAMP)
        self._types = {field.name: _TYPE_OF_KIND[field.kind] for field in ENTITY_MODELS[self._entity_type].fields}
        self._payload = {
            field: self._value(f"payload.{field}", source, self._types.get(field, ValueType.TEXT))
            for field, source in description.payload.items()
        }
        if description.other_columns not in {"drop", "keep"}:
            raise MappingError(f"{name}: other_columns: expected drop or keep, got {description.other_columns!r}")
        self._keep_other_columns = description.other_columns == "keep"
        self._mapped_columns = frozenset(self.columns)
        self._converters: dict[str, _Value] = {}

    @classmethod
    def read(cls, path: Path) -> RowMapping:
        """The mapping in a TOML file.

        Raises:
            MappingError: The file cannot be read, or says something that cannot be done.
        """
        try:
            description = msgspec.toml.decode(path.read_bytes(), type=MappingFile)
        except OSError as error:
            raise MappingError(f"{path}: cannot be read: {error.strerror}") from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise MappingError(f"{path}: {error}") from None
        return cls(description, str(path))

    @classmethod
    def of_columns(cls, entity_type: str, id_field: str) -> RowMapping:
        """The mapping that needs no file: one column is the id, all others are payload fields of the same name."""
        description = MappingFile(entity_type=entity_type, id=f"{{{id_field}}}", other_columns="keep")
        return cls(description, "--entity-type and --id-field")

    def check_columns(self, columns: Collection[str]) -> None:
        """Refuse a file that lacks a column.

        Raises:
            MappingError: Columns are missing; it names them.
        """
        if lacking := sorted(self.columns - set(columns)):
            raise MappingError(
                f"{self._name}: no column {', '.join(map(repr, lacking))}; there are {', '.join(map(repr, columns))}"
            )

    def event(self, row: Row, source: str) -> EntityEvent:
        """The event that a row is.

        Args:
            row: The row.
            source: The event's source where the mapping names none.

        Raises:
            InvalidEventError: The row makes no valid event; it names the field.
        """
        entity_id = self._id(row)
        payload: dict[str, Any] = {}
        if self._event_type is not EventType.DELETE:
            for name, read in self._payload.items():
                if read is not None and (value := read(row)) is not None:
                    payload[name] = value
            if self._keep_other_columns:
                self._add_other_columns(row, payload)
        version = self._version(row) if self._version else None
        event = create_event(
            self._entity_type,
            entity_id,
            payload,
            source=self._source or source,
            event_type=self._event_type,
            text_for_embedding=self._text(row) if self._text else None,
            version=version,
            timestamp=datetime.fromisoformat(moment) if self._timestamp and (moment := self._timestamp(row)) else None,
        )
        check_declared(event.entity_type, event.payload)
        return event

    def _add_other_columns(self, row: Row, payload: dict[str, Any]) -> None:
        for column, value in row.values.items():
            if column in self._mapped_columns or column in payload:
                continue
            read = self._converters.get(column)
            if read is None:
                value_type = self._types.get(column, ValueType.TEXT if isinstance(value, str) else ValueType.JSON)
                read = _Value(f"payload.{column}", FieldMapping(field=column), value_type, self.csv.decimal_separator)
                if column in self._types or isinstance(value, str):
                    self._converters[column] = read
            if (converted := read(row)) is not None:
                payload[column] = converted

    def _checked(self, enum: Any, key: str, value: str) -> Any:
        try:
            return enum(value)
        except ValueError:
            expected = ", ".join(member.value for member in enum)
            raise MappingError(f"{self._name}: {key}: expected one of {expected}, got {value!r}") from None

    def _template(self, key: str, text: str) -> Callable[[Row], str]:
        columns = set(_PLACEHOLDER.findall(text))
        if key == "id" and not columns:
            raise MappingError(f"{self._name}: id: names no column, so that every row would be the same entity")
        self.columns |= columns - {ROW, DIGEST}
        return _Template("entity_id" if key == "id" else key, text)

    def _value(self, key: str, source: str | FieldMapping | None, default: ValueType) -> _Value | None:
        if source is None:
            return None
        mapping = FieldMapping(field=source) if isinstance(source, str) else source
        try:
            value = _Value(key, mapping, mapping.type or default, self.csv.decimal_separator)
        except ValueError as error:
            raise MappingError(f"{self._name}: {key}: {error}") from None
        if mapping.field is not None:
            self.columns.add(mapping.field)
        if mapping.template is not None:
            self._template(key, mapping.template)
        return value


def find_mapping(name: str) -> Path:
    """A mapping file by its path, or one of those that come with this package by its name, such as `amlsim-accounts`.

    Raises:
        MappingError: There is none; it names those that come with the package.
    """
    if Path(name).is_file():
        return Path(name)
    folder = Path(str(files("producer") / "mappings"))
    included = {path.stem: path for path in sorted(folder.glob("*.toml"))}
    if name in included:
        return included[name]
    raise MappingError(f"{name}: no such file, and none of the included mappings {', '.join(included)}")


def _checked_csv(csv: CsvFormat, name: str) -> CsvFormat:
    if len(csv.delimiter) != 1:
        raise MappingError(f"{name}: csv.delimiter: expected one character, got {csv.delimiter!r}")
    try:
        codecs.lookup(csv.encoding)
    except LookupError:
        raise MappingError(f"{name}: csv.encoding: no such encoding: {csv.encoding!r}") from None
    return csv


class _Template:
    """A text with columns in braces."""

    def __init__(self, key: str, text: str) -> None:
        self._key = key
        # Literal, column, literal, column, …, literal.
        self._parts = _PLACEHOLDER.split(text)

    def __call__(self, row: Row) -> str:
        parts = self._parts.copy()
        for place in range(1, len(parts), 2):
            parts[place] = self._column(row, parts[place])
        return "".join(parts)

    def _column(self, row: Row, name: str) -> str:
        value = row.values.get(name)
        if value is None or value == "":
            if name == ROW:
                return str(row.number)
            if name == DIGEST:
                return _digest(row)
            raise InvalidEventError(self._key, f"the column {name!r} is empty")
        if isinstance(value, str):
            return value
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            return str(value)
        raise InvalidEventError(self._key, f"the column {name!r} is neither a text nor a number")


class _Value:
    """Reads one value of a row; None where there is none."""

    def __init__(self, key: str, mapping: FieldMapping, value_type: ValueType, decimal_separator: str) -> None:
        given = [name for name in ("field", "template", "value") if getattr(mapping, name) is not None]
        if len(given) != 1:
            raise ValueError("expected exactly one of field, template and value")
        if mapping.unit not in _UNIT_SECONDS:
            raise ValueError(f"unit: expected one of {', '.join(_UNIT_SECONDS)}, got {mapping.unit!r}")
        if mapping.base is not None and mapping.base.tzinfo is None:
            raise ValueError("base: needs an offset, such as 2024-01-01T00:00:00Z")
        self._key = key
        self._mapping = mapping
        self._column = mapping.field
        self._missing = frozenset(mapping.missing)
        self._template = _Template(key, mapping.template) if mapping.template is not None else None
        self._convert = self._converter(value_type, mapping, decimal_separator)
        self._constant: Any = None
        if mapping.value is not None:
            is_text = isinstance(mapping.value, str)
            self._constant = self._convert(mapping.value) if is_text else mapping.value
            if value_type is ValueType.MONEY:
                self._constant = exact_decimal(mapping.value if is_text else Decimal(str(mapping.value)))

    def __call__(self, row: Row) -> Any:
        if self._constant is not None:
            return self._constant
        if self._template is not None:
            value: Any = self._template(row)
        else:
            value = row.values.get(self._column or "")
        if value is None or (isinstance(value, str) and value in self._missing):
            if self._mapping.required:
                raise InvalidEventError(self._key, f"the column {self._column!r} is empty")
            return None
        try:
            if self._mapping.values is not None:
                return self._translated(value)
            return self._convert(value)
        except (ValueError, OverflowError) as error:
            raise InvalidEventError(self._key, str(error)) from None
        except DecimalException:
            raise InvalidEventError(self._key, f"expected a number, got {value!r:.80}") from None

    def _translated(self, value: Any) -> Any:
        translations = self._mapping.values or {}
        try:
            return translations[str(value)]
        except KeyError:
            raise ValueError(f"expected one of {', '.join(translations)}, got {value!r:.80}") from None

    @staticmethod
    def _converter(value_type: ValueType, mapping: FieldMapping, decimal_separator: str) -> Callable[[Any], Any]:
        if value_type is ValueType.TIMESTAMP:
            return _TimestampReader(mapping)
        if value_type is ValueType.DATE:
            return _DateReader(mapping)
        if value_type is ValueType.MONEY and decimal_separator != ".":
            return lambda value: exact_decimal(_with_point(value, decimal_separator))
        if value_type is ValueType.NUMBER and decimal_separator != ".":
            return lambda value: _number(_with_point(value, decimal_separator))
        return _CONVERTERS[value_type]


class _DateReader:
    """Reads dates and writes them as the contract does."""

    def __init__(self, mapping: FieldMapping) -> None:
        self._format = mapping.format

    def __call__(self, value: Any) -> str:
        text = _text(value).strip()
        if self._format is None:
            return date.fromisoformat(text).isoformat()
        return datetime.strptime(text, self._format).date().isoformat()


class _TimestampReader:
    """Reads moments and writes them in UTC."""

    def __init__(self, mapping: FieldMapping) -> None:
        self._format = mapping.format
        self._base = mapping.base
        self._unit_seconds = _UNIT_SECONDS[mapping.unit]
        self._zone: tzinfo | None = None
        if mapping.zone is not None:
            try:
                self._zone = UTC if mapping.zone.upper() == "UTC" else ZoneInfo(mapping.zone)
            except (ZoneInfoNotFoundError, ValueError):
                raise ValueError(f"zone: no such time zone: {mapping.zone!r}") from None

    def __call__(self, value: Any) -> str:
        text = _text(value).strip()
        if self._base is not None:
            count = Decimal(text)
            # Before arithmetic: `1e999999` as an integer has a million digits, and no time is so far away.
            if count.is_finite() and count.adjusted() > _MAX_EXPONENT:
                raise ValueError(f"lies outside the years 1 to 9999: {text!r:.80}")
            moment = self._base + timedelta(microseconds=int(count * self._unit_seconds * 1_000_000))
        elif self._format is not None:
            moment = datetime.strptime(text, self._format)
        else:
            moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            if self._zone is None:
                raise ValueError(f"has no offset, and the mapping no zone: {text!r:.80}")
            moment = moment.replace(tzinfo=self._zone)
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"expected a text, got {value!r:.80}")


def _with_point(value: Any, decimal_separator: str) -> Any:
    return value.replace(decimal_separator, ".") if isinstance(value, str) else value


def _money(value: Any) -> str:
    return exact_decimal(value.strip() if isinstance(value, str) else value)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError(f"expected a number, got {value}")  # noqa: TRY004 - one kind is caught
    return float(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError(f"expected an integer, got {value}")  # noqa: TRY004
    return int(_text(value))


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = _text(value).strip().lower()
    if text in {"true", "t", "yes", "y", "1"}:
        return True
    if text in {"false", "f", "no", "n", "0"}:
        return False
    raise ValueError(f"expected true or false, got {value!r:.80}")


def _json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"is no JSON: {error}") from None


_CONVERTERS: Mapping[ValueType, Callable[[Any], Any]] = {
    ValueType.TEXT: _text,
    ValueType.MONEY: _money,
    ValueType.NUMBER: _number,
    ValueType.INTEGER: _integer,
    ValueType.BOOLEAN: _boolean,
    ValueType.JSON: _json,
}


def _digest(row: Row) -> str:
    """A hash of a row's values, in the columns' order: 16 hex digits."""
    hasher = hashlib.blake2b(digest_size=8)
    for value in row.values.values():
        hasher.update(str(value).encode("utf-8", "surrogateescape"))
        hasher.update(b"\x1f")
    return hasher.hexdigest()
