"""The commands of docs/verify.md run as written, against the stack of the tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from banking.streaming.events import create_person_event
from banking.streaming.producer import EntityProducer
from fleet.compose import COMPOSE_FILE, ROOT
from tests.integration.conftest import ENVIRONMENT
from verify.judging import DIFFERENCES, Word
from verify.report import Status

TEXT = (ROOT / "docs" / "verify.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]


@pytest.fixture
def published(stack):
    """The person whose story the document asks for."""
    with EntityProducer(pulsar_url=stack.addresses.pulsar_url) as producer:
        producer.send(create_person_event("person-123", "John Doe", source="test"))
        producer.flush()


@pytest.fixture
def fleet(stack, tmp_path):
    """The fleet's command for the stack of the tests."""
    command = tmp_path / "fleet"
    program = Path(sys.prefix) / "bin" / "fleet"
    command.write_text(f'#!/bin/sh\nverb=$1; shift; exec {program} "$verb" --project {stack.project} "$@"\n')
    command.chmod(0o755)
    return command


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_run_as_written(stack, fleet, published, command):
    here = command.replace("janusgraph-demo", stack.project).replace("make ", f"make -s FLEET={fleet} ")
    folder = ROOT if command.startswith("make") else COMPOSE_FILE.parent
    path = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", here],
        cwd=folder,
        env=os.environ | ENVIRONMENT | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    # What other tests have planted may be found: that is a result too, and make says 2 then.
    assert result.returncode in {0, 1, 2}, result.stdout + result.stderr
    assert "could not be judged" not in result.stdout, result.stdout
    if "json" in command.lower():
        assert '"exit_status":' in result.stdout
    elif "trace" in command:
        assert "person person-123" in result.stdout
    else:
        assert re.search(r"(in step|differences): [\d,]+ entities of [\d,]+ events", result.stdout), result.stdout


def test_the_document_names_every_word_and_every_exit_status():
    words = re.findall(r"^\| ([a-z ]+) \| .*? \| (yes)? ?\|$", TEXT, re.MULTILINE)
    assert {word: bool(wrong) for word, wrong in words} == {word.value: word in DIFFERENCES for word in Word}
    assert [int(number) for number in re.findall(r"^\| (\d) \|", TEXT, re.MULTILINE)] == [int(one) for one in Status]
