"""What `make` hands on: an id is a text, whatever it holds."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from fleet.compose import ROOT
from tests.hostile import IDS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("entity_id", [*IDS, "';touch${IFS}owned;'", "$(shell\ttouch owned)", "$$a$(HOME)"])
def test_an_id_is_no_command(tmp_path: Path, entity_id: str) -> None:
    fleet = tmp_path / "fleet"
    fleet.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    fleet.chmod(0o700)
    command = ["make", "-s", "-f", str(ROOT / "Makefile"), "-o", "setup", "trace", f"FLEET={fleet}", f"ID={entity_id}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, cwd=tmp_path)
    assert result.stdout.split("\0")[:-1] == ["verify", "trace", "--", "--", entity_id]
    assert [path.name for path in tmp_path.iterdir()] == ["fleet"]


def test_fuzzing_takes_its_seconds() -> None:
    command = ["make", "--no-print-directory", "-n", "-o", "setup", "fuzz", "SECONDS=600"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, cwd=ROOT).stdout
    assert said == ".venv/bin/python tests/fuzz/decoding.py -max_total_time='600'\n"
