"""The API's description of itself: an OpenAPI 3.1 document, made from the structs that the API reads and writes."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from banking.streaming.entities import ENTITY_MODELS, EntityType, Kind
from banking.streaming.events import SCHEMA_VERSION, EntityEvent, EventType
from banking.streaming.payloads import EXPECTED
from producer.answers import AcceptedLine, ProblemLine, RejectedLine, SummaryLine, UnconfirmedLine
from producer.body import CODINGS, JSON, NDJSON, NDJSON_TYPES
from producer.drafts import EventDraft
from producer.idempotency import HEADER, REPLAYED_HEADER
from producer.intake import Rejection, Summary
from producer.problems import PROBLEM_CONTENT_TYPE, ProblemDetails

if TYPE_CHECKING:
    from collections.abc import Mapping

    from banking.streaming.entities import EntityModel, Field, Reference
    from producer.api import ApiLimits

Schema = dict[str, Any]

_REFERENCE = "#/components/schemas/{name}"
_LINES = (RejectedLine, UnconfirmedLine, AcceptedLine, SummaryLine, ProblemLine)
_ANSWERED: tuple[type[msgspec.Struct], ...] = (Rejection, Summary, ProblemDetails, *_LINES)
_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)

_BY_KIND: Mapping[Kind, Schema] = {
    Kind.KEYWORD: {"type": "string"},
    Kind.TEXT: {"type": "string"},
    Kind.MONEY: {
        "anyOf": [
            {"type": "string", "pattern": r"^-?[0-9]{1,30}(\.[0-9]{1,30})?$(?!\n)"},
            {"type": "number", "description": "Taken digit by digit, and stored as a decimal string."},
        ]
    },
    Kind.NUMBER: {"type": "number"},
    Kind.INTEGER: {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    Kind.BOOLEAN: {"type": "boolean"},
    Kind.DATE: {"type": "string", "format": "date"},
    Kind.TIMESTAMP: {
        "type": "string",
        "format": "date-time",
        "pattern": r"T[0-9:]{8}(\.[0-9]{1,9})?(Z|[+-](0[0-9]|1[0-7]):[0-5][0-9]|[+-]18:00)$(?!\n)",
    },
}

_SUMMARY_EXAMPLE = {
    "read": 2,
    "accepted": 1,
    "rejected": 1,
    "unconfirmed": 0,
    "accepted_ids_hash": "70f16b2496fcdb74659348370544a944",
    "rejections": [{"index": 1, "field": "payload.balance", "problem": "expected a decimal number such as 1234.50"}],
}
_EVENT_EXAMPLES = (
    {"entity_id": "person-123", "entity_type": "person", "payload": {"name": "John Doe", "city": "Paris"}},
    {"entity_id": "account-7", "entity_type": "account", "payload": {"balance": "12.50", "currency": "EUR"}},
)


def document(limits: ApiLimits, *, source: str, authentication: bool) -> dict[str, Any]:
    """The OpenAPI document of a running service.

    Args:
        limits: What requests may take.
        source: The `source` of events that name none.
        authentication: Whether callers need a key.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Banking event fleet: producer",
            "version": version("producer"),
            "summary": "Publishes events of banking entities to Apache Pulsar.",
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/v1/events": {"post": _publish(limits, source, authentication=authentication)},
            "/openapi.json": {"get": _get("getOpenapi", "This document", JSON, {"type": "object"})},
            "/docs": {"get": _get("getDocs", "This document, to be read", "text/html", {"type": "string"})},
            "/metrics": {"get": _get("getMetrics", "Prometheus metrics", "text/plain", {"type": "string"})},
            "/health/live": {"get": _get("getLive", "Whether the process lives", JSON, _HEALTH)},
            "/health/ready": {"get": _ready()},
        },
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "apiKey": {"type": "http", "scheme": "bearer", "description": "An API key, as `Bearer <key>`."}
            },
        },
    }


_INTRODUCTION = f"""\
An event carries the whole state of one person, account, transaction, company or communication at one version. It is
accepted once Pulsar has stored it; both stores, JanusGraph and OpenSearch, follow.

Every error is answered as `{PROBLEM_CONTENT_TYPE}` (RFC 9457). After a 503 the same request may be sent again: with an
`{HEADER}` it publishes the very same events.

What JSON Schema cannot say is checked all the same: an event has at most 4 MiB as JSON and 64 levels, a version that is
a time may not lie far ahead, and money has at most 30 digits before and after the point."""


