"""The documents build to a site: no link or anchor in them leads nowhere, and every one is in the index."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from fleet.compose import ROOT


def test_the_documents_build_to_a_site_with_links_that_lead_somewhere(tmp_path):
    command = [str(Path(sys.prefix) / "bin" / "mkdocs"), "build", "--strict", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?:[^"]*', page) == []


def test_every_document_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    names = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert set(re.findall(r"\(([a-z-]+\.md)\)", index)) == names


def test_the_links_of_the_readme_lead_somewhere():
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (ROOT / target).exists(), (document, target)


def test_every_page_with_commands_is_read_by_a_test_or_each_block_says_why_it_is_not_run():
    tests = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    del tests[Path(__file__)]
    for page in [ROOT / "README.md", ROOT / "deploy" / "kubernetes" / "README.md", *(ROOT / "docs").glob("*.md")]:
        # A block that is not run has its reason in a comment above.
        blocks = re.findall(r"^(<!-- not run: .+ -->\n)?\s*```(?:sh|python|groovy)\n", page.read_text(), re.MULTILINE)
        if not all(blocks):
            readers = [path for path, text in tests.items() if f'"{page.name}"' in text or f"docs/{page.name}" in text]
            assert readers, f"{page.relative_to(ROOT)}: no test reads it"
