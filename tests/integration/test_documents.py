"""The commands and snippets of docs/publishing.md run as written, on files of the kinds that they name."""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import zstandard

from banking.streaming.events import create_person_event
from fleet.compose import ROOT

TEXT = (ROOT / "docs" / "publishing.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def table(delimiter, rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


@pytest.fixture
def folder(tmp_path):
    """A folder with every file that the document's commands read."""
    unique = uuid.uuid4().hex[:12]
    events = b"".join(
        create_person_event(f"{unique}-{number}", "Ann", source="test").to_bytes() + b"\n" for number in range(3)
    )
    payment = {"payment_no": unique, "ref_no": "R1", "betrag": "12,50", "debit": "1", "credit": "2"}
    payments = table(";", [payment | {"st": "A", "valuta": "01.03.2026", "batch": "7"}])
    files = {
        "events.ndjson": events,
        "more.ndjson.gz": gzip.compress(events),
        "accounts.csv": table(",", [{"account_id": unique, "balance": "1.00", "currency": "EUR"}]),
        "payments.toml": blocks("toml")[0].encode(),
        "payments.csv.zst": zstandard.compress(payments),
        "dump.gz": gzip.compress(payments),
        "nodes.csv.gz": gzip.compress(b"nodeid,isFraud,init_balance,fraudStep\n0,0,184.44,-1\n"),
        "transactions.csv.gz": gzip.compress(b"sourceNodeId,targetNodeId,value,time\n0,1,163.3,1\n"),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def run(stack, folder):
    def run(*command):
        path = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "PULSAR_URL": stack.addresses.pulsar_url}
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=180, check=False
        )

    return run


@pytest.mark.parametrize("script", blocks("sh"))
def test_the_commands_run_as_written(stack, run, script):
    here = script.replace("http://localhost:8000", stack.addresses.producer_url).replace("curl ", "curl -sSf ")
    result = run("bash", "-euo", "pipefail", "-c", here)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("snippet", blocks("python"))
def test_the_snippets_run_as_written(stack, run, snippet):
    program = "ids = ['a', 'b']\n" + snippet.replace("pulsar://localhost:6650", stack.addresses.pulsar_url)
    result = run(sys.executable, "-c", program)
    assert result.returncode == 0, result.stdout + result.stderr
