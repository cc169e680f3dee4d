"""The report is complete and readable: in a browser, on a phone, on paper and in grayscale."""

import base64
import io
import itertools
import json
import re
import shutil
import sys
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sacrebleu.metrics import BLEU, CHRF

import fairseq_resmlp.report
from fairseq_resmlp.cli.main import main
from fairseq_resmlp.evaluation.evaluation_set import AlignedTranslation, EvaluationSet
from fairseq_resmlp.evaluation.run_directory import RunDirectory, find_run
from fairseq_resmlp.report import builder, plots, sections, statistics
from fairseq_resmlp.report.alignment import alignment_table
from support.commands import run
from support.contrast import LOW_CONTRAST
from support.models import make_model
from support.paths import ROOT
from support.run_directories import ARABIC, HOSTILE, MATH, REFERENCES, SOURCES, write_run_directory

FIRST = "<b>first & last"
SECOND = "_$a$-run-with-a-name-that-is-much-too-long-for-a-line-of-a-phone-" * 2


def report_command(*arguments):
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


@pytest.fixture(scope="module")
def report_and_figures(tmp_path_factory):
    """A report on two runs and on a nearly empty run directory, and its matplotlib figures."""
    directory = tmp_path_factory.mktemp("report")
    first, second = write_run_directory(directory / FIRST), write_run_directory(directory / SECOND, offset=1.0)
    bare = directory / "bare"
    bare.mkdir()
    (bare / "train.log").write_text("no JSON")
    figures, render = [], plots.render
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "render", lambda figure: figures.append(figure) or render(figure))
        done = report_command(first, second, bare, "--out", directory / "out")
    assert done.exit_code == 0, done.output
    (directory / "output.txt").write_text(done.output, encoding="utf-8")
    (directory / "alone").mkdir()
    shutil.copy(directory / "out" / "index.html", directory / "alone")
    return directory, figures


@pytest.fixture(scope="module")
def report(report_and_figures):
    """Directory with the runs, the report (out), a copy of its page alone (alone) and the command's output."""
    return report_and_figures[0]


@pytest.fixture(scope="module")
def figures(report_and_figures):
    return report_and_figures[1]


@pytest.fixture
def open_page(report, browser):
    """Function that opens the page, without the files next to it. The test fails on any request or console message."""
    messages = []

    def open_at_width(width=1280, file=None):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else messages.append(r.url))
        page.goto(f"file://{file or report / 'alone' / 'index.html'}")
        return page

    yield open_at_width
    assert messages == []


def test_the_page_has_every_section_and_shows_every_plot(open_page):
    page = open_page()
    headings = page.locator("h2").all_inner_texts()
    parts = ["token mixing", "sparsity", "scales", "pruning", "sample translations"]
    assert headings[:3] == ["Summary", "Scores", "Training"]
    assert headings[3:8] == [f"{FIRST}: {part}" for part in parts]
    assert headings[8:13] == [f"{SECOND}: {part}" for part in parts]
    assert headings[13:] == ["Missing"]
    images = page.evaluate("[...document.images].map(i => [i.alt, i.naturalWidth, i.getBoundingClientRect().width])")
    assert all(alt and natural > 100 and shown > 100 for alt, natural, shown in images)
    titles = [title for title, *_ in images]
    for stack, layer in itertools.product(("encoder", "decoder"), (1, 2)):
        for title in ("A of {}", "Rows of A, {}"):
            assert titles.count(title.format(f"{stack} layer {layer}")) == 2  # runs
    for title in ("Loss, with label smoothing", "Perplexity", "BLEU on validation", "Learning rate", "Gradient norm"):
        assert titles.count(title) == 1  # for all runs
    assert "Speed" in titles