def _publish(limits: ApiLimits, source: str, *, authentication: bool) -> dict[str, Any]:
    lines = {"type": "array", "items": _reference("EventDraft"), "description": "One event a line."}
    example, other = _EVENT_EXAMPLES
    ndjson_limit = f"{limits.stream_bytes:,} bytes" if limits.stream_bytes else "no limit"
    operation: dict[str, Any] = {
        "operationId": "postEvents",
        "summary": "Publish events",
        "description": (
            "One event, a JSON array of events, or NDJSON of any length, which is read, published and forgotten line "
            "by line. Each event is judged by itself: one that is rejected is named in the answer by its place and "
            f"field, the others go in. The `source` of events that name none is `{source}`."
        ),
        "parameters": [_key_parameter(), _RECEIPTS],
        "requestBody": {
            "required": True,
            "description": (
                f"At most {limits.body_bytes:,} bytes as `{JSON}`, {ndjson_limit} as `{NDJSON}` (also "
                f"{', '.join(f'`{name}`' for name in NDJSON_TYPES[1:])}), unpacked. It may be packed with "
                f"`Content-Encoding: {'` or `'.join(CODINGS)}`."
            ),
            "content": {
                JSON: {
                    "schema": {
                        "anyOf": [
                            _reference("EventDraft"),
                            {"type": "array", "items": _reference("EventDraft")},
                        ]
                    },
                    "example": example,
                },
                NDJSON: {"schema": lines, "example": [example, other]},
            },
        },
        "responses": _publish_responses(limits),
        "security": [{"apiKey": []}] if authentication else [],
    }
    return operation


def _publish_responses(limits: ApiLimits) -> dict[str, Any]:
    answer_lines = {"type": "array", "items": {"oneOf": [_reference(kind.__name__) for kind in _LINES]}}
    again = {"Retry-After": _header("integer", "Seconds after which to come again.")}
    summary = {"schema": _reference("Summary"), "example": _SUMMARY_EXAMPLE}
    return {
        "200": {
            "description": (
                f"Only where `{NDJSON}` was asked for: the answer began before its outcome was known. Its last line "
                "says it: a summary, or a problem. An answer without either was cut off."
            ),
            "content": {NDJSON: {"schema": answer_lines}},
        },
        "202": {
            "description": "Every valid event is stored.",
            "headers": {REPLAYED_HEADER: _header("string", "`true` where the request had been answered before.")},
            "content": {JSON: summary, NDJSON: {"schema": answer_lines}},
        },
        "400": _problem(
            "The body or a header cannot be read, no event was accepted, or, where one JSON object is answered, "
            f"{limits.rejections:,} events were rejected."
        ),
        "401": _problem("No API key, or a wrong one.", {"WWW-Authenticate": _header("string", "`Bearer`")}),
        "408": _problem(f"Nothing came, or nothing was read, for {limits.body_idle_seconds:g} s."),
        "409": _problem(f"A request with the same `{HEADER}` is being published.", again),
        "413": _problem("The body is too large. One event that is too large is rejected alone."),
        "415": _problem(
            "Another content type, encoding or content encoding than those above.",
            {
                "Accept-Post": _header("string", "The content types that are understood."),
                "Accept-Encoding": _header("string", "The content encodings that are understood."),
            },
        ),
        "422": _problem(f"The `{HEADER}` was used for another body."),
        "429": _problem(f"{limits.concurrent_requests} requests are being published, as many as may be.", again),
        "503": _problem(
            "The broker is away or did not confirm some events, or the service is stopping. Send the request again.",
            again,
        ),
    }


def _key_parameter() -> dict[str, Any]:
    return {
        "name": HEADER,
        "in": "header",
        "required": False,
        "description": (
            "Any text that is new for each request, such as a UUID; in quotes or without. A request that is repeated "
            "under its key with the same body is answered as before and nothing is published twice."
        ),
        "schema": {"type": "string", "pattern": r"^[\x21\x23-\x5b\x5d-\x7e]{1,255}$(?!\n)"},
        "example": "8e03978e-40d5-43e8-bc93-6894a57f9324",
    }


