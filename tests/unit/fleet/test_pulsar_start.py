"""What Pulsar's start does with journals after a disk that was full."""

from __future__ import annotations

import re
import struct
import subprocess

import pytest

from fleet.compose import ROOT

START = (ROOT / "config" / "pulsar" / "start.sh").read_text(encoding="utf-8")
PAGE = 4096
PREALLOCATED = bytes(64 * PAGE)


def run(constant, function, file):
    """Call a function of the script, which stands behind a constant of its own."""
    found = re.search(rf"^readonly {constant}=.*?^\}}$", START, re.DOTALL | re.MULTILINE)
    script = f'set -euo pipefail\n{found[0]}\n{function} "$1"'
    subprocess.run(["bash", "-c", script, "bash", file], check=True, timeout=60)


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
    run("PAGE_BYTES", "cut_off_zeros", journal)
    assert journal.read_bytes() == content[:left]


@pytest.mark.parametrize(
    ("journals", "marked", "expected"),
    [
        pytest.param((0x1A2, 0x1A5, 0x1A6, 0x1B0), 0x1A6, 0x1A5, id="the one before"),
        pytest.param((0x1A6, 0x1A7), 0x1A6, 0x1A6, id="its own, where none is before"),
        pytest.param((0xFFF, 0x1000), 0x1000, 0xFFF, id="by their numbers and not by their names"),
    ],
)
def test_replay_begins_with_the_journal_before_the_marked_one(tmp_path, journals, marked, expected):
    for number in journals:
        (tmp_path / f"{number:x}.txn").touch()
    mark = tmp_path / "lastMark"
    mark.write_bytes(struct.pack(">qq", marked, 80_864_768))
    run("MARK", "mark_earlier", mark)
    assert struct.unpack(">qq", mark.read_bytes()) == (expected, 0)
    assert {file.suffix for file in tmp_path.iterdir()} == {".txn", ""}
