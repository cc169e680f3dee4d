"""Diverging training is stopped with advice, and the last good checkpoint is kept. Spikes are tolerated."""

import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from fairseq.trainer import Trainer
from fairseq_cli import train as fairseq_train
from omegaconf import OmegaConf

from fairseq_resmlp.checkpoints.checkpoint_file import read_checkpoint
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.fairseq_patches.divergence import DivergenceDetector
from support.commands import run, train_options
from support.training import contents, final_state, train

NAN = float("nan")


@pytest.mark.parametrize(
    ("losses", "stops_at"),
    [
        ([9.0] * 50 + [2786.0] * 99 + [12.0] + [1e12] * 99 + [3.0] * 10, None),
        ([9.0] * 50 + [1e12] * 200, 150),
        ([NAN] * 100, 100),
        ([16.0] * 500, None),  # exactly twice log2 256
        ([16.1] * 500, 100),
    ],
)
def test_spikes_are_tolerated_and_divergence_stops_training(losses, stops_at):
    detector = DivergenceDetector(256)
    stopped = [number for number, loss in enumerate(losses, 1) if detector.observe(loss, number)]
    assert (stopped[0] if stopped else None) == stops_at


@pytest.fixture(scope="module")
def good(toy, tmp_path_factory):
    """Directory with the checkpoint of 10 good updates."""
    directory = tmp_path_factory.mktemp("good")
    options = [*train_options(toy / "data-bin", directory), "--normalization", "layer", "--no-epoch-checkpoints"]
    run("fairseq-train", *options, "--max-update", "10")
    return directory


def diverging_options(toy, directory):
    """Options with lr 10 and no warm-up, for which Adagrad goes to hundreds of bits per token and stays there.

    With LayerNorm, activations stay finite. With Aff, they would overflow on some CPUs and not on others.
    """
    options = [*train_options(toy / "data-bin", directory), "--normalization", "layer", "--reset-lr-scheduler"]
    options[options.index("--lr") + 1], options[options.index("--warmup-updates") + 1] = "10", "1"
    return options