def test_the_tables_contain_the_measured_values(report, open_page):
    page = open_page()
    rows = page.locator("table").nth(1).locator("tbody tr").all_inner_texts()
    assert re.search(r"first & last\s+test2016 \(1,000 lines\)\s+sacreBLEU\s+36\.7\s+nrefs:1", rows[0])
    assert re.search(r"test2016 \(1,000 lines\)\s+sacreBLEU\s+37\.7", rows[2])

    directory = find_run(str(report / FIRST))
    cfg, task, model = directory.load()
    mixing = statistics.mixings(model)[0]
    text = page.locator("table").nth(2).inner_text()
    share = statistics.convolution_share(mixing.visited)
    assert f"all {mixing.L} visited (N = 40)" in text
    assert re.search(rf"encoder layer 1\s+all.*= 40\)\s+{100 * share:.0f}%", text)

    evaluation = EvaluationSet(directory, cfg, task, 200)
    translations = [t.text for t in evaluation.translate(model)]
    value = BLEU().corpus_score(translations, [REFERENCES]).score
    assert re.search(rf"test2016, first 7 lines\s+sacreBLEU\s+{value:.1f}", rows[1])
    # The threshold 0 removes nothing.
    pruned = page.locator("table", has_text="Scores by threshold").first.locator("tbody tr").all_inner_texts()
    assert len(pruned) == 2 * len(sections.THRESHOLDS)
    assert re.match(rf"A\s+0\s+0%\s+{value:.1f}\s+{evaluation.perplexity(model):.2f}", pruned[0])
    shares = [int(re.search(r"(\d+)%", row)[1]) for row in pruned[: len(sections.THRESHOLDS)]]
    assert shares == sorted(shares) and shares[-1] > 50


def test_the_first_table_has_one_row_per_run(report, open_page):
    """The logs end at update 190, with a validation perplexity of 8."""
    summary = open_page().locator("table").first
    assert summary.locator("th").all_inner_texts() == [
        *("run", "corpus", "parameters", "best validation perplexity", "BLEU", "updates")
    ]
    _, _, model = find_run(str(report / FIRST)).load()
    parameters = f"{sum(p.numel() for p in model.parameters()):,}"
    assert [row.split("\t") for row in summary.locator("tbody tr").all_inner_texts()] == [
        [FIRST, "", parameters, "8.00", "36.7, test2016 (1,000 lines)", "190"],
        [SECOND, "", parameters, "8.00", "37.7, test2016 (1,000 lines)", "190"],
        ["bare", "", "", "", "", ""],
    ]


def test_alignments_are_tables_of_words_and_cut_at_60(report, open_page):
    page = open_page()
    assert page.locator("table.alignment").count() == 12  # three worst and three best translations of two runs
    sample = page.locator(".sample").filter(has_text=SOURCES[0]).first
    assert " ".join(sample.locator("th[scope=col]").all_inner_texts()) == SOURCES[0]
    assert " ".join(sample.locator("th[scope=row]").all_inner_texts()) == sample.locator("dd").nth(2).inner_text()

    source, target = ([f"\u2581{side}{i}" for i in range(70)] + ["</s>"] for side in "st")
    translation = AlignedTranslation("", source, target, np.eye(71, dtype=np.float32))
    table = alignment_table(translation)
    assert table.is_cut and table.columns == [f"s{i}" for i in range(60)]
    for i, (word, weights) in enumerate(table.rows):
        assert word == f"t{i}" and weights == [float(i == j) for j in range(60)]
    assert len(table.rows) == 60
    axes, *_ = plots.alignment("title", source, target, translation.attention).axes
    assert axes.images[0].get_array().shape == (60, 60)


def test_words_of_several_tokens_sum_their_source_attention_and_average_their_target_attention():
    attention = np.array([[0.5, 0.25, 0.25, 0], [0.25, 0, 0.75, 0], [0, 0, 0, 1]], dtype=np.float32)
    translation = AlignedTranslation("", ["\u2581a", "b", "\u2581c", "</s>"], ["\u2581x", "y", "</s>"], attention)
    table = alignment_table(translation)
    assert (table.columns, table.rows, table.is_cut) == (["ab", "c"], [("xy", [0.5, 0.5])], False)
    nothing = AlignedTranslation("", ["</s>"], ["</s>"], np.ones((1, 1), dtype=np.float32))
    assert alignment_table(nothing).rows == []


