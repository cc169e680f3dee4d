"""What README and docs say is what the files beside them say."""

import ast
import json
import re

import pytest

from support.commands import run
from support.paths import ROOT, load_script

FOLDERS = ("*.md", "docs/*.md", "examples/*/README.md")
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(folder))


def test_each_block_of_a_page_is_filled_by_its_own_files(tmp_path, monkeypatch):
    results = load_script(ROOT / "scripts" / "update_tables.py")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    (tmp_path / "a.txt").write_text("first\n")
    (tmp_path / "b.json").write_text('{"runs": [{"options": "--lr 1", "valid_ppl": [7.04, 6.5]}]}')
    page = "# Page\n<!-- text a.txt -->\nold\n<!-- end -->\nbetween\n<!-- perplexity b.json -->\n<!-- end -->\nafter\n"
    assert results.BLOCK.sub(results.fill, page) == (
        "# Page\n<!-- text a.txt -->\n```\nfirst\n```\n<!-- end -->\nbetween\n<!-- perplexity b.json -->\n"
        "| options | epoch 1 | epoch 2 |\n| --- | --- | --- |\n| `--lr 1` | 7.0 | 6.5 |\n<!-- end -->\nafter\n"
    )


def test_validations_stand_under_their_updates(tmp_path):
    curves = ([[400, 30.0], [1200, 9.0]], [[200, 71.26], [400, 25.04]])
    for name, curve in zip("ab", curves):
        runs = [{"curve": curve}, {"curve": [[400, 1.0]]}]
        (tmp_path / name).write_text(json.dumps({"rows": [{"name": name, "runs": runs}]}))
    assert load_script(ROOT / "scripts" / "update_tables.py").curves([tmp_path / "a", tmp_path / "b"]) == (
        "| updates | 200 | 400 | 1,200 |\n| --- | --- | --- | --- |\n| a |  | 30.0 | 9.0 |\n| b | 71.3 | 25.0 |  |\n"
    )


def test_tables_are_made_from_the_results_beside_them():
    done = run("python", ROOT / "scripts" / "update_tables.py", "--check", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pictures_are_drawn_from_the_results_beside_them():
    pictures = load_script(ROOT / "scripts" / "draw_pictures.py")
    assert {f"{name}.svg" for name in pictures.PICTURES} == {path.name for path in pictures.OUT.iterdir()}
    for name, (_, files) in pictures.PICTURES.items():
        assert pictures.sources(files) in (pictures.OUT / f"{name}.svg").read_text(), "out of date: run make results"
        assert any(f"(pictures/{name}.svg)" in page.read_text(encoding="utf-8") for page in PAGES)


def test_learning_curves_show_the_mean_and_the_range_of_the_seeds():
    runs = [
        {"corpus": "multi30k.en-de", "curve": [[100, 90.0], [500, 7.0], [1000, value]], "seed": seed}
        for seed, value in enumerate((4.0, 5.0, 9.0))
    ]
    draw = load_script(ROOT / "scripts" / "draw_pictures.py").learning_curves
    (axes,) = draw([{"rows": [{"name": "resmlp_small", "runs": runs}]}]).axes
    assert axes.lines[0].get_xydata().tolist() == [[500, 7], [1000, 6]]  # without the first fifth
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (4, 9)


def test_every_promise_has_its_test():
    promises = json.loads((ROOT / "docs" / "measured" / "reliability.json").read_text(encoding="utf-8"))
    assert len(promises) >= 20
    for promise, shown in promises.items():
        file, name = shown["test"].split("::")
        tests = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
        (test,) = (node for node in tests if isinstance(node, ast.FunctionDef) and node.name == name)
        used = [node.id for node in ast.walk(test) if isinstance(node, ast.Name)]
        assert "record_promise" in used, promise  # called, or passed to a function of the file


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for link, anchor in re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]*))?\)", text):
        target = page.parent / link if link else page
        assert target.exists(), link
        if anchor:  # a heading in lower case, without punctuation, joined by hyphens
            headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.M)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings], anchor
