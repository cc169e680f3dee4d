"""fairseq's commands with the plugin, as a user types them."""

import re
import shutil

import pytest
import torch
from conftest import PLUGIN, ROOT, run, train_options

from fairseq_resmlp import ResMLPModel
from fairseq_resmlp.errors import InputError


def generate(folder, *options, path="checkpoints/checkpoint_best.pt", check=True):
    return run(
        *("fairseq-generate", folder / "data-bin", "--user-dir", PLUGIN, "--cpu", "--beam", "4"),
        *("--path", folder / path, *options),
        cwd=folder,
        check=check,
    )


def hypotheses(text, kind="H"):
    """{sentence: text of its first hypothesis} from fairseq-generate's or -interactive's output."""
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


def test_generate_gives_the_same_for_every_batch_size_and_padding_side(trained):
    expected = hypotheses(generate(trained, "--batch-size", "1").stdout)
    for options in (["--batch-size", "7"], ["--max-tokens", "50"], ["--left-pad-source", "--batch-size", "21"]):
        assert hypotheses(generate(trained, *options).stdout) == expected


def lines(done, kind):
    """{sentence: [fields after its number]} of every line of one kind, best hypothesis first."""
    found = {}
    for index, rest in re.findall(rf"^{kind}-(\d+)\t?(.*)$", done.stdout, re.M):
        found.setdefault(int(index), []).append(rest.split("\t")[-1])
    return found


def test_nbest_gives_that_many_different_hypotheses(trained):
    found = lines(generate(trained, "--nbest", "4"), "H")
    assert sorted(found) == list(range(21))
    assert all(len(set(texts)) == 4 for texts in found.values())


def test_diverse_beam_search_works_over_several_batches_and_searches_otherwise(trained):
    options = ("--nbest", "4", "--batch-size", "8")
    diverse = generate(trained, *options, "--diverse-beam-groups", "2", "--diverse-beam-strength", "5")
    assert sorted(lines(diverse, "H")) == list(range(21))
    assert lines(diverse, "H") != lines(generate(trained, *options), "H")


def test_sampling_follows_its_seed(trained):
    options = ("--sampling", "--nbest", "4", "--sampling-topk", "20", "--temperature", "2")
    one, same, other = (lines(generate(trained, *options, "--seed", seed), "H") for seed in ("1", "1", "2"))
    assert sorted(one) == list(range(21))
    assert one == same != other


def test_match_source_len_gives_translations_as_long_as_the_source(trained):
    done = generate(trained, "--match-source-len")
    sources, texts = lines(done, "S"), lines(done, "H")
    assert len(texts) == 21
    # fairseq-fixed counts the source's end-of-sentence mark, too, fairseq 0.12.2 does not.
    longer = {len(texts[i][0].split()) - len(sources[i][0].split()) for i in texts if sources[i][0]}
    assert longer in ({0}, {1})


def test_no_repeat_ngram_size_forbids_repeated_bigrams(trained):
    for (text,) in lines(generate(trained, "--no-repeat-ngram-size", "2"), "H").values():
        words = text.split()
        bigrams = list(zip(words, words[1:]))
        assert len(set(bigrams)) == len(bigrams)


def test_score_reference_scores_the_references(trained):
    done = generate(trained, "--score-reference")
    assert lines(done, "H") == lines(done, "T")
    assert len(lines(done, "H")) == 21


def test_replace_unk_copies_the_aligned_source_word(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "toy")
    folder = tmp_path / "toy"
    for language in ("src", "tgt"):  # raw text, as fairseq wants it for --replace-unk
        shutil.copy(folder / f"test.{language}", folder / "data-bin" / f"test.src-tgt.{language}")
    # A bonus on the unknown word makes it the whole translation.
    options = ("--print-alignment", "hard", "--dataset-impl", "raw", "--unkpen", "-50", "--max-len-b", "4")
    assert "<unk>" in lines(generate(folder, *options), "H")[0][0]
    done = generate(folder, *options, "--replace-unk", "")
    sources, alignments = lines(done, "S"), lines(done, "A")
    for index, (text,) in lines(done, "H").items():
        pairs = [tuple(map(int, pair.split("-"))) for pair in alignments[index][0].split()]
        assert text.split() == [sources[index][0].split()[s] for s, _ in pairs] or not sources[index][0]