# A checkpoint written right after the step that diverges is caught by its validation loss, a later one by the loss of
# the updates.
@pytest.mark.parametrize(
    "saving", [["--save-interval-updates=1"], ["--save-interval-updates=5", "--disable-validation"]]
)
def test_diverging_training_is_stopped_with_advice_and_the_good_checkpoint_is_kept(
    toy, good, tmp_path, saving, record_promise
):
    directory = tmp_path / "checkpoints"
    shutil.copytree(good, directory)
    before = (directory / "checkpoint_last.pt").read_bytes()
    options = [*diverging_options(toy, directory), *saving, "--no-epoch-checkpoints"]
    done = run("fairseq-train", *options, "--max-update", "100000", check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    expected = "error: training has diverged: the loss of 100 consecutive updates exceeded twice the 5.6 bits per token"
    assert last.startswith(expected)
    assert "raise --warmup-updates (now 1) or lower --lr (now 10.0)" in last
    assert f"the last saved checkpoint is {directory}/checkpoint_last.pt" in last
    assert "checkpoint not saved: training has diverged" in done.stderr + done.stdout
    assert (directory / "checkpoint_last.pt").read_bytes() == before
    assert (directory / "checkpoint_diverged.pt").exists()
    record_promise(
        "A diverging training run is stopped with advice, and the last good checkpoint is kept", "after 100 updates"
    )


def test_a_validation_loss_worse_than_uniform_is_not_divergence():
    """An overfitted model becomes far worse than uniform on other text, but gradually."""
    detector = DivergenceDetector(256)
    assert not any(detector.observe_validation(loss) for loss in (7.0, 5.0, 9.0, 15.0, 20.0, 35.0, 60.0))
    assert detector.observe_validation(1e6) and detector.observe_validation(NAN) and detector.observe_validation(200.0)
    assert not detector.observe_validation(70.0)
    jump = DivergenceDetector(256)
    assert not jump.observe_validation(5.0) and jump.observe_validation(44.0) and not jump.observe_validation(5.0)


def test_training_that_ends_while_diverging_reports_where_the_model_is(toy, good, tmp_path):
    directory = tmp_path / "checkpoints"
    shutil.copytree(good, directory)
    options = [*diverging_options(toy, directory), "--disable-validation"]
    done = run("fairseq-train", *options, "--max-update", "20", check=False)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: training ended without saving a checkpoint, because training has diverged, to ")
    assert f"bits per token; this model is in {directory}/checkpoint_diverged.pt: " in last
    assert "raise --max-update or --max-epoch and continue, or raise --warmup-updates (now 1)" in last
    assert read_checkpoint(str(directory / "checkpoint_diverged.pt"))["extra_state"]["train_iterator"]["epoch"] == 3


def test_an_update_that_amp_repeats_is_counted_once():
    detector = DivergenceDetector(256)
    assert not any(detector.observe(1e3, update) for update in range(1, 100) for _ in range(3))
    assert detector.observe(1e3, 100)


def test_validation_is_judged_in_bits_per_token_and_not_without_them():
    detector = DivergenceDetector(8000)
    task, cfg = (
        SimpleNamespace(divergence_detector=detector),
        OmegaConf.create({"checkpoint": {"best_checkpoint_metric": "loss", "maximize_best_checkpoint_metric": False}}),
    )
    trainer = SimpleNamespace(task=task, get_num_updates=lambda: 1, get_criterion=lambda: None)
    for stats, judged, jump in (
        ({"loss": 1963.0, "nll_loss": 9.0}, 9.0, None),  # per sentence
        ({"loss": 5.0, "nll_loss": 500.0}, 9.0, 500.0),
        ({"loss": 5.0, "nll_loss": 8.0}, 8.0, None),
        ({"loss": 1e9}, 8.0, None),  # of a criterion that logs no loss per token
    ):
        fairseq_train.get_valid_stats(cfg, trainer, dict(stats), tracking_best=True)
        assert (detector.valid_loss, detector.jump) == (judged, jump)
    fairseq_train.get_valid_stats(cfg, trainer, {"loss": 5.0, "nll_loss": 500.0}, tracking_best=False)  # another subset
    assert detector.jump is None


@pytest.mark.slow
def test_a_spike_at_a_checkpoint_loses_nothing(toy, tmp_path, monkeypatch):
    """Training cannot know whether the loss recovers: the checkpoint has another name until it does."""
    spike, saved = {2}, []
    train_step, write = Trainer.train_step, Trainer.save_checkpoint

    def train_with_spike(self, *args, **kwargs):
        logged = train_step(self, *args, **kwargs)
        detector = self.task.divergence_detector
        detector.consecutive, detector.last_loss = (1, 1e3) if self.get_num_updates() in spike else (0, 5.0)
        return logged

    def save(self, filename, extra_state):
        saved.append(os.path.basename(filename))
        return write(self, filename, extra_state)

    monkeypatch.setattr(Trainer, "train_step", train_with_spike)
    monkeypatch.setattr(Trainer, "save_checkpoint", save)
    options = ("--no-epoch-checkpoints", "--disable-validation", "--max-update", "3", "--save-interval-updates", "1")
    train(toy / "data-bin", tmp_path, *options)
    assert saved == ["checkpoint_1_1.pt", "checkpoint_diverged.pt", "checkpoint_1_3.pt"]
    assert {name for name in contents(tmp_path) if name.endswith(".pt")} == {
        *("checkpoint_1_1.pt", "checkpoint_1_3.pt", "checkpoint_last.pt")
    }


@pytest.fixture(scope="module")
def long_sentences(toy, tmp_path_factory):
    """data-bin of sentences of 200 words, whose loss per sentence is far above twice log2 V."""
    directory = tmp_path_factory.mktemp("long")
    for split, count in (("train", 16), ("valid", 2)):
        for language in ("src", "tgt"):
            lines = (" ".join(f"w{(i * j) % 40}" for j in range(200)) for i in range(1, count + 1))
            (directory / f"{split}.{language}").write_text("\n".join(lines) + "\n")
    prefixes = [part for s in ("train", "valid") for part in (f"--{s}pref", directory / s)]
    dictionary = ("--srcdict", toy / "data-bin" / "dict.src.txt", "--joined-dictionary")
    run("fairseq-preprocess", "-s", "src", "-t", "tgt", *prefixes, *dictionary, "--destdir", directory / "data-bin")
    return directory / "data-bin"


CRITERIONS = {
    "label_smoothed_cross_entropy": (),
    "fused_label_smoothed_cross_entropy": (),
    "cross_entropy": (),
    "label_smoothed_cross_entropy_with_rdrop": ("--rdrop-alpha", "5"),
}
LONG = ("--encoder-max-positions=256", "--decoder-max-positions=256", "--no-epoch-checkpoints")


@pytest.mark.slow
@pytest.mark.parametrize("criterion", CRITERIONS)
@pytest.mark.parametrize("per_sentence", [True, False], ids=["per sentence", "per token"])
def test_good_training_is_saved_whatever_the_unit_of_its_loss(
    long_sentences, tmp_path, monkeypatch, criterion, per_sentence, record_promise
):
    options = [*LONG, "--criterion", criterion, *CRITERIONS[criterion], *(["--sentence-avg"] if per_sentence else [])]
    monkeypatch.setattr(DivergenceDetector, "PATIENCE", 5)
    train(long_sentences, tmp_path, *options, "--max-epoch", "2")
    assert final_state(tmp_path)["train_iterator"]["epoch"] == 3
    assert "checkpoint_diverged.pt" not in contents(tmp_path)
    record_promise(
        "Good training is not taken for divergence, whatever the unit of its loss", f"{2 * len(CRITERIONS)} criterions"
    )


@pytest.mark.slow
@pytest.mark.parametrize("criterion", CRITERIONS)
def test_exploding_training_is_stopped_whatever_the_unit_of_its_loss(toy, tmp_path, monkeypatch, criterion):
    train_step = Trainer.train_step

    def explode(self, *args, **kwargs):
        with torch.no_grad():
            self.model.decoder.output_projection.weight.mul_(2)
        return train_step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "train_step", explode)
    monkeypatch.setattr(DivergenceDetector, "PATIENCE", 5)
    options = ["--criterion", criterion, *CRITERIONS[criterion], "--sentence-avg", "--disable-validation"]
    # R-Drop's own term becomes infinite before that.
    message = "gradients are Nan/Inf: " if "rdrop" in criterion else "training has diverged: the loss of 5 consecutive"
    with pytest.raises(InputError, match=message):
        train(toy / "data-bin", tmp_path, *options, "--no-epoch-checkpoints", "--max-update", "60")


def test_nonfinite_gradients_stop_training_in_one_line(toy, tmp_path):
    options = train_options(toy / "data-bin", tmp_path)
    options[options.index("--lr") + 1], options[options.index("--warmup-updates") + 1] = "20", "1"
    done = run("fairseq-train", *options, "--max-update", "10", check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: gradients are Nan/Inf: raise --warmup-updates (now 1) or lower --lr (now 20.0)")
