"""The report, as a person sees it: in a browser, on a phone, on paper and without colours."""

import base64
import itertools
import json
import math
import re
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import ROOT, make_model, run
from sacrebleu.metrics import BLEU, CHRF

import fairseq_resmlp
from fairseq_resmlp import analysis, pictures, report
from fairseq_resmlp.cli import main
from fairseq_resmlp.errors import InputError
from fairseq_resmlp.held_out import LIMIT, HeldOut
from fairseq_resmlp.run_folder import RunFolder, find

STORED = ROOT / "tests" / "stored"
HOSTILE = "<script>document.title = 'taken over'</script><img src=x onerror=\"document.title = 'taken over'\">"
ARABIC = "\u0627\u0644\u0645\u0644\u0643 \u064a\u0631\u0649 \u0627\u0644\u0643\u0644\u0628."
SOURCES = [
    "Two women said that a child bought the book.",
    HOSTILE,
    ARABIC,
    "$x^2$ \\frac_{ % costs $5",
    "",
    "A" * 30,
    "A man sees a dog and a cat.",
]
REFERENCES = ["Zwei Frauen haben gesagt, dass ein Kind das Buch gekauft hat.", HOSTILE, ARABIC, "$x^2$", "", "A" * 300]
REFERENCES += ["Ein Mann sieht einen Hund und eine Katze."]
LONG_NAME = "_$a$-run-with-a-name-that-is-much-too-long-for-a-line-of-a-phone-" * 2


def report_command(*arguments):
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def write_run(folder, offset=0.0):
    """A run folder like those of the scripts, with the stored model, text that wants to break the page, and logs."""
    folder.mkdir(parents=True)
    for file in ("model.pt", "dict.en.txt", "dict.de.txt", "sentencepiece.bpe.model"):
        shutil.copy(STORED / file, folder)
    raw = folder / "raw"
    raw.mkdir()
    for split, language in itertools.product(("valid", "test2016"), ("en", "de")):
        lines = SOURCES if language == "en" else REFERENCES
        (raw / f"{split}.{language}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    scores = [{"name": "sacreBLEU", "value": 36.71 + offset, "signature": "nrefs:1|" + "tok:13a|" * 20}]
    (folder / "test2016").mkdir()
    (folder / "test2016" / "scores.json").write_text(json.dumps({"lines": 1000, "scores": scores}))
    lines = []
    for update in range(10, 200, 10):
        stats = {"loss": 9 / update + offset, "ppl": 2 ** (9 / update), "lr": 0.1, "gnorm": 1.5, "wps": 900}
        stats = {**{name: str(value) for name, value in stats.items()}, "num_updates": str(update)}
        lines.append(f"x | INFO | train_inner | {json.dumps(stats)}")
    lines.append(
        'x | INFO | valid | {"valid_loss": "3", "valid_ppl": "8", "valid_bleu": "21", "valid_num_updates": "99"}'
    )
    (folder / "train.log").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def made_and_figures(tmp_path_factory):
    """A report on two runs and on a folder with hardly anything in it, and its figures before they were files."""
    home = tmp_path_factory.mktemp("report")
    first, second = write_run(home / "<b>first & last"), write_run(home / LONG_NAME, offset=1.0)
    bare = home / "bare"
    bare.mkdir()
    (bare / "train.log").write_text("no JSON")
    figures, files = [], pictures.files
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "files", lambda figure: figures.append(figure) or files(figure))
        done = report_command(first, second, bare, "--out", home / "out")
    assert done.exit_code == 0, done.output
    (home / "output.txt").write_text(done.output, encoding="utf-8")
    # Nothing beside the page is needed to see it.
    (home / "alone").mkdir()
    shutil.copy(home / "out" / "index.html", home / "alone")
    return home, figures


@pytest.fixture(scope="module")
def made(made_and_figures):
    """The folder with the runs, the report (out), its page alone in a folder (alone) and what the command said."""
    return made_and_figures[0]


