"""What README and docs say is what the files beside them say."""

import re

import pytest
from conftest import ROOT, run

FOLDERS = ("*.md", "docs/*.md", "examples/*/README.md")
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(folder))


def test_tables_are_made_from_the_results_beside_them():
    done = run("python", ROOT / "scripts" / "results.py", "--check", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?://)([^)#]*)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link
