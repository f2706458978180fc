"""schemathesis, with all its checks, against the running service and the document that it serves."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from pathlib import Path

import pytest

RUNS = {
    "every constraint of the document, kept": ("--phases", "coverage", "--mode", "positive"),
    "every constraint of the document, broken": ("--phases", "coverage", "--mode", "negative"),
    "its examples, and random requests": ("--phases", "examples,fuzzing", "--max-examples", "40"),
}
SECONDS = 280
FEWEST_CASES = 40


@pytest.fixture
def keys(unique, tmp_path):
    path = tmp_path / "keys"
    path.write_text(unique)
    return path


async def schemathesis(url, key, *arguments):
    """One run: its exit status and what it found."""
    command = [
        *(str(Path(sys.prefix) / "bin" / "schemathesis"), "run", f"{url}/openapi.json"),
        *("--header", f"Authorization: Bearer {key}", "--checks", "all"),
        # Two of the hooks say it of events, which are judged one by one.
        *("--exclude-checks", "positive_data_acceptance,negative_data_rejection"),
        *("--continue-on-failure", "--no-shrink", "--seed", "1", "--no-color"),
        # How fast it is on a busy machine is no matter of the document.
        *("--request-timeout", "60", "--max-response-time", "60", "--suppress-health-check", "all"),
    ]
    folder = Path(__file__).parent
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(folder)}
    with tempfile.TemporaryDirectory() as work:  # it keeps examples of failures where it runs
        process = await asyncio.create_subprocess_exec(
            *command,
            *arguments,
            cwd=work,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    return process.returncode, output.decode()


async def test_schemathesis_finds_nothing(serve, keys, unique):
    async with serve(API_AUTHENTICATION="true", API_KEYS_FILE=str(keys)) as server:
        results = await asyncio.gather(*(schemathesis(server.url, unique, *run) for run in RUNS.values()))
    for name, (status, output) in zip(RUNS, results, strict=True):
        assert status == 0, f"{name}:\n{output}"
        assert "No issues found" in output
        assert int(re.search(r"(\d+) passed", output.partition("Test cases:")[2])[1]) >= FEWEST_CASES