def test_prefix_is_kept(trained):
    # The validation set: fairseq's search cannot end an empty target's hypotheses when the prefix is its end.
    done = generate(trained, "--prefix-size", "1", "--gen-subset", "valid")
    assert len(hypotheses(done.stdout)) == 13
    targets = {int(i): text for i, text in re.findall(r"^T-(\d+)\t(.*)$", done.stdout, re.M)}
    for index, text in hypotheses(done.stdout).items():
        assert text.split()[:1] == targets[index].split()[:1]


def test_an_ensemble_of_a_model_with_itself_is_the_model_and_with_another_is_neither(trained):
    def scores(*names):
        path = ":".join(str(trained / "checkpoints" / name) for name in names)
        return re.findall(r"^H-(\d+\t[^\t]*)\t", generate(trained, path=path).stdout, re.M)

    one, two = scores("checkpoint3.pt"), scores("checkpoint1.pt")
    assert scores("checkpoint3.pt", "checkpoint3.pt") == one
    both = scores("checkpoint3.pt", "checkpoint1.pt")
    assert len(both) == len(one) == 21
    assert both not in (one, two)


def test_alignments_are_the_same_on_both_padding_sides_and_stay_inside_the_source(trained):
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


def test_interactive_answers_every_line_in_order_with_empty_ones_among_them(trained):
    lines = ["w1 w2", "", "w3", "w1 w2"]
    for buffer_size in ("1", "4"):
        done = run(
            *("fairseq-interactive", trained / "data-bin", "--user-dir", PLUGIN, "--cpu", "--beam", "4"),
            *("-s", "src", "-t", "tgt", "--path", trained / "checkpoints" / "checkpoint_best.pt"),
            *("--buffer-size", buffer_size, "--max-tokens", "100"),
            stdin="\n".join(lines) + "\n",
        )
        got = hypotheses(done.stdout)
        assert sorted(got) == [0, 1, 2, 3]
        assert got[0] == got[3] != ""


def test_a_set_with_a_line_longer_than_n_is_refused_in_one_clear_line(trained):
    done = generate(trained, "--model-overrides", "{'encoder_max_positions': 5}", check=False)
    assert done.returncode != 0
    assert re.match(
        r"error: sentence \d+ of test: a source of \d tokens .* longer than N = 5", done.stderr.splitlines()[-1]
    )
    assert "Traceback" not in done.stderr


def test_n_can_be_raised_for_a_trained_model(trained):
    done = run(
        *("fairseq-interactive", trained / "data-bin", "--user-dir", PLUGIN, "--cpu"),
        *("-s", "src", "-t", "tgt", "--path", trained / "checkpoints" / "checkpoint_best.pt"),
        *("--model-overrides", "{'encoder_max_positions': 31}"),
        stdin="w1 " * 30 + "\n",
    )
    assert sorted(hypotheses(done.stdout)) == [0]


def test_validate_scores_the_same_as_training_did(trained):
    done = run(
        *("fairseq-validate", trained / "data-bin", "--user-dir", PLUGIN, "--cpu", "--task", "translation"),
        *("--max-tokens", "400"),
        *("--path", trained / "checkpoints" / "checkpoint_last.pt"),
    )
    log = (trained / "train.log").read_text()
    in_training = re.findall(r"valid on 'valid' subset \| loss ([\d.]+)", log)[-1]
    assert re.findall(r"\| loss ([\d.]+)", done.stdout + done.stderr)[-1] == in_training


def parameters(file):
    return torch.load(file)["model"]