@pytest.fixture(scope="module")
def figures(made_and_figures):
    return made_and_figures[1]


@pytest.fixture
def opened(made, browser):
    """Opens the page, alone in its folder, at a width; the test fails if the page asks for anything or complains."""
    complaints = []

    def open_page(width=1280, file=None):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else complaints.append(r.url))
        page.goto(f"file://{file or made / 'alone' / 'index.html'}")
        return page

    yield open_page
    assert complaints == []


def test_every_part_is_there_and_every_picture_is_seen(made, opened):
    page = opened()
    headings = page.locator("h2").all_inner_texts()
    run = "<b>first & last"
    parts = ["what tokens read from each other", "sparsity", "scales", "pruning", "sample translations"]
    assert headings[:2] == ["Scores", "Training"]
    assert headings[2:7] == [f"{run}: {part}" for part in parts]
    assert headings[7:12] == [f"{LONG_NAME}: {part}" for part in parts]
    assert headings[12:] == ["bare: the model"]
    seen = page.evaluate("[...document.images].map(i => [i.alt, i.naturalWidth, i.getBoundingClientRect().width])")
    assert all(alt and natural > 100 and shown > 100 for alt, natural, shown in seen)
    titles = [title for title, *_ in seen]
    for stack, layer in itertools.product(("encoder", "decoder"), (1, 2)):
        for title in ("A of {}", "Rows of A, {}"):
            assert titles.count(title.format(f"{stack} layer {layer}")) == 2  # runs
    for title in ("Loss, with label smoothing", "Perplexity", "BLEU on validation", "Learning rate", "Gradient norm"):
        assert titles.count(title) == 1  # for all runs
    assert "Speed" in titles


def test_the_tables_show_what_was_measured(made, opened):
    page = opened()
    rows = page.locator("table").first.locator("tbody tr").all_inner_texts()
    assert re.search(r"first & last\s+test2016 \(1,000 lines\)\s+sacreBLEU\s+36\.7\s+nrefs:1", rows[0])
    assert re.search(r"test2016 \(1,000 lines\)\s+sacreBLEU\s+37\.7", rows[2])

    folder = find(str(made / "<b>first & last"))
    cfg, task, model = folder.load()
    mixing = analysis.mixings(model)[0]
    text = page.locator("table").nth(1).inner_text()
    share = analysis.convolution_share(mixing.visited)
    assert f"all {mixing.L} visited, of N = 40" in text
    assert re.search(rf"encoder layer 1\s+all.*= 40\s+{100 * share:.0f}%", text)

    held_out = HeldOut(folder, cfg, task, 200)
    translations = [t.text for t in held_out.translate(model)]
    value = BLEU().corpus_score(translations, [REFERENCES]).score
    assert re.search(rf"test2016, its first 7\s+sacreBLEU\s+{value:.1f}", rows[1])
    # Nothing pruned gives the same, everything but the largest something else.
    pruned = page.locator("table", has_text="Each threshold").first.locator("tbody tr").all_inner_texts()
    assert len(pruned) == 2 * len(report.THRESHOLDS)
    limited, _ = held_out.bleu(held_out.translate(model, **LIMIT))
    assert re.match(rf"A\s+0\s+0%\s+{limited:.1f}\s+{held_out.perplexity(model):.2f}", pruned[0])
    shares = [int(re.search(r"(\d+)%", row)[1]) for row in pruned[: len(report.THRESHOLDS)]]
    assert shares == sorted(shares) and shares[-1] > 50


def test_texts_are_shown_as_they_are_and_nothing_of_them_is_run(made, opened):
    page = opened()
    assert page.title() == f"<b>first & last, {LONG_NAME}, bare: fairseq-resmlp report"
    values = page.locator("dd").all_inner_texts()
    assert HOSTILE in values and ARABIC in values and SOURCES[3] in values
    assert page.locator("script, dd img").count() == 0
    direction = page.locator("dd", has_text=ARABIC).first.evaluate("e => getComputedStyle(e).direction")
    assert direction == "rtl"


