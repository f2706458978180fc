"""Events that were once released decode for ever, into what they say."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path

import pytest

from banking.streaming.entities import EntityType
from banking.streaming.events import EventType, decode_event, encode_event
from banking.streaming.payloads import check_payload

CORPUS = Path(__file__).parents[2] / "corpus"
# One file a released minor version of the schema. What a file holds is never changed: add a file for the next version.
FROZEN = {"schema-1.0.ndjson": "4035f2b58a45a9c0d94565eb4ae56b5e8eb671997679c8f897daac3e5d932539"}
EVENTS = [
    pytest.param(line, id=f"{name}:{number}")
    for name in FROZEN
    for number, line in enumerate((CORPUS / name).read_bytes().splitlines(), 1)
]
OPTIONAL = {"text_for_embedding": None, "metadata": {}, "schema_version": "1.0"}


def test_no_file_has_changed_or_is_missing() -> None:
    assert {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in CORPUS.glob("schema-*.ndjson")
    } == FROZEN


def test_every_type_and_kind_of_event_is_there() -> None:
    events = [decode_event(event.values[0]) for event in EVENTS]
    assert {(event.entity_type, event.event_type) for event in events} >= {
        (entity_type, event_type) for entity_type in EntityType for event_type in (EventType.CREATE, EventType.DELETE)
    }


@pytest.mark.parametrize("line", EVENTS)
def test_it_decodes_into_what_it_says(line: bytes) -> None:
    said = json.loads(line)
    event = decode_event(line)
    assert (event.entity_id, event.entity_type, event.event_type) == (
        said["entity_id"],
        said["entity_type"],
        said["event_type"],
    )
    assert (event.version, event.event_id, event.source) == (said["version"], said["event_id"], said["source"])
    assert event.timestamp == datetime.fromisoformat(said["timestamp"])
    assert event.payload == said["payload"]
    check_payload(event.entity_type, event.payload)


@pytest.mark.parametrize("line", EVENTS)
def test_it_is_passed_on_with_all_it_says(line: bytes) -> None:
    said = json.loads(line)
    passed_on = json.loads(encode_event(decode_event(line)))
    assert datetime.fromisoformat(passed_on.pop("timestamp")) == datetime.fromisoformat(said.pop("timestamp"))
    assert passed_on == OPTIONAL | said
