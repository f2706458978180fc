"""docs/guarantees.md lists the faults that the suite inflicts, and for how long each lasts."""

from __future__ import annotations

import re

from fleet.compose import ROOT
from tests.integration.faults import faults

TEXT = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
# What the document calls a fault, and how the suite's names of it begin.
ROWS = {
    "`kill -9`": ("kill", None),
    "frozen": ("freeze", faults.FREEZE_SECONDS),
    "cut off from everybody": ("cut off", faults.CUT_SECONDS),
    "a network that drops everything between two": ("cut", faults.CUT_SECONDS),
    "a slow network: half a second a round trip, little through it": ("slow network", faults.SLOW_SECONDS),
    "full disk": ("full disk", faults.FULL_SECONDS),
    "orderly restart in the middle of batches": ("restart", None),
    "rolling restart": ("rolling restart", None),
    "scaled to three replicas and back to one": ("scale", None),
    "clock ahead by an hour, and back": ("clock", faults.WRONG_CLOCK_SECONDS),
    "clock back by 25 hours, and forward": ("clock", faults.WRONG_CLOCK_SECONDS),
    "bytes that are no event": ("poison", None),
    "a flood of them: both legs stop and are restarted": ("poison flood", None),
}


def rows():
    table = TEXT.split("| fault |")[1].split("\n\n")[0].splitlines()[2:]
    return {what: (whom, lasts) for what, whom, lasts in (re.split(r" *\| *", row)[1:4] for row in table)}


def test_every_fault_stands_there_with_its_time():
    told = rows()
    assert told.keys() == ROWS.keys()
    for what, (_, seconds) in ROWS.items():
        if seconds is not None:
            assert told[what][1].startswith(f"{seconds} s"), what
    assert told["bytes that are no event"][0].startswith("40 ")
    assert told["a flood of them: both legs stop and are restarted"][0].startswith(f"{faults.FLOOD:,} ")


def test_the_suite_has_no_other():
    every = faults.Faults(None, disks=object(), clocks=object()).all
    beginnings = tuple(beginning for beginning, _ in ROWS.values())
    assert [name for name in every if not name.startswith(beginnings)] == []
    assert [
        what for what, (beginning, _) in ROWS.items() if not any(name.startswith(beginning) for name in every)
    ] == []