def test_a_moving_average_of_the_weights_can_be_kept(toy, tmp_path):
    run("fairseq-train", *train_options(toy / "data-bin", tmp_path), "--max-update", "2", "--store-ema")
    state = torch.load(tmp_path / "checkpoint_last.pt")
    assert state["extra_state"]["ema"].keys() == state["model"].keys()


def test_every_interval_has_its_checkpoint_at_the_ends_of_epochs_too(toy, tmp_path):
    options = (*train_options(toy / "data-bin", tmp_path), "--save-interval-updates", "1", "--no-epoch-checkpoints")
    run("fairseq-train", *options, "--max-epoch", "2")
    saved = {int(path.stem.rsplit("_", 1)[1]): path for path in tmp_path.glob("checkpoint_*_*.pt")}
    last = parameters(tmp_path / "checkpoint_last.pt")
    assert sorted(saved) == list(range(1, max(saved) + 1))
    assert all(torch.equal(value, last[name]) for name, value in parameters(saved[max(saved)]).items())


def test_training_can_choose_by_bleu_and_resume_from_it(toy, tmp_path):
    options = [
        *train_options(toy / "data-bin", tmp_path),
        *("--eval-bleu", "--eval-bleu-args", '{"beam": 2}', "--best-checkpoint-metric", "bleu"),
        "--maximize-best-checkpoint-metric",
    ]
    run("fairseq-train", *options, "--max-epoch", "1")
    done = run("fairseq-train", *options, "--max-epoch", "2")
    assert "Loaded checkpoint" in done.stdout + done.stderr
    assert re.search(r"epoch 002 \| valid .* bleu [\d.]+", done.stdout + done.stderr)


def test_hydra_trains_by_the_example_and_takes_the_options_of_its_architecture(toy, tmp_path):
    places = (f"task.data={toy / 'data-bin'}", f"common.user_dir={PLUGIN}", f"checkpoint.save_dir={tmp_path}")
    command = ("fairseq-hydra-train", "--config-dir", ROOT / "examples" / "grammar", "--config-name", "hydra", *places)
    run(*command, "common.cpu=true", "optimization.max_update=5", "+model.encoder_max_positions=24", cwd=tmp_path)
    state = torch.load(tmp_path / "checkpoint_best.pt")
    sizes = ("encoder_embed_dim", "decoder_layers", "encoder_max_positions", "dropout")
    assert [state["cfg"]["model"][name] for name in sizes] == [128, 2, 24, 0.0]
    assert state["model"]["encoder.layers.0.mixing.A"].any()


@pytest.fixture(scope="module")
def model_folder(trained, tmp_path_factory):
    """A folder by fairseq's hub conventions."""
    folder = tmp_path_factory.mktemp("model")
    shutil.copy(trained / "checkpoints" / "checkpoint_best.pt", folder / "model.pt")
    for language in ("src", "tgt"):
        shutil.copy(trained / "data-bin" / f"dict.{language}.txt", folder)
    return folder


def test_hub_translates_like_generate(trained, model_folder):
    hub = ResMLPModel.from_pretrained(model_folder)
    sources = (trained / "test.src").read_text().splitlines()
    expected = hypotheses(generate(trained).stdout)
    assert hub.translate(sources, beam=4) == [expected[i] for i in range(len(sources))]


def test_hub_keeps_empty_lines_in_place(model_folder):
    hub = ResMLPModel.from_pretrained(model_folder)
    got = hub.translate(["w1 w2", "", "w1 w2"])
    assert len(got) == 3
    assert got[0] == got[2]


def test_in_python_nothing_is_printed_that_was_not_asked_for():
    code = f"""
from fairseq_resmlp import ResMLPModel
import logging
assert (logging.root.level, logging.root.handlers) == (logging.WARNING, [])
assert len(ResMLPModel.from_pretrained({str(ROOT / "tests" / "stored")!r}).translate(["w1 w2"])) == 1
"""
    done = run("python", "-c", code, cwd=ROOT)
    assert done.stdout + done.stderr == ""