def test_the_page_has_a_dark_mode(open_page):
    page = open_page()
    shown = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(LOW_CONTRAST) == []
        image = page.locator("figure img").first
        body, text = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
        shown[scheme] = body, text, image.evaluate("e => getComputedStyle(e).filter")
        assert average(image.screenshot()) == pytest.approx({"light": 235, "dark": 35}[scheme], abs=30)
    assert all(light != dark for light, dark in zip(shown["light"], shown["dark"]))
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def average(png):
    """Mean value of the pixels of an image, from 0 to 255."""
    return 255 * matplotlib.image.imread(io.BytesIO(png))[..., :3].mean()


def test_the_maps_have_the_colors_of_the_palette():
    palette = builder.PALETTE.read_text(encoding="utf-8")
    for value, name in ((-1, "negative"), (1, "positive")):
        rgb = re.search(rf"--{name}: (\d+), (\d+), (\d+)", palette).groups()
        assert [round(255 * x) for x in plots.WEIGHTS((value + 1) / 2)[:3]] == [int(x) for x in rgb]


def test_text_is_shown_verbatim_and_never_executed(open_page):
    page = open_page()
    assert page.title() == f"{FIRST}, {SECOND}, bare: fairseq-resmlp report"
    values = page.locator("dd").all_inner_texts()
    assert HOSTILE in values and ARABIC in values and MATH in values
    assert page.locator("script, dd img").count() == 0
    direction = page.locator("dd", has_text=ARABIC).first.evaluate("e => getComputedStyle(e).direction")
    assert direction == "rtl"


def test_the_samples_are_the_worst_and_the_best_translations_with_alignments(report):
    directory = find_run(str(report / FIRST))
    cfg, task, model = directory.load()
    translations = EvaluationSet(directory, cfg, task, 200).translate(model)
    chrf = [CHRF().sentence_score(t.text, [r]).score for t, r in zip(translations, REFERENCES)]
    ranked = sorted(value for value, source in zip(chrf, SOURCES) if source)
    samples = [json.loads(file.read_text()) for file in sorted((report / "out").glob("-b-first*.alignment.*.json"))]
    assert [sample["chrF"] for sample in samples] == pytest.approx(ranked[::-1][:3] + ranked[:3], rel=1e-4)
    for sample in samples:
        attention = np.array(sample["attention"])
        assert attention.shape == (len(sample["target"]), len(sample["source"]))
        assert attention.sum(1) == pytest.approx(1, abs=1e-3)
        assert sample["source"][-1] == sample["target"][-1] == "</s>"
    arabic = next(sample["source"] for sample in samples if sample["reference"] == ARABIC)
    assert "".join(arabic[:-1]).replace("\u2581", " ").strip() == ARABIC  # although the dictionary lacks its letters


def test_missing_parts_are_listed_with_a_remedy(report, open_page):
    page = open_page()
    missing = page.locator(".missing").all_inner_texts()
    assert page.locator(".missing").count() == page.locator("section:last-of-type .missing").count()
    output = (report / "output.txt").read_text(encoding="utf-8")
    for remedy in (
        "bare has no scores.json: run scripts/evaluate.sh",
        "checkpoint not found in .*: run scripts/train.sh",
        "--log-format",
    ):
        assert any(re.search(remedy, line) for line in missing)
        assert re.search(remedy, output)


