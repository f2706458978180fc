"""What docs/developing.md says of the repository is so."""

from __future__ import annotations

import re
import subprocess

from fleet.compose import ROOT
from fleet.reference import PAGES

PAGE = (ROOT / "docs" / "developing.md").read_text(encoding="utf-8")
GENERATED = ("libs/events/src/banking/streaming/event.schema.json", "config/janusgraph/model.json", *PAGES)


def test_every_place_that_it_names_is_there():
    named = set(re.findall(r"`((?:libs|services|tools|config|images|deploy|tests|benchmarks)[\w/.-]*)`", PAGE))
    assert len(named) > 20
    for place in named:
        assert (ROOT / place).exists(), place


def test_making_the_generated_files_anew_changes_nothing_while_no_type_is_added():
    before = {place: (ROOT / place).read_bytes() for place in GENERATED}
    [script] = re.findall(r"^   ```sh\n(.*?)^   ```", PAGE, re.DOTALL | re.MULTILINE)
    subprocess.run(["bash", "-euc", script], cwd=ROOT, check=True, timeout=120)
    assert {place: (ROOT / place).read_bytes() for place in GENERATED} == before
