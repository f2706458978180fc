"""What Pulsar's start does with a journal whose last write found no room."""

from __future__ import annotations

import re
import subprocess

import pytest

from fleet.compose import ROOT

START = (ROOT / "config" / "pulsar" / "start.sh").read_text(encoding="utf-8")
PAGE = 4096
PREALLOCATED = bytes(64 * PAGE)


@pytest.mark.parametrize(
    ("written", "left"),
    [
        pytest.param(b"x" * 23 * PAGE, 23 * PAGE, id="cut off where a page ends, as the disk had no other"),
        pytest.param(b"x" * (22 * PAGE + 1), 23 * PAGE, id="whole: it keeps its page"),
        pytest.param(bytes(5 * PAGE) + b"x", 6 * PAGE, id="zeros within are kept"),
        pytest.param(b"\n" * 7 * PAGE, 7 * PAGE, id="line feeds are no zeros"),
        pytest.param(b"x" * 64 * PAGE, 64 * PAGE, id="full"),
        pytest.param(b"x" * 64 * PAGE + b"x", 64 * PAGE + 1, id="full, and no whole page"),
        pytest.param(b"", 0, id="nothing written"),
    ],
)
def test_a_journal_ends_with_what_was_written(tmp_path, written, left):
    journal = tmp_path / "1a21a6a1874.txn"
    content = written + PREALLOCATED[len(written) :]
    journal.write_bytes(content)
    found = re.search(r"^readonly PAGE_BYTES=.*?^\}$", START, re.DOTALL | re.MULTILINE)
    script = f'set -euo pipefail\n{found[0]}\ncut_off_zeros "$1"'
    subprocess.run(["bash", "-c", script, "bash", journal], check=True, timeout=60)
    assert journal.read_bytes() == content[:left]
