"""The library as it was at 0.1.0, in an environment of its own, beside the current one; see docs/versioning.md."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import uuid
from functools import partial
from typing import TYPE_CHECKING

import pytest

from banking.streaming import AsyncEntityProducer
from banking.streaming.entities import EntityType
from banking.streaming.events import create_event, create_person_event, decode_event
from banking.streaming.topics import ENTITY_TOPICS, full_name
from fleet.comparison import Expectation, wait_until_equal
from fleet.compose import ROOT

if TYPE_CHECKING:
    from pathlib import Path

CORPUS = ROOT / "tests" / "corpus"
WHEEL = CORPUS / "banking_events-0.1.0-py3-none-any.whl"
SECONDS = 90.0
UV = str(ROOT / ".tools" / "bin" / "uv")

INTERFACE = """
import importlib.metadata, inspect, json
import banking.streaming as library

def shape(thing):
    return [[each.name, each.kind.name, each.default is inspect.Parameter.empty]
            for each in inspect.signature(thing).parameters.values()]

found = {}
for name in library.__all__:
    value = getattr(library, name)
    if inspect.isfunction(value):
        found[name] = shape(value)
        continue
    found[name] = None
    for member, method in inspect.getmembers(value, inspect.isfunction):
        if member == "__init__" or not member.startswith("_"):
            found[f"{name}.{member}"] = shape(method)
print(json.dumps({"version": importlib.metadata.version("banking-events"), "interface": found}))
"""

# Decodes each line and passes it on.
PASS_ON = """
import sys
from banking.streaming import EntityEvent
for line in sys.stdin.buffer:
    print(EntityEvent.from_bytes(line).to_bytes().decode())
"""

# Reads a letter of the message that is given, and makes one of its own for the same event.
LETTERS = """
import json, sys
from types import SimpleNamespace
from banking.streaming.broker import Delivery
from banking.streaming.dead_letters import received_letter, rejected_letter
from banking.streaming.sink import Leg, RejectionReason

def deliver(topic, data, key, properties):
    return Delivery(SimpleNamespace(
        data=lambda: data.encode(), partition_key=lambda: key,
        topic_name=lambda: f"persistent://public/banking/{topic}",
        properties=lambda: properties, message_id=lambda: "1:2:0:-1", ordering_key=lambda: "",
    ))

given = json.load(sys.stdin)
letter = received_letter(deliver(**given)) if given["properties"] else rejected_letter(
    deliver(**given), Leg.GRAPH, RejectionReason.INVALID_FIELD, "payload.name: expected a text")
message = letter.to_dead_letter_message()
print(json.dumps({"topic": message.topic, "data": message.data.decode(), "key": message.key,
                  "properties": dict(message.properties)}))
"""


# Publishes one of each type, an update of the first and a delete of the last, and says what it published.
PUBLISH = """
import sys
from banking.streaming import EntityProducer
from banking.streaming.events import EntityType, create_event
url, prefix = sys.argv[1:]
events = [create_event(kind, f"{prefix}-{kind}", {"of_old": [1, None]}, source="earlier") for kind in EntityType]
first, last = events[0], events[-1]
update = {"risk_level": "low"}
events.append(create_event(first.entity_type, first.entity_id, update, source="earlier", event_type="update"))
events.append(create_event(last.entity_type, last.entity_id, source="earlier", event_type="delete"))
producer = EntityProducer(pulsar_url=url)
for event in events:
    producer.send(event)
producer.flush()
producer.close()
for event in events:
    print(event.to_bytes().decode())
"""

# Reads a topic until the entity that is named, and passes on its event.
READ = """
import sys
import pulsar
from banking.streaming import EntityEvent
url, topic, entity_id = sys.argv[1:]
client = pulsar.Client(url)
reader = client.create_reader(topic, pulsar.MessageId.earliest)
while True:
    event = EntityEvent.from_bytes(reader.read_next(30_000).data())
    if event.entity_id == entity_id:
        break
