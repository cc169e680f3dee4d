"""Diverging training is stopped with advice, and the last good checkpoint is kept. Spikes are tolerated."""

import shutil

import pytest

from fairseq_resmlp.fairseq_patches.divergence import DivergenceDetector
from support.commands import run, train_options

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
    stopped = [number for number, loss in enumerate(losses, 1) if detector.observe(loss)]
    assert (stopped[0] if stopped else None) == stops_at


@pytest.fixture(scope="module")
def good(toy, tmp_path_factory):
    """Directory with the checkpoint of 10 good updates."""
    directory = tmp_path_factory.mktemp("good")
    run("fairseq-train", *train_options(toy / "data-bin", directory), "--max-update", "10", "--no-epoch-checkpoints")
    return directory


def diverging_options(toy, directory):
    """Options with lr 0.45 and no warm-up, for which Adagrad goes to hundreds of bits per token and stays there."""
    options = [*train_options(toy / "data-bin", directory), "--reset-lr-scheduler"]
    options[options.index("--lr") + 1], options[options.index("--warmup-updates") + 1] = "0.45", "1"
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
    assert "raise --warmup-updates (now 1) or lower --lr (now 0.45)" in last
    assert f"the last saved checkpoint is {directory}/checkpoint_last.pt" in last
    assert "checkpoint not saved: training has diverged" in done.stderr + done.stdout
    assert (directory / "checkpoint_last.pt").read_bytes() == before
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


def test_training_that_ends_while_diverging_reports_that_nothing_was_saved(toy, good, tmp_path):
    directory = tmp_path / "checkpoints"
    shutil.copytree(good, directory)
    options = [*diverging_options(toy, directory), "--disable-validation"]
    done = run("fairseq-train", *options, "--max-update", "20", check=False)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: training ended without saving a checkpoint, because training has diverged, to ")
    assert "raise --max-update or --max-epoch and continue, or raise --warmup-updates (now 1)" in last


def test_nonfinite_gradients_stop_training_in_one_line(toy, tmp_path):
    options = train_options(toy / "data-bin", tmp_path)
    options[options.index("--lr") + 1], options[options.index("--warmup-updates") + 1] = "20", "1"
    done = run("fairseq-train", *options, "--max-update", "10", check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: gradients are Nan/Inf: raise --warmup-updates (now 1) or lower --lr (now 20.0)")
