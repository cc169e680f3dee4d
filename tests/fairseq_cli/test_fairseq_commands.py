"""fairseq's commands with the plugin, as a user runs them."""

import itertools
import re
import shlex
import shutil

import pytest
import torch

from fairseq_resmlp import ResMLPModel
from fairseq_resmlp.checkpoints.checkpoint_file import read_checkpoint
from fairseq_resmlp.common.errors import InputError
from support.commands import run, train_options
from support.paths import GOLDEN, PLUGIN, ROOT


def generate(directory, *options, path="checkpoints/checkpoint_best.pt", check=True):
    """Run fairseq-generate with a beam of 4 on the test set of `directory`."""
    return run(
        *("fairseq-generate", directory / "data-bin", "--user-dir", PLUGIN, "--cpu", "--beam", "4"),
        *("--path", directory / path, *options),
        cwd=directory,
        check=check,
    )


def hypotheses(text, kind="H"):
    """Parse the output of fairseq-generate or -interactive into {sentence number: text of its best hypothesis}."""
    found = {}
    for line in text.splitlines():
        match = re.match(rf"{kind}-(\d+)\t(.*)", line)
        if match:
            found.setdefault(int(match[1]), match[2].split("\t")[-1])
    return found


def test_training_learns(trained):
    log = (trained / "train.log").read_text()
    losses = [float(loss) for loss in re.findall(r"valid on 'valid' subset \| loss ([\d.]+)", log)]
    assert len(losses) == 3
    assert losses[0] > losses[1] > losses[2]
    for name, value in parameters(trained / "checkpoints" / "checkpoint_last.pt").items():
        if re.fullmatch(r"decoder\.layers\.\d+\.mixing\.A", name):
            assert value.any() and (value.triu(1) == 0).all()


def test_generate_translates_every_line_in_beam_search(trained):
    done = generate(trained)
    assert sorted(hypotheses(done.stdout)) == list(range(21))
    assert "Translated 21 sentences" in done.stdout + done.stderr


def test_translations_do_not_depend_on_batch_size_or_padding_side(trained):
    expected = hypotheses(generate(trained, "--batch-size", "1").stdout)
    for options in (["--batch-size", "7"], ["--max-tokens", "50"], ["--left-pad-source", "--batch-size", "21"]):
        assert hypotheses(generate(trained, *options).stdout) == expected


def lines(done, kind):
    """Parse all lines of one kind into {sentence number: [last field of each line]}, best hypothesis first."""
    found = {}
    for index, rest in re.findall(rf"^{kind}-(\d+)\t?(.*)$", done.stdout, re.M):
        found.setdefault(int(index), []).append(rest.split("\t")[-1])
    return found


def test_nbest_returns_as_many_different_hypotheses(trained):
    found = lines(generate(trained, "--nbest", "4"), "H")
    assert sorted(found) == list(range(21))
    assert all(len(set(texts)) == 4 for texts in found.values())


def test_diverse_beam_search_works_beyond_the_first_batch_and_changes_the_result(trained):
    options = ("--nbest", "4", "--batch-size", "8")
    diverse = generate(trained, *options, "--diverse-beam-groups", "2", "--diverse-beam-strength", "5")
    assert sorted(lines(diverse, "H")) == list(range(21))
    assert lines(diverse, "H") != lines(generate(trained, *options), "H")


def test_sampling_is_determined_by_its_seed(trained):
    options = ("--sampling", "--nbest", "4", "--sampling-topk", "20", "--temperature", "2")
    first, again, other = (lines(generate(trained, *options, "--seed", seed), "H") for seed in ("1", "1", "2"))
    assert sorted(first) == list(range(21))
    assert first == again != other


def test_match_source_len_gives_translations_as_long_as_the_source(trained):
    done = generate(trained, "--match-source-len")
    sources, texts = lines(done, "S"), lines(done, "H")
    assert len(texts) == 21
    # One more, because fairseq also counts the end-of-sentence token of the source.
    assert {len(texts[i][0].split()) - len(sources[i][0].split()) for i in texts if sources[i][0]} == {1}


