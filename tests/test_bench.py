"""`fairseq-resmlp bench` measures what it says, at sizes at which it takes seconds."""

import dataclasses
import json
import sys
from functools import partial
from statistics import median

import pytest
import torch
from click.testing import CliRunner
from conftest import ROOT, load_script

from fairseq_resmlp import bench, linear, speed_table, systems
from fairseq_resmlp.cli import main
from fairseq_resmlp.errors import InputError

SMALL = systems.Settings(pairs=2, pause=0, shortest=0, threads=1, d=16, hidden=32, layers=1, heads=2, vocabulary=300)
OPTIONS = ("pairs", "threads", "d", "hidden", "layers", "heads", "vocabulary")
SIZES = [f"--{name}={getattr(SMALL, name)}" for name in OPTIONS]
HALF = "avx512_bf16" in bench.processor()[1]


@pytest.fixture(autouse=True)
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the command writes for everything but the rows that need ctranslate2 or data."""
    out = tmp_path_factory.mktemp("bench") / "speed.json"
    words = ["bench", "--out", str(out), *SIZES, "--data", "nowhere", "--without-ctranslate2"]
    with pytest.MonkeyPatch.context() as patch:  # no pauses, and nothing is repeated
        patch.setattr(bench, "Settings", partial(systems.Settings, pause=0, shortest=0))
        patch.setattr(sys, "argv", ["/somewhere/bin/fairseq-resmlp", *words])
        done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text(encoding="utf-8"))
    return {**report, "printed": done.output, "words": words}


def settings_of(found):
    return systems.Settings(**{name: value for name, value in found["settings"].items() if name != "optimizer"})


def test_every_row_is_in_the_json_and_in_the_table(found):
    counted = {part: sum(row["part"] == part for row in found["rows"]) for part in bench.PARTS}
    assert counted == {"train": 8 if HALF else 6, "generate": 6, "fast": 0, "memory": 1, "growth": 2, "loading": 0}
    assert len(found["breakdown"]) == 4
    for row in found["rows"]:
        assert row["what"] in found["printed"]
        assert row["against"] in found["printed"]
    for part in found["breakdown"]:
        assert part["what"] in found["printed"]


def test_a_part_is_measured_anew_and_the_others_stay(found):
    (memory,) = [row for row in found["rows"] if row["part"] == "memory"]
    settings = settings_of(found)
    stay = bench.staying(found, settings, ["memory"])
    renewed = bench.renew(stay, {**found, "rows": [{**memory, "what": "anew"}], "breakdown": []})
    assert [row["what"] for row in renewed["rows"]] == [
        "anew" if row["part"] == "memory" else row["what"] for row in found["rows"]
    ]
    assert renewed["breakdown"] == found["breakdown"]


@pytest.mark.parametrize("what", ["machine", "settings", "versions"])
def test_rows_of_another_machine_are_not_put_under_this_one(found, what):
    of_another = {**found, what: {**found[what], "threads": 99}}
    with pytest.raises(InputError, match=f"other {what}, .* give another --out"):
        bench.staying(of_another, settings_of(found), ["memory"])
    assert bench.staying(of_another, settings_of(found), [*bench.PARTS, "profile"]) == {"rows": [], "breakdown": []}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_here_is_named():
    done = CliRunner().invoke(main, ["bench", "--device", "cuda"])
    assert done.exit_code == 1 and done.output.startswith("Error: --device cuda is not here: ")


def test_what_was_left_out_is_said(found):
    notes = "\n".join(found["notes"])
    assert "--without-ctranslate2" in notes
    assert "no data in nowhere" in notes
    assert all(note in found["printed"] for note in found["notes"])


def test_ratios_are_those_of_what_was_measured(found):
    for row in found["rows"]:
        above, below = row["measured"][row["above"]], row["measured"][row["below"]]
        assert len(above) == len(below) == (1 if row["part"] == "memory" else SMALL.pairs)
        ratios = [a / b for a, b in zip(above, below)]
        assert row["ratio"] == {"median": median(ratios), "min": min(ratios), "max": max(ratios)}


def test_a_target_is_reached_or_not_by_the_median(found):
    for row in found["rows"]:
        if row["target"] is None:
            assert row["reached"] is None
            continue
        ratio, value = row["ratio"]["median"], row["target"]["value"]
        assert row["reached"] == (ratio >= value if row["target"]["bound"] == "at least" else ratio <= value)
    for target, good, bad in ((bench.MEMORY_TARGET, 0.8, 0.9), (bench.LOADING_TARGET, 0.95, 0.9)):
        for value in (good, bad):
            row = bench.make_row("", "", "", ("a", [value]), ("b", [1.0]), "bytes", target)
            assert row["reached"] == (value == good)


def test_each_target_stands_at_its_row(found):
    targets = {row["what"]: row["target"] and row["target"]["value"] for row in found["rows"]}
    assert targets["train, 32 x 30 tokens, float32, label_smoothed_cross_entropy"] == 1.3
    assert targets["train, 8 x 120 tokens, float32, fused_label_smoothed_cross_entropy"] == 1.45
    assert targets["fairseq-generate, beam 4, batch 1"] == 1.25
    assert all(value is None for what, value in targets.items() if what.endswith(bench.OWN_PRODUCTS))
    assert bench.FAST_TARGETS[16].value == bench.FAST_TARGETS[64].value == 2.0
    assert bench.FAST_TARGETS[1].value == 3.0


def test_torchs_own_products_are_there_for_as_long_as_asked(monkeypatch):
    x, weight = torch.randn(2, 4), torch.randn(3, 4)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with systems.torchs_own_products():
        assert not linear.pays(x)
    assert linear.pays(x) == torch.backends.mkldnn.is_available()
    linear.linear(x, weight)


def test_versions_machine_and_command_are_recorded(found):
    assert {"torch", "fairseq", "numpy", "ctranslate2", "fairseq-resmlp", "python"} == set(found["versions"])
    assert found["versions"]["torch"] == str(torch.__version__)
    assert found["machine"]["threads"] == 1
    assert found["settings"]["d"] == SMALL.d
    assert found["command"] == f"fairseq-resmlp {' '.join(found['words'])}"


def test_shares_of_time_add_up(found):
    for part in found["breakdown"]:
        assert part["matrix_ms"] > 0
        assert part["other_ms"] > 0
        assert part["matrix_ms"] + part["other_ms"] + part["python_ms"] == pytest.approx(part["ms"], rel=0.01)
        for function, floor in part["floor_ms"].items():
            assert part["floor_fraction"][function] == pytest.approx(floor / part["unprofiled_ms"])


@pytest.mark.parametrize("count", [3, 1])
def test_every_side_decodes_as_many_tokens(count):
    source = systems.sentences(count, 7, SMALL)
    searches = {arch: systems.search(arch, SMALL, source, 11) for arch in (systems.RESMLP, systems.TRANSFORMER)}
    for kind in ("float32", "int8"):
        makers = [systems.resmlp_search] + [systems.ctranslate2_search] * bool(bench.version("ctranslate2"))
        for make in makers:
            search = make(SMALL, 11, kind)
            for shortlist in (False, True):
                searches[f"{make.__name__} {kind} {shortlist}"] = partial(search, source, shortlist)
    assert {name: search() for name, search in searches.items()} == {name: 11 * count for name in searches}


def test_another_number_of_tokens_is_an_error():
    with pytest.raises(RuntimeError, match="slow made 29 tokens and not 30"):
        bench.same_length({"slow": lambda: 29}, 30)["slow"]()


def test_the_model_that_is_timed_mixes_as_asked():
    settings = dataclasses.replace(SMALL, resmlp="--token-mixing toeplitz --mixing-heads 4")
    for model in (
        systems.build(systems.RESMLP, settings)[2],
        systems.trainer(systems.RESMLP, settings, systems.FAIRSEQ_CRITERION).model,
    ):
        assert model.decoder.layers[0].mixing.a.shape[0] == 4
    assert not hasattr(systems.build("transformer", settings)[2].decoder.layers[0], "mixing")


def test_both_models_have_the_same_dimensions_and_optimizer():
    sides = {arch: systems.trainer(arch, SMALL, systems.FAIRSEQ_CRITERION) for arch in (systems.RESMLP, "transformer")}
    ours, theirs = sides.values()
    for side in sides.values():
        assert side.model.encoder.embed_tokens.weight.shape == (SMALL.vocabulary, SMALL.d)
        assert side.model.decoder.embed_tokens.weight is side.model.encoder.embed_tokens.weight
        assert side.model.decoder.output_projection.weight is side.model.encoder.embed_tokens.weight
        assert len(side.model.encoder.layers) == len(side.model.decoder.layers) == SMALL.layers
    assert type(ours.optimizer) is type(theirs.optimizer)
    assert ours.optimizer.optimizer_config == theirs.optimizer.optimizer_config


def test_the_products_of_a_step_are_those_of_the_paper():
    # 367 and 291 MFLOP a pair of tokens in training at base size, vocabulary 32,768 (3 products forward and backward).
    base = systems.Settings(vocabulary=32_768)

    def flop(arch):
        products = bench.breakdown.train_products(arch, 32, 30, base)
        return sum(2 * p.M * p.K * p.N * p.batch * p.count for p in products) / (32 * 30) / 1e6

    assert flop(systems.TRANSFORMER) == pytest.approx(367, rel=0.02)
    assert flop(systems.RESMLP) == pytest.approx(291, rel=0.02)


@pytest.mark.skipif(bench.version("ctranslate2") is None, reason="ctranslate2 is not installed")
def test_the_fast_path_is_compared_with_the_faster_of_ctranslate2s_types(monkeypatch):
    monkeypatch.setitem(bench.GENERATE_BATCHES, "cpu", (2,))
    rows = bench.measure_fast(SMALL, [])
    assert ["shortlist" in row["what"] for row in rows] == [False, True]
    for row in rows:
        theirs = {name: median(times) for name, times in row["measured"].items() if name.startswith("CTranslate2")}
        assert row["against"] == min(theirs, key=theirs.get)


def test_without_ctranslate2_its_rows_are_left_out_only_when_asked(monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[bench\]'"):
        bench.measure(SMALL, ["fast"])


def test_a_part_that_is_not_there_is_named():
    done = CliRunner().invoke(main, ["bench", "--only", "train,speed"])
    assert done.exit_code == 1
    assert "no part speed" in done.output


def test_loading_is_compared_over_the_same_batches(toy, monkeypatch):
    monkeypatch.setattr(bench, "LOADING_INTERVALS", 2)
    monkeypatch.setattr(bench, "LOADING_INTERVAL", 1)
    (row,) = bench.measure_loading(dataclasses.replace(SMALL, pairs=1, data=str(toy / "data-bin")), [])
    assert row["above"] == "fairseq-train"
    assert all(rate > 0 for rates in row["measured"].values() for rate in rates)


def test_results_fill_the_tables(found, tmp_path, monkeypatch):
    results = load_script(ROOT / "scripts" / "results.py")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    (tmp_path / "speed.json").write_text(json.dumps(found), encoding="utf-8")
    page = "<!-- speed speed.json -->\n<!-- end -->\n<!-- breakdown speed.json -->\n<!-- end -->\n"
    filled = results.BLOCK.sub(results.fill, page)
    assert all(f"| {row['what']} |" in filled for row in found["rows"])
    assert all(f"| {part['what']} |" in filled for part in found["breakdown"])
    assert speed_table.about(found) in filled
