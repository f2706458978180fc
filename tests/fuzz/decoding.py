"""Fuzzes what turns bytes into an event, and an event into what both stores are sent, guided by coverage.

`make fuzz SECONDS=600` runs it; arguments are libFuzzer's. It ends with another status than 0 at the first input that
raises what it should not, and names the file that holds it.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["banking.streaming", "producer", "graph_consumer", "vector_consumer"]):
    from banking.streaming.events import (
        EventDecodeError,
        InvalidEventError,
        content_hash,
        decode_event,
        encode_event,
    )
    from banking.streaming.payloads import InvalidPayloadError, check_payload
    from graph_consumer.rows import encode_row, to_row
    from producer.drafts import parse_event
    from vector_consumer.documents import encode_document

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FOLDER = Path(__file__).parents[2] / ".state" / "fuzz"
LONGEST_BYTES = 4096


def take(data: bytes) -> None:
    """One input, at both entrances."""
    take_message(data)
    try:
        event = parse_event(data, "fuzz")
        encoded = encode_event(event)
    except InvalidEventError:
        return
    assert content_hash(decode_event(encoded)) == content_hash(event)


def take_message(data: bytes) -> None:
    try:
        event = decode_event(data)
    except EventDecodeError:
        return
    assert decode_event(encode_event(event)) == event
    try:
        check_payload(event.entity_type, event.payload)
    except InvalidPayloadError:
        return
    encode_row(to_row(event, NOW))
    encode_document(event, "index", None, NOW)


def write_seeds() -> None:
    """Every short piece of the corpus, as a file."""
    from tests.hostile import NO_EVENTS, STRANGE_EVENTS, WRONG_PAYLOADS, with_payload

    seeds = {**NO_EVENTS, **STRANGE_EVENTS, **{name: with_payload(data) for name, data in WRONG_PAYLOADS.items()}}
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, data in seeds.items():
        if len(data) <= LONGEST_BYTES:
            (FOLDER / f"seed-{name}").write_bytes(data)


if __name__ == "__main__":
    write_seeds()
    found = f"-artifact_prefix={FOLDER}/found-"
    atheris.Setup([sys.argv[0], f"-max_len={LONGEST_BYTES}", found, *sys.argv[1:], str(FOLDER)], take)
    atheris.Fuzz()
