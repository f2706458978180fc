"""A short run of the fuzzer, the same each time; `make fuzz` runs it for as long as one likes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from fleet.compose import ROOT


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has wheels for Linux on x86-64 alone")
def test_a_short_run_finds_nothing():
    command = [sys.executable, str(ROOT / "tests" / "fuzz" / "decoding.py"), "-runs=20000", "-seed=1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "Done 20000 runs" in result.stderr