def test_no_repeat_ngram_size_forbids_repeated_bigrams(trained):
    for (text,) in lines(generate(trained, "--no-repeat-ngram-size", "2"), "H").values():
        words = text.split()
        bigrams = list(itertools.pairwise(words))
        assert len(set(bigrams)) == len(bigrams)


def test_score_reference_scores_the_references(trained):
    done = generate(trained, "--score-reference")
    assert lines(done, "H") == lines(done, "T")
    assert len(lines(done, "H")) == 21


def test_replace_unk_copies_the_aligned_source_word(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "toy")
    directory = tmp_path / "toy"
    for language in ("src", "tgt"):  # --replace-unk needs raw text
        shutil.copy(directory / f"test.{language}", directory / "data-bin" / f"test.src-tgt.{language}")
    # With a bonus, the unknown word becomes the whole translation.
    options = ("--print-alignment", "hard", "--dataset-impl", "raw", "--unkpen", "-50", "--max-len-b", "4")
    assert "<unk>" in lines(generate(directory, *options), "H")[0][0]
    done = generate(directory, *options, "--replace-unk", "")
    sources, alignments = lines(done, "S"), lines(done, "A")
    for index, (text,) in lines(done, "H").items():
        pairs = [tuple(map(int, pair.split("-"))) for pair in alignments[index][0].split()]
        assert text.split() == [sources[index][0].split()[s] for s, _ in pairs] or not sources[index][0]


def test_prefix_is_kept(trained):
    # On the validation set, because fairseq's search fails on an empty target whose prefix is its end.
    done = generate(trained, "--prefix-size", "1", "--gen-subset", "valid")
    assert len(hypotheses(done.stdout)) == 13
    targets = {int(i): text for i, text in re.findall(r"^T-(\d+)\t(.*)$", done.stdout, re.M)}
    for index, text in hypotheses(done.stdout).items():
        assert text.split()[:1] == targets[index].split()[:1]


@pytest.mark.slow
def test_an_ensemble_of_equal_models_is_that_model_and_of_different_models_is_neither(trained):
    def scores(*names):
        path = ":".join(str(trained / "checkpoints" / name) for name in names)
        return re.findall(r"^H-(\d+\t[^\t]*)\t", generate(trained, path=path).stdout, re.M)

    first, second = scores("checkpoint3.pt"), scores("checkpoint1.pt")
    assert scores("checkpoint3.pt", "checkpoint3.pt") == first
    both = scores("checkpoint3.pt", "checkpoint1.pt")
    assert len(both) == len(first) == 21
    assert both not in (first, second)


def test_alignments_do_not_depend_on_the_padding_side_and_stay_within_the_source(trained):
    left = generate(trained, "--print-alignment", "hard", "--batch-size", "21").stdout
    right = generate(trained, "--print-alignment", "hard", "--batch-size", "21", "--left-pad-source").stdout
    alignments = hypotheses(left, "A")
    assert alignments == hypotheses(right, "A")
    sources = {int(i): text.split() for i, text in re.findall(r"^S-(\d+)\t?(.*)$", left, re.M)}
    texts = hypotheses(left)
    for index, alignment in alignments.items():
        pairs = [tuple(map(int, pair.split("-"))) for pair in alignment.split()]
        assert all(s < len(sources[index]) and t < len(texts[index].split()) for s, t in pairs)
    assert sum(len(a) > 0 for a in alignments.values()) >= 15


def test_interactive_translates_every_line_in_order_including_empty_ones(trained):
    lines = ["w1 w2", "", "w3", "w1 w2"]
    for buffer_size in ("1", "4"):
        done = run(
            *("fairseq-interactive", trained / "data-bin", "--user-dir", PLUGIN, "--cpu", "--beam", "4"),
            *("-s", "src", "-t", "tgt", "--path", trained / "checkpoints" / "checkpoint_best.pt"),
            *("--buffer-size", buffer_size, "--max-tokens", "100"),
            stdin="\n".join(lines) + "\n",
        )
        found = hypotheses(done.stdout)
        assert sorted(found) == [0, 1, 2, 3]
        assert found[0] == found[3] != ""