def test_the_samples_are_the_worst_and_the_best_with_their_alignments(made):
    folder = find(str(made / "<b>first & last"))
    cfg, task, model = folder.load()
    translations = HeldOut(folder, cfg, task, 200).translate(model)
    chrf = [CHRF().sentence_score(t.text, [r]).score for t, r in zip(translations, REFERENCES)]
    ranked = sorted(value for value, source in zip(chrf, SOURCES) if source)
    found = [json.loads(file.read_text()) for file in sorted((made / "out").glob("-b-first*.alignment.*.json"))]
    assert [f["chrF"] for f in found] == pytest.approx(ranked[::-1][:3] + ranked[:3], rel=1e-4)
    for sample in found:
        attention = np.array(sample["attention"])
        assert attention.shape == (len(sample["target"]), len(sample["source"]))
        assert attention.sum(1) == pytest.approx(1, abs=1e-3)
        assert sample["source"][-1] == sample["target"][-1] == "</s>"
    arabic = next(sample["source"] for sample in found if sample["reference"] == ARABIC)
    assert "".join(arabic[:-1]).replace("\u2581", " ").strip() == ARABIC  # though the dictionary has none of it


def test_what_is_missing_is_said_with_its_remedy(made, opened):
    said = opened().locator(".missing").all_inner_texts()
    output = (made / "output.txt").read_text(encoding="utf-8")
    for remedy in (
        "bare has no scores.json: scripts/evaluate.sh",
        "no checkpoint in .*: scripts/train.sh",
        "--log-format",
    ):
        assert any(re.search(remedy, line) for line in said)
        assert re.search(remedy, output)


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_shows_the_page_without_scrolling_sideways(opened, width):
    page = opened(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # What is wider than the phone scrolls in its own frame.
    wide = page.locator(".scroll").first
    assert wide.evaluate("e => e.scrollWidth > e.clientWidth")
    outside = """[...document.querySelectorAll("p, h1, h2, h3, dd, li, figcaption")]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.textContent)"""
    assert page.evaluate(outside) == []


def test_on_paper_nothing_is_cut_off(opened):
    page = opened(700)  # about A4 without its margins
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    assert page.evaluate("[...document.images].every(i => i.getBoundingClientRect().right <= 701)")
    assert not page.locator("nav").is_visible()
    assert len(page.pdf(format="A4")) > 100_000


def test_pictures_and_their_numbers_can_be_taken_from_the_page(made, opened):
    page = opened()
    links = page.evaluate("[...document.querySelectorAll('a[download]')].map(a => [a.download, a.href])")
    assert len(links) == 2 * page.locator("figure").count()
    for name, address in links:
        content = base64.b64decode(address.split(",", 1)[1])
        assert content == (made / "out" / name).read_bytes()
        if name.endswith(".png"):
            assert content.startswith(b"\x89PNG")
            assert (made / "out" / name).with_suffix(".svg").exists()
        else:
            assert json.loads(content)["title"]


def test_a_model_of_one_layer_with_hardly_any_weights(tmp_path, opened):
    """No sentence was longer than two pieces, and there is no text beside it."""
    model = make_model(encoder_layers=1, decoder_layers=1)
    with torch.no_grad():
        for layer in (model.encoder.layers[0], model.decoder.layers[0]):
            layer.mixing.A.zero_()
            layer.mixing.A[:2, :2] = torch.tensor([[1.0, 0.0], [-0.5, 0.25]])
    folder = find(str(write_run(tmp_path / "one")))
    sections = [report._maps(folder, model, {}), report._sparsity(folder, model), report._scales(folder, model)]
    (tmp_path / "index.html").write_text(report.page(sections, ["one"]), encoding="utf-8")
    for width in (390, 1280):
        page = opened(width, tmp_path / "index.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(i => i.naturalWidth > 100)")


def test_pictures_have_titles_named_axes_and_legends(figures):
    assert len(figures) > 25
    for figure in figures:
        axes, *bars = figure.axes
        assert axes.get_title() and axes.get_xlabel() and axes.get_ylabel()
        assert figure.legends or bars[0].get_ylabel()
        units = r"pieces?|share|layer|updates|removed|rate|norm|weight|alpha|energy|translation|BLEU"
        assert re.search(units, axes.get_xlabel()) and re.search(units, axes.get_ylabel()), axes.get_title()


@pytest.mark.slow
def test_legends_are_inside_of_their_pictures(figures):
    for figure in figures:
        pictures.files(figure)
        for legend in figure.legends:
            left, bottom, right, top = legend.get_window_extent().extents
            assert left >= 0 and bottom >= 0 and right <= figure.bbox.width, figure.axes[0].get_title()
            assert top <= figure.axes[0].get_window_extent().y0


def test_names_in_legends_are_no_formulas_and_none_is_left_out(figures):
    figure = next(figure for figure in figures if figure.axes[0].get_title() == "Learning rate")
    first, second = (text.get_text() for text in figure.legends[0].get_texts())
    assert first == "<b>first & last"
    assert re.fullmatch(r" _\$a\$-run.*\u2026.*", second) and len(second) <= 41


def test_pieces_that_no_svg_may_hold_are_replaced():
    figure = pictures.alignment("title", ["\x00a\x0b", "$", "</s>"], ["</s>"], np.ones((1, 3)) / 3)
    ElementTree.fromstring(pictures.files(figure)["svg"])


def test_lines_differ_by_more_than_their_colours(figures):
    several = 0
    for figure in figures:
        lines = [line for line in figure.axes[0].lines if not line.get_label().startswith("_")]
        looks = {(line.get_linestyle(), line.get_marker(), line.get_fillstyle()) for line in lines}
        assert len(looks) == len(lines), figure.axes[0].get_title()
        several += len(lines) > 1
    assert several > 8


def test_maps_mark_what_is_negative_and_have_one_scale_a_layer():
    mixing = analysis.Mixing("encoder", 1, 1, 2, False, np.pad([[1.0, -0.04], [-0.5, 0.0]], (0, 3)))
    other = analysis.Mixing("encoder", 1, 2, 2, False, np.pad([[0.2, 0.0], [0.0, -2.0]], (0, 3)))
    for heads, largest, marked in (([mixing], 1, [[[1, 2]]]), ([mixing, other], 2, [[[1, 2]], [[2, 2]]])):
        maps = pictures.interaction_map("encoder layer 1", heads).axes[: len(heads)]
        for axes, where in zip(maps, marked):
            (image,), (marks,) = axes.images, axes.collections
            assert (image.norm.vmin, image.norm.vmax) == (-largest, largest)
            assert marks.get_offsets().tolist() == where  # column, row; from 1
            assert image.get_array().shape == (2, 2)


def test_heads_stand_in_one_picture_a_layer_by_offset_and_in_one_row_of_the_table():
    model = make_model(token_mixing="toeplitz", mixing_heads=4)
    run_folder = RunFolder("run", "run", None, None, None, None, [], [], [])
    section = report._maps(run_folder, model, {})
    layers = [f"{stack} layer {layer}" for stack in ("encoder", "decoder") for layer in (1, 2)]
    titles = [picture.title for picture in section.pictures]
    for layer in layers:
        assert titles.count(f"A of {layer}, each head") == titles.count(f"Mean weight by offset, {layer}") == 1
    rows = section.tables[0].rows
    assert [row[0] for row in rows] == layers and {row[2] for row in rows} == {"100%"}  # one weight an offset
    offsets = next(p for p in section.pictures if p.name == "run.offsets.decoder-layer-2")
    heads = json.loads(offsets.numbers)["heads"]
    a = model.decoder.layers[1].mixing.a.detach().double().numpy()
    for head, weights in zip(heads, a):
        assert head["offset"] == list(range(1 - len(weights), 1))
        assert head["mean"] == pytest.approx(weights[::-1], rel=1e-4)
    figure = pictures.offsets_of_heads("decoder layer 2", [analysis.Offsets(*map(np.array, h.values())) for h in heads])
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), a[:, ::-1], rtol=1e-4)


