"""The reference pages say what the code says, and the README's tables name what exists."""

from __future__ import annotations

import re
import subprocess

import pytest

from fleet.compose import ROOT
from fleet.reference import PAGES


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_is_what_the_code_makes_of_it(name):
    assert (ROOT / name).read_text(encoding="utf-8") == PAGES[name](), "run: .venv/bin/fleet reference"


def readme_rows(heading):
    section = (ROOT / "README.md").read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| `")]


def test_the_readme_s_settings_and_metrics_exist():
    settings = {name for row in readme_rows("Settings") for name in re.findall(r"`([A-Z_]+)`", row.split("|")[1])}
    metrics = {match for row in readme_rows("Metrics") for match in re.findall(r"`(\w+)\{([\w,]+)\}`", row)}
    assert {"PULSAR_URL", "OPENSEARCH_USE_SSL", "JANUSGRAPH_PORT"} <= settings
    for name in settings:
        assert f"| `{name}` |" in PAGES["docs/configuration.md"]()
    assert metrics
    for name, labels in metrics:
        listed = ", ".join(f"`{label}`" for label in labels.split(","))
        assert f"| `{name}` | {listed} |" in PAGES["docs/metrics.md"]()


def test_the_documents_name_only_targets_that_make_has():
    text = "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout
    targets = set(re.findall(r"^  make (\w+)", listed, re.MULTILINE))
    named = set(re.findall(r"(?:`|\n)make ([a-z]+)", text))
    assert {"demo", "test", "up", "down"} <= named <= targets


def test_links_between_documents_lead_somewhere():
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} → {target}"