def test_a_test_set_with_a_line_longer_than_n_is_rejected_in_one_line(trained):
    done = generate(trained, "--model-overrides", "{'encoder_max_positions': 5}", check=False)
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert re.match(r"error: sentence \d+ of test: a source sentence of \d tokens .* exceeds N = 5", last)
    assert "Traceback" not in done.stderr


def test_n_can_be_raised_for_a_trained_model(trained):
    done = run(
        *("fairseq-interactive", trained / "data-bin", "--user-dir", PLUGIN, "--cpu"),
        *("-s", "src", "-t", "tgt", "--path", trained / "checkpoints" / "checkpoint_best.pt"),
        *("--model-overrides", "{'encoder_max_positions': 31}"),
        stdin="w1 " * 30 + "\n",
    )
    assert sorted(hypotheses(done.stdout)) == [0]


def test_validate_reports_the_loss_of_the_last_validation_in_training(trained):
    done = run(
        *("fairseq-validate", trained / "data-bin", "--user-dir", PLUGIN, "--cpu", "--task", "translation"),
        *("--max-tokens", "400"),
        *("--path", trained / "checkpoints" / "checkpoint_last.pt"),
    )
    log = (trained / "train.log").read_text()
    expected = re.findall(r"valid on 'valid' subset \| loss ([\d.]+)", log)[-1]
    assert re.findall(r"\| loss ([\d.]+)", done.stdout + done.stderr)[-1] == expected


def parameters(file):
    """Load the parameters in a checkpoint file."""
    return torch.load(file)["model"]


def test_a_moving_average_of_the_weights_can_be_kept(toy, tmp_path):
    run("fairseq-train", *train_options(toy / "data-bin", tmp_path), "--max-update", "2", "--store-ema")
    state = torch.load(tmp_path / "checkpoint_last.pt")
    assert state["extra_state"]["ema"].keys() == state["model"].keys()


def test_interval_checkpoints_are_also_written_at_the_end_of_an_epoch(toy, tmp_path):
    options = (*train_options(toy / "data-bin", tmp_path), "--save-interval-updates", "1", "--no-epoch-checkpoints")
    run("fairseq-train", *options, "--max-epoch", "2")
    saved = {int(path.stem.rsplit("_", 1)[1]): path for path in tmp_path.glob("checkpoint_*_*.pt")}
    last = parameters(tmp_path / "checkpoint_last.pt")
    assert sorted(saved) == list(range(1, max(saved) + 1))
    assert all(torch.equal(value, last[name]) for name, value in parameters(saved[max(saved)]).items())


def test_training_can_select_checkpoints_by_bleu_and_resume(toy, tmp_path):
    options = [
        *train_options(toy / "data-bin", tmp_path),
        *("--eval-bleu", "--eval-bleu-args", '{"beam": 2}', "--best-checkpoint-metric", "bleu"),
        "--maximize-best-checkpoint-metric",
    ]
    run("fairseq-train", *options, "--max-epoch", "1")
    done = run("fairseq-train", *options, "--max-epoch", "2")
    assert "Loaded checkpoint" in done.stdout + done.stderr
    assert re.search(r"epoch 002 \| valid .* bleu [\d.]+", done.stdout + done.stderr)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler found: apt-get install g++")
def test_compiled_training_writes_the_same_checkpoint(toy, tmp_path):
    states = []
    for name, *option in (("plain",), ("compiled", "--compile")):
        options = [*train_options(toy / "data-bin", tmp_path / name), "--encoder-layers", "1", "--decoder-layers", "1"]
        options += ["--max-epoch", "2", "--eval-bleu", "--eval-bleu-args", '{"beam": 2}', *option]
        done = run("fairseq-train", *options, env={"CXX": "g++"})
        assert "--compile has no effect" not in done.stdout + done.stderr
        states.append(read_checkpoint(str(tmp_path / name / "checkpoint_last.pt")))
    plain, compiled = states
    assert compiled["cfg"]["model"]["compile"] and not plain["cfg"]["model"]["compile"]
    assert compiled["model"].keys() == plain["model"].keys()
    assert compiled["extra_state"]["val_loss"] == pytest.approx(plain["extra_state"]["val_loss"], abs=1e-3)
    done = generate(toy, path=tmp_path / "compiled" / "checkpoint_last.pt")
    assert sorted(hypotheses(done.stdout)) == list(range(21))
    assert "torch.compile" not in done.stderr


