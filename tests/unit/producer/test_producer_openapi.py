"""The OpenAPI document and its page, without a server; schemathesis looks at them with one."""

import re
from html.parser import HTMLParser

import msgspec
import pytest

from banking.streaming.entities import ENTITY_MODELS
from producer.answers import AcceptedLine, ProblemLine, RejectedLine, SummaryLine, UnconfirmedLine
from producer.api import ApiLimits
from producer.docs_page import page
from producer.drafts import EventDraft
from producer.intake import Rejection, Summary
from producer.openapi import document
from producer.problems import ProblemDetails

NDJSON = "application/x-ndjson"
DOCUMENT = document(ApiLimits(stream_bytes=5_000_000), source="core", authentication=True)
SCHEMAS = DOCUMENT["components"]["schemas"]
ANSWERED = (Rejection, Summary, ProblemDetails, RejectedLine, UnconfirmedLine, AcceptedLine, SummaryLine, ProblemLine)


def walk(value):
    yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(part)


def test_every_reference_leads_to_a_schema():
    references = {part["$ref"] for part in walk(DOCUMENT) if isinstance(part, dict) and "$ref" in part}
    assert references <= {f"#/components/schemas/{name}" for name in SCHEMAS}
    assert len(references) > 10


def test_every_status_of_publishing_is_there():
    operation = DOCUMENT["paths"]["/v1/events"]["post"]
    assert set(operation["responses"]) == {
        *("200", "202", "400", "401", "408", "409", "413", "415", "422", "429", "503"),
    }
    for status, answer in operation["responses"].items():
        types = set(answer["content"])
        assert types == ({"application/problem+json"} if status >= "400" else types & {"application/json", NDJSON})
    for status in ("409", "429", "503"):
        assert "Retry-After" in operation["responses"][status]["headers"]
    assert set(operation["requestBody"]["content"]) == {"application/json", NDJSON}
    assert [parameter["name"] for parameter in operation["parameters"]] == ["Idempotency-Key", "receipts"]


def test_the_settings_of_the_service_are_told():
    operation = DOCUMENT["paths"]["/v1/events"]["post"]
    assert "`core`" in operation["description"]
    assert "5,000,000 bytes" in operation["requestBody"]["description"]
    assert operation["security"] == [{"apiKey": []}]
    assert document(ApiLimits(), source="core", authentication=False)["paths"]["/v1/events"]["post"]["security"] == []


def test_every_field_of_every_struct_is_described():
    variants = [name for name in SCHEMAS if name.endswith("Event")]
    assert len(variants) == len(ENTITY_MODELS) + 3
    for name in variants:
        assert set(SCHEMAS[name]["properties"]) == set(EventDraft.__struct_fields__)
        assert all(field["description"] for field in SCHEMAS[name]["properties"].values())
    for struct in ANSWERED:
        schema = SCHEMAS[struct.__name__]
        tag = {struct.__struct_config__.tag_field} - {None}
        assert set(schema["properties"]) == set(struct.__struct_encode_fields__) | tag
        assert all("description" in schema["properties"][name] for name in struct.__struct_encode_fields__)
    for model in ENTITY_MODELS.values():
        payload = SCHEMAS[f"{model.entity_type.value.title()}Payload"]["properties"]
        assert set(payload) == model.declared | {reference.field for reference in model.references}


@pytest.mark.parametrize(
    ("struct", "required"),
    [
        (Summary, {"read", "accepted", "rejected", "unconfirmed", "accepted_ids_hash", "rejections"}),
        (ProblemDetails, {"type", "title", "status", "detail"}),
        (SummaryLine, {"outcome", "status", "read", "accepted", "rejected", "unconfirmed", "accepted_ids_hash"}),
        (AcceptedLine, {"outcome", "entity_id", "event_id", "version"}),
        (RejectedLine, {"outcome"}),
    ],
)
def test_what_is_always_answered_is_required(struct, required):
    assert set(SCHEMAS[struct.__name__]["required"]) == required


def test_its_examples_are_events():
    for content in DOCUMENT["paths"]["/v1/events"]["post"]["requestBody"]["content"].values():
        example = content["example"]
        msgspec.convert(example if isinstance(example, list) else [example], list[EventDraft])


class Elements(HTMLParser):
    """The elements of a page, checked to be closed in order."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_fetches_and_runs_nothing():
    text = page(DOCUMENT)
    elements = Elements(text)
    assert elements.open == []
    names = {name for name, _ in elements.found}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "form"}
    assert not re.search(r"url\(|@import|https?://", text)
    attributes = {attribute for _, given in elements.found for attribute in given}
    assert attributes <= {
        "class",
        "href",
        "id",
        "lang",
        "charset",
        "name",
        "content",
        "aria-label",
        "tabindex",
        "scope",
    }
    ids = {given["id"] for _, given in elements.found if "id" in given}
    links = {given["href"] for name, given in elements.found if name == "a"}
    assert links - {f"#{name}" for name in ids} == {"openapi.json"}
    assert set(SCHEMAS) | {"postEvents"} <= ids


def test_the_page_names_everything_and_escapes_it():
    text = page(document(ApiLimits(), source="<b>core</b>", authentication=True))
    assert "&lt;b&gt;core&lt;/b&gt;" in text
    assert "<b>" not in text
    for status in DOCUMENT["paths"]["/v1/events"]["post"]["responses"]:
        assert f"<code>{status}</code>" in text
