"""The benchmark measures what its labels say, at sizes that take seconds."""

import dataclasses
import json
import multiprocessing.dummy
import os
import re
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import growth
import pytest
import torch
from click.testing import CliRunner

import bench
import systems
import tables
from fairseq_resmlp.common.environment import cpu_info, package_version
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.modules import linear
from support.commands import run
from support.paths import GOLDEN, PLUGIN, ROOT, SCRIPTS, load_script

SMALL = systems.Settings(pairs=2, pause=0, shortest=0, threads=1, d=16, hidden=32, layers=1, heads=2, vocabulary=300)
OPTIONS = ("pairs", "threads", "d", "hidden", "layers", "heads", "vocabulary")
SIZES = [f"--{name}={getattr(SMALL, name)}" for name in OPTIONS]
HAS_BFLOAT16 = "avx512_bf16" in cpu_info()[1]


@pytest.fixture(autouse=True)
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Results of all parts except those that need ctranslate2 or data."""
    out = tmp_path_factory.mktemp("bench") / "speed.json"
    words = ["--out", str(out), *SIZES, "--data", "nowhere", "--without-ctranslate2"]
    with pytest.MonkeyPatch.context() as patch:  # short sentences, without pauses, repetitions and new processes
        patch.setattr(bench, "LENGTH", 5)
        patch.setattr(bench, "multiprocessing", SimpleNamespace(get_context=lambda method: multiprocessing.dummy))
        patch.setattr(bench, "peak_memory", lambda arch, criterion, *rest: 1e6 + len(arch))
        patch.setattr(bench, "Settings", partial(systems.Settings, pause=0, shortest=0))
        patch.setattr(sys, "argv", ["scripts/benchmark/bench.py", *words])
        done = CliRunner().invoke(bench.main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text(encoding="utf-8"))
    return {**report, "printed": done.output, "words": words}


def settings_of(found):
    return systems.Settings(**{name: value for name, value in found["settings"].items() if name != "optimizer"})


def test_every_row_is_in_the_json_and_in_the_table(found):
    counted = {part: sum(row["part"] == part for row in found["rows"]) for part in bench.PARTS}
    expected = {"train": 10 if HAS_BFLOAT16 else 8, "generate": 6, "fast": 0, "memory": 1, "growth": 2, "loading": 0}
    assert counted == expected
    assert len(found["breakdown"]) == 4 + len(bench.GENERATE_BATCHES["cpu"])  # two models, and the inference engine
    for row in found["rows"]:
        assert row["what"] in found["printed"]
        assert row["against"] in found["printed"]
    for part in found["breakdown"]:
        assert part["what"] in found["printed"]


def test_measuring_one_part_again_keeps_the_others(found):
    (memory,) = [row for row in found["rows"] if row["part"] == "memory"]
    kept = bench.parts_to_keep(found, settings_of(found), ["memory"])
    merged = bench.merge(kept, {**found, "rows": [{**memory, "what": "new"}], "breakdown": []})
    assert [row["what"] for row in merged["rows"]] == [
        "new" if row["part"] == "memory" else row["what"] for row in found["rows"]
    ]
    assert merged["breakdown"] == found["breakdown"]


@pytest.mark.parametrize("what", ["machine", "settings", "versions"])
def test_results_of_different_machines_settings_and_versions_are_not_mixed(found, what):
    other = {**found, what: {**found[what], "threads": 99}}
    with pytest.raises(InputError, match=f"parts measured with {what} .*; specify another --out"):
        bench.parts_to_keep(other, settings_of(found), ["memory"])
    assert bench.parts_to_keep(other, settings_of(found), [*bench.PARTS, "profile"]) == {"rows": [], "breakdown": []}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_an_unavailable_device_is_reported_in_one_line():
    done = run("python", SCRIPTS / "benchmark" / "bench.py", "--device", "cuda", check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: --device cuda is not available: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("error", [InputError("reason"), OSError("reason")], ids=["InputError", "OSError"])
def test_errors_are_reported_in_one_line(monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(bench, "measure", fail)
    done = CliRunner().invoke(bench.main, [])
    assert done.exit_code == 1
    assert done.output == "Error: reason\n"


def test_neighbours_compute_while_the_benchmark_measures_and_end_with_it(monkeypatch):
    def busy_children():
        (main,) = Path("/proc/self/task").glob(str(os.getpid()))
        commands = [Path(f"/proc/{child}/cmdline").read_bytes() for child in (main / "children").read_text().split()]
        return [command for command in commands if b"monotonic" in command]

    seen = []

    def measure(*arguments):
        deadline = time.monotonic() + 60
        while len(busy_children()) < 2 and time.monotonic() < deadline:  # a process that starts has no command yet
            time.sleep(0.01)
        seen.extend(busy_children())
        raise InputError("enough")

    monkeypatch.setattr(bench, "measure", measure)
    done = CliRunner().invoke(bench.main, ["--neighbours", "2"])
    assert done.output == "Error: enough\n"
    assert len(seen) == 2
    assert not busy_children()


def test_skipped_rows_are_noted(found):
    notes = "\n".join(found["notes"])
    assert "--without-ctranslate2" in notes
    assert "no data in nowhere" in notes
    assert all(note in found["printed"] for note in found["notes"])


def test_ratios_are_those_of_the_measurements(found):
    for row in found["rows"]:
        above, below = row["measured"][row["above"]], row["measured"][row["below"]]
        assert len(above) == len(below) == (1 if row["part"] == "memory" else SMALL.pairs)
        ratios = [a / b for a, b in zip(above, below, strict=True)]
        assert row["ratio"] == {"median": median(ratios), "min": min(ratios), "max": max(ratios)}


def test_the_median_decides_whether_a_target_is_reached(found):
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


def test_each_row_has_its_target(found):
    targets = {row["what"]: row["target"] and row["target"]["value"] for row in found["rows"]}
    assert targets["training step, 32 x 30 tokens, float32, label_smoothed_cross_entropy"] == 1.3
    assert targets["training step, 8 x 120 tokens, float32, fused_label_smoothed_cross_entropy"] == 2.8
    assert targets["fairseq-generate, beam 4, batch 1"] == 1.25
    same_products = [value for what, value in targets.items() if what.endswith(bench.SAME_PRODUCTS)]
    assert same_products == [1.3, 1.3, None, None, None]  # two of training, three of translation
    assert bench.FAST_TARGETS[16].value == bench.FAST_TARGETS[64].value == 3.0
    assert bench.SHORTLIST_TARGETS[16].value == bench.SHORTLIST_TARGETS[64].value == 4.0
    assert bench.FAST_TARGETS[1].value == bench.SHORTLIST_TARGETS[1].value == 5.0


def test_onednn_is_disabled_only_within_the_context_manager(monkeypatch):
    x, weight = torch.randn(2, 4), torch.randn(3, 4)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with systems.torch_linear_only():
        assert not linear.use_onednn(x)
    assert linear.use_onednn(x) == torch.backends.mkldnn.is_available()
    linear.linear(x, weight)


def test_versions_machine_and_command_are_recorded(found):
    assert {"torch", "fairseq", "numpy", "ctranslate2", "fairseq-resmlp", "python"} == set(found["versions"])
    assert found["versions"]["torch"] == str(torch.__version__)
    assert found["machine"]["threads"] == 1
    assert found["settings"]["d"] == SMALL.d
    assert found["command"] == f"bench.py {' '.join(found['words'])}"


def test_a_gpu_is_recorded_only_if_it_was_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU")
    for device, gpu in (("cpu", None), ("cuda", "a GPU")):
        settings = dataclasses.replace(SMALL, device=device)
        assert bench.benchmark_environment(settings)["machine"]["gpu"] == gpu


def test_shares_of_time_add_up(found):
    for part in found["breakdown"]:
        assert part["matrix_ms"] > 0
        assert part["other_ms"] > 0
        assert part["matrix_ms"] + part["other_ms"] + part["python_ms"] == pytest.approx(part["ms"], rel=0.01)
        for function, floor in part["floor_ms"].items():
            assert part["floor_fraction"][function] == pytest.approx(floor / part["unprofiled_ms"])


@pytest.mark.parametrize("count", [3, 1])
def test_all_systems_generate_the_same_number_of_tokens(count):
    source = systems.make_sentences(count, 7, SMALL)
    searches = {arch: systems.fairseq_search(arch, SMALL, source, 11) for arch in (systems.RESMLP, systems.TRANSFORMER)}
    for dtype in ("float32", "int8"):
        makers = [systems.resmlp_search] + [systems.ctranslate2_search] * bool(package_version("ctranslate2"))
        for make in makers:
            search = make(SMALL, dtype)
            for shortlist in (False, True):
                for beam in (4, 1):
                    label = f"{make.__name__} {dtype} {shortlist} {beam}"
                    searches[label] = partial(search, source, 11, shortlist, beam)
    assert {name: search() for name, search in searches.items()} == {name: 11 * count for name in searches}


def test_another_number_of_tokens_is_an_error():
    with pytest.raises(RuntimeError, match="slow generated 29 tokens instead of 30"):
        bench.with_length_check({"slow": lambda: 29}, 30)["slow"]()


def test_the_sides_take_turns_and_only_short_calls_are_repeated(monkeypatch):
    clock, called = [0.0], []

    def call(name, seconds):
        called.append(name)
        clock[0] += seconds

    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(bench.time, "sleep", lambda seconds: None)
    runs = {"long": lambda: call("long", 5.0), "short": lambda: call("short", 0.25)}
    seconds = bench.time_alternately(runs, dataclasses.replace(SMALL, pairs=2, shortest=1.0))
    assert called == ["long", *["short"] * 2] + 2 * ["long", *["short"] * 4]
    assert seconds == {"long": [5.0, 5.0], "short": [0.25, 0.25]}


def test_resmlp_options_apply_to_the_timed_model():
    settings = dataclasses.replace(SMALL, resmlp="--token-mixing toeplitz --mixing-heads 4")
    for model in (
        systems.make_model(systems.RESMLP, settings)[2],
        systems.make_trainer(systems.RESMLP, settings, systems.FAIRSEQ_CRITERION).model,
    ):
        assert model.decoder.layers[0].mixing.a.shape[0] == 4
    assert not hasattr(systems.make_model("transformer", settings)[2].decoder.layers[0], "mixing")


def test_both_models_have_the_same_dimensions_and_optimizer():
    trainers = {
        arch: systems.make_trainer(arch, SMALL, systems.FAIRSEQ_CRITERION) for arch in (systems.RESMLP, "transformer")
    }
    resmlp, transformer = trainers.values()
    for trainer in trainers.values():
        assert trainer.model.encoder.embed_tokens.weight.shape == (SMALL.vocabulary, SMALL.d)
        assert trainer.model.decoder.embed_tokens.weight is trainer.model.encoder.embed_tokens.weight
        assert trainer.model.decoder.output_projection.weight is trainer.model.encoder.embed_tokens.weight
        assert len(trainer.model.encoder.layers) == len(trainer.model.decoder.layers) == SMALL.layers
    assert type(resmlp.optimizer) is type(transformer.optimizer)
    assert resmlp.optimizer.optimizer_config == transformer.optimizer.optimizer_config


def test_matrix_products_of_a_step_have_the_flop_count_of_the_paper():
    # At base size with a vocabulary of 32,768: 367 and 291 MFLOP per pair of tokens (forward, and twice in backward)
    base = systems.Settings(vocabulary=32_768)

    def flop(arch):
        products = bench.breakdown.train_products(arch, 32, 30, base)
        return sum(2 * p.M * p.K * p.N * p.batch * p.count for p in products) / (32 * 30) / 1e6

    assert flop(systems.TRANSFORMER) == pytest.approx(367, rel=0.02)
    assert flop(systems.RESMLP) == pytest.approx(291, rel=0.02)


@pytest.mark.slow
@pytest.mark.skipif(package_version("ctranslate2") is None, reason="ctranslate2 is not installed")
def test_the_inference_engine_is_compared_with_the_faster_data_type_of_ctranslate2(monkeypatch):
    monkeypatch.setattr(bench, "LENGTH", 5)
    monkeypatch.setitem(bench.GENERATE_BATCHES, "cpu", (16,))
    rows = bench.measure_fast(SMALL, [])
    assert ["shortlist" in row["what"] for row in rows] == [False, True]
    assert [row["target"]["value"] for row in rows] == [3.0, 4.0]
    for row in rows:
        theirs = {name: times for name, times in row["tried"].items() if name.startswith("CTranslate2")}
        assert len(theirs) == 2 and row["against"] == min(theirs, key=theirs.get)
        assert len(row["measured"]) == 2 and row["against"] in row["measured"]


def test_a_missing_ctranslate2_is_an_error_unless_its_rows_are_skipped(monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[bench\]'.* --without-ctranslate2"):
        bench.measure(SMALL, ["fast"])


@pytest.mark.slow
def test_peak_memory_grows_with_the_model():
    (small,), (large,) = (bench.measure_memory(dataclasses.replace(SMALL, hidden=hidden), []) for hidden in (32, 4096))
    for name in ("resmlp", "transformer"):
        assert 0 < small["measured"][name][0] < large["measured"][name][0]


def test_an_unknown_part_is_an_error():
    done = CliRunner().invoke(bench.main, ["--only", "train,speed"])
    assert done.exit_code == 1
    assert done.output.startswith("Error: unknown part speed; choose from train, generate, ")


@pytest.mark.slow
def test_both_sides_of_the_loading_row_use_the_same_batches(toy, monkeypatch):
    monkeypatch.setattr(bench, "LOADING_INTERVALS", 2)
    monkeypatch.setattr(bench, "LOADING_INTERVAL", 1)
    (row,) = bench.measure_loading(dataclasses.replace(SMALL, pairs=1, data=str(toy / "data-bin")), [])
    assert row["above"] == "fairseq-train"
    assert all(rate > 0 for rates in row["measured"].values() for rate in rates)


def test_results_fill_the_tables(found, tmp_path, monkeypatch):
    update_tables = load_script(SCRIPTS / "update_tables.py")
    monkeypatch.setattr(update_tables, "ROOT", tmp_path)
    (tmp_path / "speed.json").write_text(json.dumps(found), encoding="utf-8")
    page = "<!-- speed speed.json -->\n<!-- end -->\n<!-- breakdown speed.json -->\n<!-- end -->\n"
    filled = update_tables.BLOCK.sub(update_tables.fill, page)
    assert all(f"| {row['what']} |" in filled for row in found["rows"])
    assert all(f"| {part['what']} |" in filled for part in found["breakdown"])
    assert re.search(r"^\| inference engine, int8, beam 4, batch 16 \| resmlp \| \d+ .* \| – \| – \|$", filled, re.M)
    assert tables.about(found) in " ".join(filled.split())


def test_runs_on_an_idle_and_on_a_busy_machine_share_a_table(found):
    alone = {**found, "waiting": {"GOMP_SPINCOUNT": "1000"}}
    busy = {**found, "rows": found["rows"][1:3], "waiting": {"OMP_WAIT_POLICY": "PASSIVE"}}
    busy["settings"] = {**found["settings"], "neighbours": 2}
    fewer = {**busy, "rows": found["rows"][1:2]}
    head, first, second = tables.side_by_side([alone, busy, fewer], tables.load)
    passive = "beside 2 busy processes, passive"
    assert head == ["measurement", "alone, 1,000 spins", passive, passive]
    _, *ratios = ("{median:.2f} ({min:.2f} to {max:.2f})".format(**row["ratio"]) for row in found["rows"][:3])
    assert first == [found["rows"][1]["what"], ratios[0], ratios[0], ratios[0]]
    assert second == [found["rows"][2]["what"], ratios[1], ratios[1], "–"]


def test_the_headline_table_finds_its_speed_measurements(found):
    update_tables = load_script(SCRIPTS / "update_tables.py")
    assert {update_tables.TIMED_AS_TRAINED, update_tables.TIMED_ALIKE} <= {row["what"] for row in found["rows"]}
    translated = json.loads((ROOT / "docs" / "measured" / "translation-speed.json").read_text(encoding="utf-8"))
    assert set(update_tables.EXPORTED_MODELS.values()) <= {row["model"] for row in translated["rows"]}


@pytest.mark.slow
@pytest.mark.skipif(package_version("ctranslate2") is None, reason="ctranslate2 is not installed")
def test_growth_is_measured_at_every_point_for_both_systems(monkeypatch, tmp_path):
    monkeypatch.setattr(growth, "SWEEPS", {"length": (4, 9), "beam": (1,), "batch": (3,), "vocabulary": (300,)})
    monkeypatch.setattr(growth, "USUAL", {"length": 5, "beam": 2, "batch": 2, "vocabulary": 400})
    monkeypatch.setattr(growth, "Settings", partial(systems.Settings, shortest=0))
    out = tmp_path / "growth.json"
    sizes = [size for size in SIZES if "vocabulary" not in size]
    done = CliRunner().invoke(growth.main, ["--out", str(out), *sizes], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    places = [(row["sweep"], row["length"], row["beam"], row["batch"], row["vocabulary"]) for row in rows]
    assert places == [
        ("length", 4, 2, 4, 400),
        ("length", 9, 2, 4, 400),
        ("beam", 5, 1, 2, 400),
        ("batch", 5, 2, 3, 400),
        ("vocabulary", 5, 2, 2, 300),
    ]
    for row in rows:
        assert list(row["microseconds"]) == ["inference engine", "CTranslate2"]
        assert all(len(times) == SMALL.pairs and min(times) > 0 for times in row["microseconds"].values())


@pytest.mark.slow
def test_cold_start_is_measured_by_part(tmp_path):
    model, out = tmp_path / "model", tmp_path / "cold-start.json"
    run("fairseq-resmlp", "export", GOLDEN, model)
    run("python", SCRIPTS / "benchmark" / "cold_start.py", f"tiny={model}", "--repeats", "1", "--out", out)
    (row,) = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert row["name"] == "tiny"
    expected = ["Python", "import of torch", "import of the package", "reading", "checksums", "building the translator"]
    assert list(row["parts"]) == [*expected, "first sentence", "second sentence"]
    long = [row["parts"][part] for part in ("Python", "import of torch", "import of the package")]
    assert all(part["cpu"] > 0 and part["wall"] > 0 for part in long)
    assert row["command"]["memory"] >= row["torch"]["memory"] > 50  # equal below the memory of the process of the tests


@pytest.mark.slow
@pytest.mark.skipif(package_version("ctranslate2") is None, reason="ctranslate2 is not installed")
def test_a_trained_transformer_is_converted_for_ctranslate2_and_another_model_is_refused(toy, tmp_path):
    sizes = "--embed-dim 8 --ffn-embed-dim 8 --layers 1 --attention-heads 1".replace("--", "--SIDE-")
    small = " ".join(sizes.replace("SIDE", side) for side in ("encoder", "decoder"))
    options = "--share-all-embeddings --max-update 1 --max-tokens 200 --optimizer adam --lr 1e-3 --cpu"
    for arch, more in (("transformer", small), ("resmlp_tiny", "")):
        words = [*options.split(), *more.split(), "--disable-validation", "--save-dir", tmp_path / arch]
        run("fairseq-train", toy / "data-bin", "--user-dir", PLUGIN, "--arch", arch, *words)
        for language in ("src", "tgt"):
            shutil.copy(toy / "data-bin" / f"dict.{language}.txt", tmp_path / arch)
    convert = ("python", SCRIPTS / "benchmark" / "convert_transformer.py")
    run(*convert, tmp_path / "transformer", tmp_path / "converted")
    assert (tmp_path / "converted" / "model.bin").stat().st_size > 0
    for model, out, message in (
        ("transformer", "converted", "exists already"),
        ("resmlp_tiny", "other", "is not a Transformer of fairseq"),
    ):
        done = run(*convert, tmp_path / model, tmp_path / out, check=False)
        assert done.returncode == 1
        assert message in done.stderr and done.stderr.count("\n") == 1