@pytest.mark.parametrize("width", [320, 390])
def test_on_a_phone_the_page_does_not_scroll_sideways(open_page, width):
    page = open_page(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.locator(".scroll").first
    assert wide.evaluate("e => e.scrollWidth > e.clientWidth")  # wide tables scroll on their own
    outside = """[...document.querySelectorAll("p, h1, h2, h3, dd, li, figcaption")]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.textContent)"""
    assert page.evaluate(outside) == []


def test_nothing_is_cut_off_in_print(open_page):
    page = open_page(700)  # about A4 without its margins
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    assert page.evaluate("[...document.images].every(i => i.getBoundingClientRect().right <= 701)")
    assert not page.locator("nav").is_visible()
    assert len(page.pdf(format="A4")) > 100_000


def test_plots_and_their_numbers_can_be_downloaded_from_the_page(report, open_page):
    page = open_page()
    links = page.evaluate("[...document.querySelectorAll('a[download]')].map(a => [a.download, a.href])")
    assert len(links) == 2 * (page.locator("figure").count() + page.locator(".sample").count())
    for name, address in links:
        content = base64.b64decode(address.split(",", 1)[1])
        assert content == (report / "out" / name).read_bytes()
        if name.endswith(".png"):
            assert content.startswith(b"\x89PNG")
            assert (report / "out" / name).with_suffix(".svg").exists()
        else:
            assert json.loads(content)["title"]


def test_a_model_that_visited_only_two_positions(tmp_path, open_page):
    model = make_model(encoder_layers=1, decoder_layers=1)
    with torch.no_grad():
        for layer in (model.encoder.layers[0], model.decoder.layers[0]):
            layer.mixing.A.zero_()
            layer.mixing.A[:2, :2] = torch.tensor([[1.0, 0.0], [-0.5, 0.25]])
    directory = find_run(str(write_run_directory(tmp_path / "one")))
    parts = [
        sections.mixing_section(directory, model, {}),
        sections.sparsity_section(directory, model),
        sections.scales_section(directory, model),
    ]
    (tmp_path / "index.html").write_text(builder.render_page(parts, ["one"]), encoding="utf-8")
    for width in (390, 1280):
        page = open_page(width, tmp_path / "index.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(i => i.naturalWidth > 100)")


def test_plots_have_titles_axis_labels_and_legends(figures):
    assert len(figures) > 25
    for figure in figures:
        axes, *bars = figure.axes
        assert axes.get_title() and axes.get_xlabel() and axes.get_ylabel()
        assert figure.legends or bars[0].get_ylabel()
        units = r"tokens?|share|layer|updates|removed|rate|norm|weight|alpha|energy|translation|BLEU"
        assert re.search(units, axes.get_xlabel()) and re.search(units, axes.get_ylabel()), axes.get_title()


@pytest.mark.slow
def test_legends_are_inside_their_figures(figures):
    for figure in figures:
        plots.render(figure)
        for legend in figure.legends:
            left, bottom, right, top = legend.get_window_extent().extents
            assert left >= 0 and bottom >= 0 and right <= figure.bbox.width, figure.axes[0].get_title()
            assert top <= figure.axes[0].get_window_extent().y0


def test_legends_show_every_name_verbatim(figures):
    figure = next(figure for figure in figures if figure.axes[0].get_title() == "Learning rate")
    first, second = (text.get_text() for text in figure.legends[0].get_texts())
    assert first == FIRST
    assert re.fullmatch(r" _\$a\$-run.*\u2026.*", second) and len(second) <= 41


def test_characters_that_are_invalid_in_an_svg_are_replaced():
    figure = plots.alignment("title", ["\x00a\x0b", "$", "</s>"], ["</s>"], np.ones((1, 3)) / 3)
    ElementTree.fromstring(plots.render(figure)["svg"])


def test_lines_differ_in_more_than_color(figures):
    several = 0
    for figure in figures:
        lines = [line for line in figure.axes[0].lines if not line.get_label().startswith("_")]
        styles = {(line.get_linestyle(), line.get_marker(), line.get_fillstyle()) for line in lines}
        assert len(styles) == len(lines), figure.axes[0].get_title()
        several += len(lines) > 1
    assert several > 8


def test_maps_mark_negative_weights_and_share_one_scale_per_layer():
    mixing = statistics.Mixing("encoder", 1, 1, 2, False, np.pad([[1.0, -0.04], [-0.5, 0.0]], (0, 3)))
    other = statistics.Mixing("encoder", 1, 2, 2, False, np.pad([[0.2, 0.0], [0.0, -2.0]], (0, 3)))
    for heads, largest, marked in (([mixing], 1, [[[1, 2]]]), ([mixing, other], 2, [[[1, 2]], [[2, 2]]])):
        maps = plots.interaction_map("encoder layer 1", heads).axes[: len(heads)]
        for axes, where in zip(maps, marked):
            (image,), (marks,) = axes.images, axes.collections
            assert (image.norm.vmin, image.norm.vmax) == (-largest, largest)
            assert marks.get_offsets().tolist() == where  # column and row, counted from 1
            assert image.get_array().shape == (2, 2)


def test_heads_of_a_layer_share_one_map_one_offset_plot_and_one_table_row():
    model = make_model(token_mixing="toeplitz", mixing_heads=4)
    directory = RunDirectory("run", "run", None, None, None, None, [], [], [])
    section = sections.mixing_section(directory, model, {})
    layers = [f"{stack} layer {layer}" for stack in ("encoder", "decoder") for layer in (1, 2)]
    titles = [plot.title for plot in section.plots]
    for layer in layers:
        assert titles.count(f"A of {layer}, per head") == titles.count(f"Mean weight by offset, {layer}") == 1
    rows = section.tables[0].rows
    assert [row[0] for row in rows] == layers and {row[2] for row in rows} == {
        "100%"
    }  # a Toeplitz matrix has one weight per offset
    offsets = next(p for p in section.plots if p.name == "run.offsets.decoder-layer-2")
    heads = json.loads(offsets.numbers)["heads"]
    a = model.decoder.layers[1].mixing.a.detach().double().numpy()
    for head, weights in zip(heads, a):
        assert head["offset"] == list(range(1 - len(weights), 1))
        assert head["mean"] == pytest.approx(weights[::-1], rel=1e-4)
    figure = plots.offsets_of_heads("decoder layer 2", [statistics.Offsets(*map(np.array, h.values())) for h in heads])
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), a[:, ::-1], rtol=1e-4)