def test_perplexity_is_that_of_each_sentence_alone(made):
    folder = find(str(made / "<b>first & last"))
    cfg, task, model = folder.load()
    text = HeldOut(folder, cfg, task, 200)
    bits, count = 0.0, 0
    for source, target in text.pairs:
        shifted = torch.cat([target[-1:], target[:-1]])[None]
        with torch.inference_mode():
            output = model(source[None], None, shifted)
            chosen = model.get_normalized_probs(output, log_probs=True)[0].gather(1, target[:, None])
        bits -= float(chosen.sum()) / math.log(2)
        count += len(target)
    assert text.perplexity(model) == pytest.approx(2 ** (bits / count), rel=1e-4)
    assert len(text.pairs) < len(SOURCES)  # one reference is longer than N


@pytest.mark.slow
def test_sections_can_be_left_out(made, tmp_path):
    done = report_command(made / LONG_NAME, "--out", tmp_path / "a", "--sentences", 0)
    assert done.exit_code == 0, done.output
    assert "--sentences 0 asked for none" in done.output
    assert not list((tmp_path / "a").glob("*alignment*")) + list((tmp_path / "a").glob("*pruning*"))
    done = report_command(made / LONG_NAME, "--out", tmp_path / "b", "--sentences", 2, "--no-pruning")
    assert "--no-pruning asked for none" in done.output
    assert list((tmp_path / "b").glob("*alignment*")) and not list((tmp_path / "b").glob("*pruning*"))