@pytest.mark.slow
def test_hydra_trains_the_example_with_the_options_of_its_architecture(toy, tmp_path):
    places = (f"task.data={toy / 'data-bin'}", f"common.user_dir={PLUGIN}", f"checkpoint.save_dir={tmp_path}")
    command = ("fairseq-hydra-train", "--config-dir", ROOT / "examples" / "grammar", "--config-name", "hydra", *places)
    run(*command, "common.cpu=true", "optimization.max_update=5", "+model.encoder_max_positions=24", cwd=tmp_path)
    state = torch.load(tmp_path / "checkpoint_best.pt")
    sizes = ("encoder_embed_dim", "decoder_layers", "encoder_max_positions", "dropout")
    assert [state["cfg"]["model"][name] for name in sizes] == [128, 2, 24, 0.0]
    assert state["model"]["encoder.layers.0.mixing.A"].any()


@pytest.fixture(scope="module")
def model_directory(trained, tmp_path_factory):
    """Model directory that follows fairseq's hub conventions."""
    directory = tmp_path_factory.mktemp("model")
    shutil.copy(trained / "checkpoints" / "checkpoint_best.pt", directory / "model.pt")
    for language in ("src", "tgt"):
        shutil.copy(trained / "data-bin" / f"dict.{language}.txt", directory)
    return directory


def test_hub_translates_like_generate(trained, model_directory):
    hub = ResMLPModel.from_pretrained(model_directory)
    sources = (trained / "test.src").read_text().splitlines()
    expected = hypotheses(generate(trained).stdout)
    assert hub.translate(sources, beam=4) == [expected[i] for i in range(len(sources))]


def test_hub_keeps_empty_lines_in_place(model_directory):
    hub = ResMLPModel.from_pretrained(model_directory)
    found = hub.translate(["w1 w2", "", "w1 w2"])
    assert len(found) == 3
    assert found[0] == found[2]


def test_the_hub_interface_prints_nothing():
    code = f"""
from fairseq_resmlp import ResMLPModel
from fairseq_resmlp.checkpoints.checkpoint_file import read_checkpoint
import logging
assert (logging.root.level, logging.root.handlers) == (logging.WARNING, [])
assert len(ResMLPModel.from_pretrained({str(GOLDEN)!r}).translate(["w1 w2"])) == 1
"""
    done = run("python", "-c", code, cwd=ROOT)
    assert done.stdout + done.stderr == ""


def test_hub_warns_if_text_would_be_read_as_subwords(model_directory, caplog):
    ResMLPModel.from_pretrained(model_directory)
    expected = f"sentencepiece.bpe.model not found in {model_directory}: input and output are subword tokens"
    assert expected in caplog.text


def test_hub_reports_what_is_missing_in_a_model_directory(model_directory, tmp_path):
    directory = shutil.copytree(model_directory, tmp_path / "model")
    message = r"model\.pt is a file: pass its directory, and the file name as checkpoint_file="
    with pytest.raises(InputError, match=message):
        ResMLPModel.from_pretrained(directory / "model.pt")
    message = r"directory /nowhere not found: specify the directory of .* as data_name_or_path="
    with pytest.raises(InputError, match=message):
        ResMLPModel.from_pretrained(directory, data_name_or_path="/nowhere")
    (directory / "dict.tgt.txt").unlink()
    with pytest.raises(InputError, match=r"dict\.tgt\.txt not found: specify the directory of"):
        ResMLPModel.from_pretrained(directory)


def test_hub_reports_a_missing_checkpoint(tmp_path):
    with pytest.raises(InputError, match=r"checkpoint model\.pt not found in .*checkpoint_file="):
        ResMLPModel.from_pretrained(tmp_path)


