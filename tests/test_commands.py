"""fairseq's commands with the plugin, as a user types them."""

import re
import shutil

import pytest
import torch
from conftest import PLUGIN, ROOT, TINY, run, train_options

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
    losses = [float(x) for x in re.findall(r"valid on 'valid' subset \| loss ([\d.]+)", (trained / "train.log").read_text())]
    assert len(losses) == 3
    assert losses[0] > losses[1] > losses[2]


def test_generate_translates_every_line_in_beam_search(trained):
    done = generate(trained)
    assert sorted(hypotheses(done.stdout)) == list(range(21))
    assert "Translated 21 sentences" in done.stdout + done.stderr


def test_generate_gives_the_same_for_every_batch_size_and_padding_side(trained):
    expected = hypotheses(generate(trained, "--batch-size", "1").stdout)
    for options in (["--batch-size", "7"], ["--max-tokens", "50"], ["--left-pad-source", "--batch-size", "21"]):
        assert hypotheses(generate(trained, *options).stdout) == expected


@pytest.mark.parametrize(
    "options",
    [
        ["--diverse-beam-groups", "2", "--diverse-beam-strength", "0.5"],
        ["--sampling", "--sampling-topk", "5", "--nbest", "4"],
        ["--match-source-len"],
        ["--nbest", "4"],
        ["--no-repeat-ngram-size", "2"],
        ["--lenpen", "0.6", "--unkpen", "1"],
        ["--score-reference"],
        ["--print-alignment", "hard", "--replace-unk", "", "--dataset-impl", "raw"],
    ],
    ids=lambda options: options[0],
)
def test_generate_takes_fairseqs_search_options(trained, options, tmp_path):
    if "raw" in options:
        shutil.copytree(trained, tmp_path / "toy")
        trained = tmp_path / "toy"
        for language in ("src", "tgt"):
            shutil.copy(trained / f"test.{language}", trained / "data-bin" / f"test.src-tgt.{language}")
    assert sorted(hypotheses(generate(trained, *options).stdout)) == list(range(21))


def test_prefix_is_kept(trained):
    # The validation set: fairseq's search cannot end an empty target's hypotheses when the prefix is its end.
    done = generate(trained, "--prefix-size", "1", "--gen-subset", "valid")
    assert len(hypotheses(done.stdout)) == 13
    targets = {int(i): text for i, text in re.findall(r"^T-(\d+)\t(.*)$", done.stdout, re.M)}
    for index, text in hypotheses(done.stdout).items():
        assert text.split()[:1] == targets[index].split()[:1]


def test_an_ensemble_of_a_model_with_itself_is_the_model(trained):
    one = generate(trained).stdout
    path = trained / "checkpoints" / "checkpoint_best.pt"
    two = generate(trained, path=f"{path}:{path}").stdout
    assert hypotheses(two) == hypotheses(one)
    assert len(hypotheses(two)) == 21


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


def test_a_line_too_long_for_interactive_is_refused_in_one_clear_line(trained):
    done = run(
        *("fairseq-interactive", trained / "data-bin", "--user-dir", PLUGIN, "--cpu"),
        *("-s", "src", "-t", "tgt", "--path", trained / "checkpoints" / "checkpoint_best.pt"),
        stdin="w1 " * 30 + "\n",
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1].startswith("error: sentence 0: a source of 31 tokens")
    assert "N = 24" in done.stderr
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


def test_a_resumed_training_ends_as_an_undisturbed_one(toy, tmp_path):
    data = toy / "data-bin"
    run("fairseq-train", *train_options(data, tmp_path / "straight"), "--max-epoch", "2")
    run("fairseq-train", *train_options(data, tmp_path / "resumed"), "--max-epoch", "1")
    run("fairseq-train", *train_options(data, tmp_path / "resumed"), "--max-epoch", "2")
    straight = parameters(tmp_path / "straight" / "checkpoint_last.pt")
    resumed = parameters(tmp_path / "resumed" / "checkpoint_last.pt")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    for name, value in straight.items():
        if re.fullmatch(r"decoder\.layers\.\d+\.mixing\.A", name):
            assert (value.triu(1) == 0).all()


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


def test_hydra_trains_too(toy, tmp_path):
    model = "".join(f"  {name}: {value}\n" for name, value in TINY.items())
    (tmp_path / "toy.yaml").write_text(
        f"""# @package _group_
common: {{user_dir: {PLUGIN}, cpu: true}}
task: {{_name: translation, data: {toy / "data-bin"}}}
criterion: {{_name: label_smoothed_cross_entropy, label_smoothing: 0.1}}
optimizer: {{_name: adagrad}}
lr_scheduler: {{_name: fixed, warmup_updates: 20}}
optimization: {{lr: [0.05], max_epoch: 1}}
dataset: {{max_tokens: 400, num_workers: 0}}
checkpoint: {{save_dir: {tmp_path / "checkpoints"}}}
model:
  _name: resmlp
{model}"""
    )
    run("fairseq-hydra-train", "--config-dir", tmp_path, "--config-name", "toy", cwd=tmp_path)
    state = torch.load(tmp_path / "checkpoints" / "checkpoint_best.pt")
    assert state["cfg"]["model"]["encoder_max_positions"] == TINY["encoder_max_positions"]
    assert state["model"]["encoder.layers.0.mixing.A"].any()


@pytest.fixture(scope="module")
def model_folder(trained, tmp_path_factory):
    """A folder by fairseq's hub conventions, with a SentencePiece model that spells the toy words."""
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


def test_hub_names_a_missing_checkpoint(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint model.pt in .*checkpoint_file="):
        ResMLPModel.from_pretrained(tmp_path)


def test_hub_refuses_a_long_sentence_by_name(model_folder):
    hub = ResMLPModel.from_pretrained(model_folder)
    with pytest.raises(InputError, match=r"source of 31 .* N = 24"):
        hub.translate(["w1 " * 30])


def test_an_installed_copy_and_the_repository_do_not_clash(toy, tmp_path):
    """The plugin is found as an installed package and named by --user-dir, here and there."""
    shutil.copytree(PLUGIN, tmp_path / "site" / "fairseq_resmlp")
    env = {"PYTHONPATH": str(tmp_path / "site")}
    for user_dir, cwd in ((PLUGIN, tmp_path), (tmp_path / "site" / "fairseq_resmlp", ROOT), ("fairseq_resmlp", ROOT)):
        options = train_options(toy / "data-bin", tmp_path / "checkpoints")
        options[options.index(PLUGIN)] = user_dir
        run("fairseq-train", *options, "--max-update", "1", "--reset-dataloader", "--no-save", env=env, cwd=cwd)
        run("python", "-m", "fairseq_cli.train", *options, "--max-update", "1", "--no-save", env=env, cwd=cwd)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--decoder-attention-heads=3"], "--decoder-embed-dim 16 is not a multiple of --decoder-attention-heads 3"),
        (["--encoder-embed-dim=8"], "--share-all-embeddings needs --encoder-embed-dim 8 equal to --decoder-embed-dim 16"),
        (["--left-pad-target"], "--left-pad-target is not supported"),
    ],
)
def test_impossible_options_are_refused_in_one_line(toy, tmp_path, change, message):
    done = run("fairseq-train", *train_options(toy / "data-bin", tmp_path), *change, check=False)
    assert done.returncode != 0
    assert message in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