@pytest.mark.slow
def test_the_same_runs_give_the_same_page(made, tmp_path):
    for name in ("a", "b"):
        report_command(made / LONG_NAME, "--out", tmp_path / name, "--sentences", 0)
    assert (tmp_path / "a" / "index.html").read_bytes() == (tmp_path / "b" / "index.html").read_bytes()


def test_mistakes_are_told_in_one_line(made, tmp_path):
    (tmp_path / "empty").mkdir()
    folder = write_run(tmp_path / "run")
    (folder / "test2016" / "scores.json").write_text("{}")
    for arguments, message in (
        ([tmp_path / "empty"], "is no run folder: it has no checkpoint"),
        ([made / LONG_NAME, made / LONG_NAME], "named twice"),
        ([folder, "--sentences", 0], "scores.json is not what fairseq-resmlp score --json writes"),
    ):
        done = report_command(*arguments, "--out", tmp_path / "out")
        assert done.exit_code == 1
        assert message in done.output.splitlines()[-1]
        assert "Traceback" not in done.output


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_without_its_libraries_one_line_names_what_to_install(made, tmp_path, monkeypatch, missing):
    for name in ("pictures", "report"):  # as if for the first time
        monkeypatch.delitem(sys.modules, f"fairseq_resmlp.{name}")
        monkeypatch.delattr(fairseq_resmlp, name)
    monkeypatch.setitem(sys.modules, missing, None)
    done = report_command(made / LONG_NAME, "--out", tmp_path)
    assert done.exit_code == 1
    assert re.fullmatch(rf"Error: .* {missing}.*: pip install 'fairseq-resmlp\[report\]'\n", done.output)


def test_the_plugin_does_not_import_the_reports_libraries():
    code = "import sys, fairseq_resmlp; print({'matplotlib', 'fairseq_resmlp.report'} & set(sys.modules))"
    assert run(sys.executable, "-c", code, cwd=Path(ROOT)).stdout.strip().endswith("set()")


def test_tensorboard_files_without_tensorboard_name_the_remedy(tmp_path, monkeypatch):
    from fairseq_resmlp import curves

    (tmp_path / "events.out.tfevents.1").touch()
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_accumulator", None)
    with pytest.raises(InputError, match=r"pip install 'fairseq-resmlp\[report\]'"):
        curves.read(find(str(tmp_path)))