def test_the_installed_package_can_be_the_user_dir(toy, tmp_path):
    run(
        *("python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"),
        *("--target", tmp_path / "site", ROOT),
    )
    options = train_options(toy / "data-bin", tmp_path / "checkpoints")
    options[options.index(PLUGIN)] = tmp_path / "site" / "fairseq_resmlp"
    run("fairseq-train", *options, "--max-update", "1", cwd=tmp_path)
    assert (tmp_path / "checkpoints" / "checkpoint_last.pt").exists()


def test_an_imported_copy_and_another_one_as_user_dir_do_not_conflict(toy, tmp_path):
    shutil.copytree(PLUGIN, tmp_path / "fairseq_resmlp")
    code = "import fairseq_resmlp; from fairseq_cli.train import cli_main; cli_main()"
    options = train_options(toy / "data-bin", tmp_path / "checkpoints")
    done = run("python", "-c", code, *options, "--max-update", "1", cwd=tmp_path)
    assert f"is already imported from {tmp_path / 'fairseq_resmlp'}: ignoring {PLUGIN}" in done.stdout + done.stderr
    assert (tmp_path / "checkpoints" / "checkpoint_last.pt").exists()


def documented_commands(page, name):
    """Return the commands of a page that begin with `name`, each as a list of words."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.split() for line in text.split("\n") if line.startswith(f"{name} ")]


@pytest.mark.parametrize(
    ("page", "arch"),
    [
        ("README.md", "resmlp_small"),
        ("docs/quickstart.md", "resmlp_tiny"),
        pytest.param("docs/training.md", "resmlp_base", marks=pytest.mark.slow),
    ],
)
def test_the_documented_commands_run(toy, tmp_path, page, arch):
    train = documented_commands(page, "fairseq-train")[0]
    translate = [*documented_commands(page, "fairseq-generate"), *documented_commands("README.md", "fairseq-generate")][
        0
    ]
    assert train[train.index("--arch") + 1] == arch
    train[1], train[train.index("--save-dir") + 1] = toy / "data-bin", tmp_path
    translate[1], translate[translate.index("--path") + 1] = toy / "data-bin", tmp_path / "checkpoint_best.pt"
    run(*train, "--cpu", "--max-update", "2", cwd=ROOT)
    done = run(*translate, "--cpu", "--max-len-b", "5", cwd=ROOT)
    assert sorted(lines(done, "H")) == list(range(21))


def test_training_continues_with_another_n_if_the_optimizer_is_reset(trained, tmp_path):
    options = train_options(trained / "data-bin", tmp_path)
    larger = ["--encoder-max-positions=32", "--restore-file", trained / "checkpoints" / "checkpoint_last.pt"]
    done = run("fairseq-train", *options, *larger, "--reset-optimizer", "--max-epoch", "4")
    log = done.stdout + done.stderr
    assert "the encoder of this checkpoint has N = 24 and was resized to --encoder-max-positions 32" in log
    assert parameters(tmp_path / "checkpoint_last.pt")["encoder.layers.0.mixing.A"].shape == (32, 32)
    assert re.search(r"epoch 004 \| valid", log)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--decoder-attention-heads=3"], "--decoder-embed-dim 16 is not a multiple of --decoder-attention-heads 3"),
        (["--encoder-embed-dim=8"], "requires --encoder-embed-dim 8 to equal --decoder-embed-dim 16"),
        (["--left-pad-target"], "--left-pad-target is not supported"),
    ],
)
def test_contradictory_options_are_rejected_in_one_line(toy, tmp_path, change, message):
    done = run("fairseq-train", *train_options(toy / "data-bin", tmp_path), *change, check=False)
    assert done.returncode != 0
    assert message in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_shards_translate_disjoint_parts_of_the_set_like_the_whole(trained):
    parts = [generate(trained, "--max-tokens", "40", "--num-shards", "2", "--shard-id", i).stdout for i in "01"]
    first, second = (re.findall(r"^[HP]-\d+\t.*$", part, re.M) for part in parts)
    whole = re.findall(r"^[HP]-\d+\t.*$", generate(trained, "--max-tokens", "40").stdout, re.M)
    assert first and second and sorted(first + second) == sorted(whole)


def test_lines_whose_constraints_cannot_be_met_do_not_stop_the_others(trained):
    done = run(
        *("fairseq-interactive", trained / "data-bin", "--user-dir", PLUGIN, "--cpu", "--constraints"),
        *("-s", "src", "-t", "tgt", "--path", trained / "checkpoints" / "checkpoint_best.pt"),
        *("--buffer-size", "4", "--batch-size", "4"),
        stdin=f"w1 w2\t{'w3 ' * 40}\nw4\tw9 w8\nw5\nw6\t\tw7\n",
    )
    found = hypotheses(done.stdout)
    assert sorted(found) == [0, 1, 2, 3]
    assert "w9 w8" in found[1] and "w7" in found[3]
    assert (done.stdout + done.stderr).count("contains the 40 tokens of the constraints of a line") == 1


# Runs a command of fairseq without the plugin, except for the compiled functions, without which fairseq fails.
WITHOUT_PLUGIN = """
import importlib, runpy, sys, types
for name in ("fairseq_resmlp", "fairseq_resmlp.common", "fairseq_resmlp.common.errors"):
    sys.modules[name] = types.ModuleType(name)