_RECEIPTS: dict[str, Any] = {
    "name": "receipts",
    "in": "query",
    "required": False,
    "description": (
        f"`all` tells of each accepted event too, with its id and version; it is always answered as `{NDJSON}`."
    ),
    "schema": {"enum": ["rejected", "all"], "default": "rejected"},
}
_HEALTH: Schema = {
    "type": "object",
    "properties": {
        "status": {"type": "string"},
        "service": {"type": "string"},
        "missing": {
            "type": "object",
            "description": "What is missing, by name.",
            "additionalProperties": {"type": "string"},
        },
    },
    "required": ["status", "service"],
}


def _ready() -> dict[str, Any]:
    operation = _get("getReady", "Whether events can be published", JSON, _HEALTH)
    operation["responses"]["503"] = {
        "description": "Something is missing.",
        "content": {JSON: {"schema": _HEALTH}},
    }
    return operation


def _get(operation_id: str, summary: str, content_type: str, schema: Schema) -> dict[str, Any]:
    return {
        "operationId": operation_id,
        "summary": summary,
        "responses": {"200": {"description": f"{summary}.", "content": {content_type: {"schema": schema}}}},
        "security": [],
    }


def _problem(description: str, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "description": description,
        **({"headers": headers} if headers else {}),
        "content": {PROBLEM_CONTENT_TYPE: {"schema": _reference("ProblemDetails")}},
    }


def _header(kind: str, description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}}


def _reference(name: str) -> Schema:
    return {"$ref": _REFERENCE.format(name=name)}


def _schemas() -> dict[str, Schema]:
    _, components = msgspec.json.schema_components([EventDraft, EntityEvent, *_ANSWERED], ref_template=_REFERENCE)
    drafts = _drafts(components)
    payloads = {_payload_name(kind): _payload(model) for kind, model in ENTITY_MODELS.items()}
    answered = {kind.__name__: _as_answered(kind, components[kind.__name__]) for kind in _ANSWERED}
    return {**drafts, **payloads, **answered}


def _drafts(components: Mapping[str, Schema]) -> dict[str, Schema]:
    """`EventDraft`, as one schema for each type of entity, one for a delete, and both for newer minor schemas."""
    plain, checked = components["EventDraft"], components["EntityEvent"]["properties"]
    texts = _attributes(EventDraft)
    properties: Schema = {}
    for name, written in plain["properties"].items():
        # The draft says what may be left out, the event what a value has to be.
        schema = {**checked[name], "default": written.get("default")}
        if _REFERENCE.format(name="") in schema.pop("$ref", ""):
            schema["enum"] = components[name.title().replace("_", "")]["enum"]
        if {"type": "null"} in written.get("anyOf", ()):
            schema.pop("default")
            schema = schema if "anyOf" in schema else {"anyOf": [schema, {"type": "null"}]}
        elif name in plain["required"]:
            schema.pop("default")
        properties[name] = {"description": texts[name], **schema}
    properties["schema_version"] = {**properties["schema_version"], "enum": [SCHEMA_VERSION]}
    del properties["schema_version"]["pattern"]

    def variant(title: str, description: str, **changed: Schema) -> Schema:
        own = {name: {**schema, **changed.get(name, {})} for name, schema in properties.items()}
        return {**plain, "title": title, "description": description, "properties": own}

    stored: Schema = {"enum": [EventType.CREATE.value, EventType.UPDATE.value]}
    variants = {
        f"{kind.value.title()}Event": variant(
            f"{kind.value.title()}Event",
            f"The whole state of one {kind.value}.",
            entity_type={"enum": [kind.value]},
            event_type=stored,
            payload=_reference(_payload_name(kind)),
        )
        for kind in EntityType
    }
    deleted: Schema = {"enum": [EventType.DELETE.value]}
    variants["DeleteEvent"] = variant(
        "DeleteEvent", "An entity is no more.", event_type=deleted, payload={"maxProperties": 0}
    )
    variants["DeleteEvent"]["properties"]["event_type"].pop("default")
    variants["DeleteEvent"]["required"] = [*plain["required"], "event_type"]
    newer: Schema = {
        "description": texts["schema_version"],
        "type": "string",
        "pattern": rf"^{SCHEMA_VERSION.partition('.')[0]}\.(?!0$)[0-9]{{1,6}}$(?!\n)",
    }
    variants["NewerEvent"] = variant(
        "NewerEvent", "A state by a newer minor schema, whose further fields are kept.", event_type=stored
    )
    variants["NewerDeleteEvent"] = {**variants["DeleteEvent"], "title": "NewerDeleteEvent"}
    for name in ("NewerEvent", "NewerDeleteEvent"):
        fields = variants[name]["properties"]
        variants[name] |= {
            "properties": {**fields, "schema_version": newer},
            "required": [*variants[name]["required"], "schema_version"],
            "additionalProperties": True,
        }
    summary = (EventDraft.__doc__ or "").partition("\n")[0]
    return {"EventDraft": {"description": summary, "anyOf": [_reference(name) for name in variants]}, **variants}