@pytest.mark.slow
def test_sections_can_be_left_out(report, tmp_path):
    done = report_command(report / SECOND, "--out", tmp_path / "a", "--sentences", 0)
    assert done.exit_code == 0, done.output
    assert "not requested (--sentences 0)" in done.output
    assert not list((tmp_path / "a").glob("*alignment*")) + list((tmp_path / "a").glob("*pruning*"))
    done = report_command(report / SECOND, "--out", tmp_path / "b", "--sentences", 2, "--no-pruning")
    assert "not requested (--no-pruning)" in done.output
    assert list((tmp_path / "b").glob("*alignment*")) and not list((tmp_path / "b").glob("*pruning*"))


@pytest.mark.slow
def test_the_page_is_reproducible(report, tmp_path):
    for name in ("a", "b"):
        report_command(report / SECOND, "--out", tmp_path / name, "--sentences", 0)
    assert (tmp_path / "a" / "index.html").read_bytes() == (tmp_path / "b" / "index.html").read_bytes()


def test_errors_are_reported_in_one_line(report, tmp_path):
    (tmp_path / "empty").mkdir()
    directory = write_run_directory(tmp_path / "run")
    (directory / "test2016" / "scores.json").write_text("{}")
    for arguments, message in (
        ([tmp_path / "empty"], "is not a run directory: it has no checkpoint"),
        ([report / SECOND, report / SECOND], "given twice"),
        ([directory, "--sentences", 0], "scores.json is not an output of fairseq-resmlp score --json"),
    ):
        done = report_command(*arguments, "--out", tmp_path / "out")
        assert done.exit_code == 1
        assert message in done.output.splitlines()[-1]
        assert "Traceback" not in done.output


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_an_error_of_one_line(report, tmp_path, monkeypatch, package):
    for name in ("plots", "alignment", "sections", "builder"):  # to import them again
        monkeypatch.delitem(sys.modules, f"fairseq_resmlp.report.{name}")
        monkeypatch.delattr(fairseq_resmlp.report, name)
    monkeypatch.setitem(sys.modules, package, None)
    done = report_command(report / SECOND, "--out", tmp_path)
    assert done.exit_code == 1
    assert re.fullmatch(rf"Error: .* {package}.*: pip install 'fairseq-resmlp\[report\]'\n", done.output)


def test_the_plugin_does_not_import_the_packages_of_the_report():
    code = "import sys, fairseq, fairseq_resmlp; print({'matplotlib', 'fairseq_resmlp.report'} & set(sys.modules))"
    assert run(sys.executable, "-c", code, cwd=ROOT).stdout.strip().endswith("set()")


def test_statistics_and_plots_import_no_fairseq():
    code = "import sys; from fairseq_resmlp.report import plots, statistics; "
    code += "print({'fairseq', 'hydra', 'omegaconf'} & set(sys.modules))"
    assert run(sys.executable, "-c", code, cwd=ROOT, env={}).stdout.strip().endswith("set()")