sys.modules[name].InputError = ValueError
runpy.run_path({extensions!r})["supply_missing_extensions"]()
importlib.import_module("fairseq_cli." + sys.argv.pop(1)).cli_main()
"""


@pytest.mark.slow
def test_stock_models_train_and_translate_as_without_the_plugin(toy, tmp_path):
    script = tmp_path / "without_plugin.py"
    script.write_text(WITHOUT_PLUGIN.format(extensions=str(PLUGIN / "fairseq_patches" / "extensions.py")))
    weights, translations = [], []
    for train, translate in (
        (("python", script, "train"), ("python", script, "generate")),
        (("fairseq-train", "--user-dir", PLUGIN), ("fairseq-generate", "--user-dir", PLUGIN)),
    ):
        directory = tmp_path / f"checkpoints{len(weights)}"
        run(
            *(*train, toy / "data-bin", "--arch", "transformer_tiny", "--share-all-embeddings"),
            *("--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--lr", "0.01", "--lr-scheduler", "inverse_sqrt"),
            *("--warmup-updates", "4", "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"),
            *("--dropout", "0.1", "--max-tokens", "400", "--required-batch-size-multiple", "1", "--max-epoch", "2"),
            *("--cpu", "--seed", "1", "--num-workers", "0", "--save-dir", directory),
        )
        state = torch.load(directory / "checkpoint_last.pt", weights_only=False)
        weights.append((state["model"], state["last_optimizer_state"]["state"]))
        done = run(
            *(*translate, toy / "data-bin", "--path", directory / "checkpoint_best.pt", "--cpu"),
            *("--required-batch-size-multiple", "1", "--print-alignment", "--nbest", "2"),
            env={"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},  # without the plugin, fairseq cannot load its checkpoints
        )
        translations.append(re.findall(r"^[SHPDA]-\d+\t.*$", done.stdout, re.M))
    (model, optimizer), (model_with_plugin, optimizer_with_plugin) = weights
    assert model.keys() == model_with_plugin.keys()
    assert all(torch.equal(value, model_with_plugin[name]) for name, value in model.items())
    for number, state in optimizer.items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(optimizer_with_plugin[number][name]))
    assert translations[0] == translations[1] and len(translations[0]) == 21 * (1 + 2 * 4)


# What users of fairseq's commands mistype, with a part of the line that they get.
MISTAKES = {
    "fairseq-train": [
        (["--max-tokens", "5"], "sentence 2 of valid has 9 tokens"),
        (["--max-tokens-valid", "5"], "--max-tokens-valid"),
        (["--distributed-world-size", "2"], "--distributed-world-size 2 with 0 GPUs"),
        (["--task", "translation_multi_simple_epoch"], "--lang-pairs is required"),
        (["--finetune-from-model", "a.pt", "--reset-optimizer"], "--finetune-from-model can not be set together with"),
        (["--ddp-backend", "fully_sharded"], "pip install fairscale"),
        (["--optimizer", "adam"], "please reset the optimizer (--reset-optimizer)"),
        (["-s", "en"], "language en not found in "),
        (["--valid-subset", "dev"], "Dataset not found: dev"),
    ],
    "fairseq-generate": [
        (["--sampling"], "--sampling requires --nbest to be equal to --beam"),
        (["--sampling-topk", "4"], "--sampling-topk requires --sampling"),
        (["--diverse-beam-groups", "3"], "requires --beam to be divisible"),
        (["--replace-unk", "x", "--print-alignment"], "--replace-unk requires a raw text dataset"),
        (["--min-len", "300"], "--min-len 300 is larger than the maximum length"),
        (["--model-overrides", "{'encoder_layers': 'two'}"], "--encoder-layers 'two' is not a number"),
        (["--truncate-source", "--model-overrides", "{'encoder_max_positions': 5}"], "--max-source-positions 5"),
        (["--gen-subset", "tst"], "Dataset not found: tst"),
    ],
    "fairseq-interactive": [
        (["--batch-size", "5"], "--batch-size cannot be larger than --buffer-size"),
        (["--input", "nowhere.txt"], "nowhere.txt"),
    ],
    "fairseq-validate": [
        (["--task", "translation"], "--max-tokens or --batch-size"),
        (["--task", "translation", "--max-tokens", "4"], "sentence 2 of valid has 9 tokens"),
        (["--task", "translation", "--max-tokens", "400", "--valid-subset", "dev"], "Dataset not found: dev"),
    ],
    "fairseq-preprocess": [
        (["-s", "src", "-t", "tgt"], "--trainpref must be set"),
        (["-s", "src", "-t", "tgt", "--trainpref", "nowhere"], "nowhere.src"),
    ],
    "fairseq-hydra-train": [
        (["dataset.max_tokens=0"], "--max-tokens 0 is less than 1"),
        (["dataset.max_tokens=5"], "sentence 2 of valid has 9 tokens"),
        (["checkpoint.best_checkpoint_metric=bleu"], "add --eval-bleu"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", MISTAKES)
def test_mistakes_of_users_are_reported_in_one_line(trained, tmp_path, command, record_promise):
    path, plugin = trained / "checkpoints" / "checkpoint_best.pt", ("--user-dir", PLUGIN)
    for mistake, message in MISTAKES[command]:
        if command == "fairseq-train":
            options = [*train_options(trained / "data-bin", trained / "checkpoints"), "--max-epoch", "9", "--no-save"]
        elif command == "fairseq-hydra-train":
            places = (f"task.data={trained / 'data-bin'}", f"common.user_dir={PLUGIN}", "common.cpu=true")
            options = ["--config-dir", ROOT / "examples" / "grammar", "--config-name", "hydra", *places]
        elif command == "fairseq-preprocess":
            options = [*plugin, "--destdir", tmp_path]
        else:
            options = [trained / "data-bin", *plugin, "--path", path, "--cpu"]
        done = run(command, *options, *mistake, cwd=tmp_path, check=False)
        assert done.returncode == 1, (mistake, done.stderr)
        assert "Traceback" not in done.stdout + done.stderr, mistake
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and message in errors[0], (mistake, errors)
    number = sum(map(len, MISTAKES.values()))
    record_promise("Mistakes in the options of fairseq's commands are reported in one line", f"{number} mistakes")


@pytest.mark.slow
def test_output_that_is_closed_or_full_is_an_error(trained):
    options = ("--cpu", "--max-len-b", "3", "--path", trained / "checkpoints" / "checkpoint_best.pt")
    words = map(str, ("fairseq-generate", trained / "data-bin", "--user-dir", PLUGIN, *options))
    command = shlex.join(words)
    for redirection, reason in ((">&-", "Bad file descriptor"), ("> /dev/full", "No space left on device")):
        done = run("sh", "-c", f"{command} {redirection}", env={}, check=False)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1] == f"error: cannot write standard output: {reason}"