def _payload_name(entity_type: EntityType) -> str:
    return f"{entity_type.value.title()}Payload"


def _payload(model: EntityModel) -> Schema:
    """What is declared of a payload; each field may be null, and further fields may be anything."""
    properties = {field.name: _nullable(_of_field(field)) for field in model.fields}
    dependent: dict[str, list[str]] = {}
    for reference in model.references:
        if reference.many:
            properties[reference.field] = _nullable(
                {"type": "array", "description": _leads_to(reference), "items": _item(reference)}
            )
            continue
        properties[reference.field] = {**_nullable(_ID), "description": _leads_to(reference)}
        if reference.type_field is not None:
            properties[reference.type_field] = _target_type(reference)
            dependent[reference.field] = [reference.type_field]
    return {
        "type": "object",
        "description": f"The state of one {model.entity_type.value}. Fields that are not listed may be anything.",
        "properties": properties,
        **({"dependentRequired": dependent} if dependent else {}),
    }


_ID: Schema = {"type": "string", "pattern": r"^[\x21-\x7e]{1,256}$(?!\n)"}


def _item(reference: Reference) -> Schema:
    if reference.id_field is None:
        return _ID
    properties = {
        reference.id_field: _ID,
        **{field.name: _nullable(_of_field(field)) for field in reference.properties},
    }
    required = [reference.id_field]
    if reference.type_field is not None:
        properties[reference.type_field] = _target_type(reference)
        required.append(reference.type_field)
    return {"type": "object", "properties": properties, "required": required}


def _target_type(reference: Reference) -> Schema:
    return {"description": "What kind of entity the id names.", "enum": [kind.value for kind in reference.targets]}


def _leads_to(reference: Reference) -> str:
    return f"The id of a {' or '.join(reference.targets)}: becomes an edge `{reference.edge}`."


def _of_field(field: Field) -> Schema:
    expected = EXPECTED[field.kind]
    return {"description": f"{expected[0].upper()}{expected[1:]}.", **_BY_KIND[field.kind]}


def _nullable(schema: Schema) -> Schema:
    described = {"description": schema["description"]} if "description" in schema else {}
    kinds = schema["anyOf"] if "anyOf" in schema else [{k: v for k, v in schema.items() if k != "description"}]
    return {**described, "anyOf": [*kinds, {"type": "null"}]}


def _as_answered(struct: type[msgspec.Struct], schema: Schema) -> Schema:
    """A schema of what is written, not read: what is always there is required, and what is None is left out."""
    texts = _attributes(struct)
    properties = {}
    for name, written in schema["properties"].items():
        kept = {key: value for key, value in written.items() if key != "default"}
        kinds = [kind for kind in kept.pop("anyOf", ()) if kind != {"type": "null"}]
        properties[name] = {**({"description": texts[name]} if name in texts else {}), **kept, **(*kinds, {})[0]}
    always = () if struct.__struct_config__.omit_defaults else msgspec.structs.fields(struct)
    required = {*schema["required"], *(field.encode_name for field in always if field.default is not UNSET)}
    return {
        "type": "object",
        "description": (struct.__doc__ or "").partition("\n")[0],
        "properties": properties,
        "required": [name for name in properties if name in required],
    }


def _attributes(struct: type[msgspec.Struct]) -> dict[str, str]:
    """What the docstrings of a struct and of those that it extends say of its fields."""
    texts: dict[str, str] = {}
    for kind in reversed(struct.__mro__):
        # Python 3.13 takes the indentation away by itself.
        described = _ATTRIBUTE.findall(inspect.cleandoc(kind.__doc__ or ""))
        texts.update({name: " ".join(text.split()) for name, text in described})
    return texts