def test_hub_warns_where_text_would_be_taken_for_pieces(model_folder, caplog):
    ResMLPModel.from_pretrained(model_folder)
    assert "has no sentencepiece.bpe.model: text is taken to be pieces" in caplog.text


def test_hub_names_what_a_folder_lacks(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    with pytest.raises(
        InputError, match=r"model\.pt is a file: give its folder, and the file in it by checkpoint_file="
    ):
        ResMLPModel.from_pretrained(folder / "model.pt")
    with pytest.raises(InputError, match=r"no folder /nowhere: name the folder of .* as data_name_or_path="):
        ResMLPModel.from_pretrained(folder, data_name_or_path="/nowhere")
    (folder / "dict.tgt.txt").unlink()
    with pytest.raises(InputError, match=r"there is no .*dict\.tgt\.txt: name the folder of"):
        ResMLPModel.from_pretrained(folder)


def test_hub_names_a_missing_checkpoint(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint model.pt in .*checkpoint_file="):
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


def test_an_imported_copy_and_another_as_user_dir_do_not_clash(toy, tmp_path):
    shutil.copytree(PLUGIN, tmp_path / "fairseq_resmlp")
    code = "import fairseq_resmlp; from fairseq_cli.train import cli_main; cli_main()"
    options = train_options(toy / "data-bin", tmp_path / "checkpoints")
    done = run("python", "-c", code, *options, "--max-update", "1", cwd=tmp_path)
    assert f"is already imported from {tmp_path / 'fairseq_resmlp'}: not using {PLUGIN}" in done.stdout + done.stderr
    assert (tmp_path / "checkpoints" / "checkpoint_last.pt").exists()


@pytest.mark.parametrize("arch", ["resmlp_tiny", "resmlp_base"])
def test_the_readmes_commands_run(toy, tmp_path, arch):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    train, translate = (
        next(command for command in readme.replace("\\\n", " ").split("\n") if command.startswith(name)).split()
        for name in ("fairseq-train demo", "fairseq-generate demo")
    )
    place = {"demo/data-bin": str(toy / "data-bin"), "checkpoints": str(tmp_path), "3": "1"}
    place["checkpoints/checkpoint_best.pt"] = str(tmp_path / "checkpoint_best.pt")
    assert train[train.index("--arch") + 1] == "resmlp_tiny"
    place["resmlp_tiny"] = arch
    run(*(place.get(part, part) for part in train), "--cpu", "--max-update", "2", cwd=ROOT)
    done = run(*(place.get(part, part) for part in translate), "--cpu", "--max-len-b", "5", cwd=ROOT)
    assert sorted(lines(done, "H")) == list(range(21))


def test_training_goes_on_with_another_n_once_the_optimizer_is_reset(trained, tmp_path):
    options = train_options(trained / "data-bin", tmp_path)
    larger = ["--encoder-max-positions=32", "--restore-file", trained / "checkpoints" / "checkpoint_last.pt"]
    done = run("fairseq-train", *options, *larger, "--reset-optimizer", "--max-epoch", "4")
    log = done.stdout + done.stderr
    assert "this checkpoint's encoder has N = 24, fitted to --encoder-max-positions 32" in log
    assert parameters(tmp_path / "checkpoint_last.pt")["encoder.layers.0.mixing.A"].shape == (32, 32)
    assert re.search(r"epoch 004 \| valid", log)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--decoder-attention-heads=3"], "--decoder-embed-dim 16 is not a multiple of --decoder-attention-heads 3"),
        (["--encoder-embed-dim=8"], "needs --encoder-embed-dim 8 equal to --decoder-embed-dim 16"),
        (["--left-pad-target"], "--left-pad-target is not supported"),
    ],
)
def test_impossible_options_are_refused_in_one_line(toy, tmp_path, change, message):
    done = run("fairseq-train", *train_options(toy / "data-bin", tmp_path), *change, check=False)
    assert done.returncode != 0
    assert message in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
