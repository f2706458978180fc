"""What schemathesis has to be told of the API: how NDJSON is written, and what acceptance means for events.

Each event is judged by itself, so a status alone says too little: an array with one bad event is answered 202 and names
that event; a good one may still break a rule that JSON Schema cannot state.
"""

from __future__ import annotations

import json
import re

import schemathesis
from schemathesis.core.failures import Failure

NDJSON = "application/x-ndjson"

ACCEPTED = {200, 202, 409, 422}
"""schemathesis gives one Idempotency-Key to many bodies, hence the last two."""

BEYOND_JSON_SCHEMA = [
    ("version", r"is a time \d+ s ahead"),
    ("version", r"expected an integer from 0 to 2\*\*63 - 1, got -\d+"),  # the time of an event before 1970
    ("timestamp", r".*"),  # leap seconds, and years that another offset moves out of the calendar
    (r"payload\.\w+", r"expected a decimal number such as 1234.50, got one of too many digits"),
    ("payload|metadata", r"nested deeper than 64 levels"),
]


@schemathesis.serializer(NDJSON)
def write_lines(_context, value):
    """One JSON text a line; what is no list is one line."""
    return b"".join(json.dumps(item).encode() + b"\n" for item in (value if isinstance(value, list) else [value]))


@schemathesis.deserializer(NDJSON)
def read_lines(_context, response):
    """The lines of an answer, as the array that the document describes."""
    return [json.loads(line) for line in response.content.splitlines()]


@schemathesis.check
def events_that_fit_the_schema_are_accepted(_context, response, case):
    """Whatever the document allows goes in, save for the rules that it states in words."""
    if not is_publishing(case) or not case.meta.generation.mode.is_positive or response.status_code in ACCEPTED:
        return
    for rejection in answer_of(response).get("rejections", [{}]):
        if not any(
            re.fullmatch(field, rejection.get("field", "")) and re.match(problem, rejection["problem"])
            for field, problem in BEYOND_JSON_SCHEMA
        ):
            raise Failure(
                operation=case.operation.label, title="A valid event was rejected", message=json.dumps(rejection)
            )


@schemathesis.check
def events_that_do_not_fit_are_rejected(_context, response, case):
    """A request that the document forbids is refused, or its bad events are named."""
    if not is_publishing(case) or not case.meta.generation.mode.is_negative or response.status_code >= 400:
        return
    if not answer_of(response)["rejected"]:
        raise Failure(
            operation=case.operation.label, title="An invalid event was accepted", message=repr(case.body)[:2000]
        )


def is_publishing(case):
    """Whether a case is one that the document has a say in."""
    return case.meta is not None and case.operation.path == "/v1/events" and case.method.upper() == "POST"


def answer_of(response):
    """The totals of an answer, in whichever form."""
    if NDJSON in response.headers["content-type"][0]:
        return json.loads(response.content.splitlines()[-1])
    return response.json()