client.close()
sys.stderr.flush()
open(1, "wb", closefd=False).write(b"\\n" + event.to_bytes())
"""


def run(python: str | Path, program: str, *arguments: str, given: str = "") -> str:
    """What a program says."""
    result = subprocess.run(
        [python, "-c", program, *arguments], input=given, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


current = partial(run, sys.executable)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """Runs a program with the earlier library."""
    folder = tmp_path_factory.mktemp("earlier")
    python = folder / "bin" / "python"
    for command in (
        (UV, "venv", "--quiet", "--clear", "--no-project", "--python", sys.executable, folder),
        (
            *(UV, "pip", "install", "--quiet", "--python", python),
            *("--constraints", CORPUS / "banking_events-0.1.0.constraints.txt"),
            WHEEL,
        ),
    ):
        subprocess.run(command, check=True, timeout=180)
    return partial(run, python)


def test_the_wheel_is_the_one_that_its_page_tells_how_to_make():
    assert hashlib.sha256(WHEEL.read_bytes()).hexdigest() in (CORPUS / "README.md").read_text(encoding="utf-8")


def interface_of(program_output: str) -> tuple[str, dict]:
    found = json.loads(program_output)
    return found["version"], found["interface"]


def test_what_it_exports_is_exported_still(earlier):
    version, before = interface_of(earlier(INTERFACE))
    now = interface_of(current(INTERFACE))[1]
    assert version == "0.1.0"
    assert len(before) > 50
    for name, parameters in before.items():
        assert name in now
        if parameters is None:
            continue
        kinds = {parameter: (kind, required) for parameter, kind, required in now[name]}
        for parameter, kind, required in parameters:
            assert kinds[parameter][0] == kind, (name, parameter)
            assert required or not kinds[parameter][1], (name, parameter)
        positional = [parameter for parameter, kind, _ in parameters if kind.startswith("POSITIONAL")]
        assert [parameter for parameter, _, _ in now[name]][: len(positional)] == positional, name
        for added in kinds.keys() - {parameter for parameter, _, _ in parameters}:
            assert not kinds[added][1], (name, added)


def test_it_reads_and_passes_on_what_the_current_one_and_a_newer_schema_write(earlier):
    events = [create_event(kind, "id-1", {"not_declared": {"a": [1, None]}}, source="new") for kind in EntityType]
    newer = json.loads(events[0].to_bytes()) | {"schema_version": "1.9", "origin_region": {"code": "EU"}}
    lines = [event.to_bytes().decode() for event in events] + [json.dumps(newer)]
    answer = earlier(PASS_ON, given="\n".join(lines) + "\n").splitlines()
    assert [decode_event(line.encode()) for line in answer[:-1]] == events
    assert json.loads(answer[-1]) == newer


def test_each_reads_the_dead_letters_of_the_other(earlier):
    event = create_event("person", "p-1", {"name": "Ann"}, source="test")
    refused = {"topic": "persons-events", "data": event.to_bytes().decode(), "key": "p-1", "properties": {}}
    for write, read in ((current, earlier), (earlier, current)):
        letter = json.loads(write(LETTERS, given=json.dumps(refused)))
        assert letter["properties"]["dlq-reason"] == "invalid_field"
        assert json.loads(read(LETTERS, given=json.dumps(letter))) == letter


async def test_what_it_publishes_reaches_both_stores_through_the_current_services(earlier, pulsar_url, graph, vector):
    said = await asyncio.to_thread(earlier, PUBLISH, pulsar_url, f"earlier-{uuid.uuid4()}")
    published = [decode_event(line.encode()) for line in said.splitlines() if line.startswith("{")]
    assert len(published) == len(EntityType) + 2
    expectation = Expectation()
    expectation.add_all(published)
    for comparison in await asyncio.gather(
        *(wait_until_equal(store, expectation, SECONDS) for store in (graph, vector))
    ):
        assert comparison.differences == []
        assert comparison.equal.total() == len(EntityType)


async def test_it_reads_from_a_topic_what_the_current_library_publishes(earlier, pulsar_url):
    event = create_person_event(f"current-{uuid.uuid4()}", "Ann", {"not_declared": [1]}, source="current")
    async with AsyncEntityProducer(pulsar_url) as producer:
        await producer.send(event)
    topic = full_name(ENTITY_TOPICS[EntityType.PERSON])
    said = await asyncio.to_thread(earlier, READ, pulsar_url, topic, event.entity_id)
    assert decode_event(said.splitlines()[-1].encode()) == event
