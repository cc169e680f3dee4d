"""A training that explodes is stopped with advice, and its last good checkpoint stays; a spike that passes is not."""

import shutil

import pytest
from conftest import run, train_options

from fairseq_resmlp.divergence import LossWatch

NAN = float("nan")


@pytest.mark.parametrize(
    ("losses", "stops_at"),
    [
        ([9.0] * 50 + [2786.0] * 99 + [12.0] + [1e12] * 99 + [3.0] * 10, None),
        ([9.0] * 50 + [1e12] * 200, 150),
        ([NAN] * 100, 100),
        ([16.0] * 500, None),  # twice log2 256: as bad as can be without an explosion
        ([16.1] * 500, 100),
    ],
)
def test_a_spike_passes_and_an_explosion_stops(losses, stops_at):
    watch = LossWatch(256)
    stopped = [number for number, loss in enumerate(losses, 1) if watch.see(loss)]
    assert (stopped[0] if stopped else None) == stops_at


@pytest.fixture(scope="module")
def good(toy, tmp_path_factory):
    """A folder with the checkpoint of 10 good updates."""
    folder = tmp_path_factory.mktemp("good")
    run("fairseq-train", *train_options(toy / "data-bin", folder), "--max-update", "10", "--no-epoch-checkpoints")
    return folder


# A checkpoint right after the step that explodes is caught by its validation, a later one by the loss of the updates.
@pytest.mark.parametrize(
    "saving", [["--save-interval-updates=1"], ["--save-interval-updates=5", "--disable-validation"]]
)
def test_an_exploding_training_is_stopped_with_advice_and_the_good_checkpoint_stays(
    toy, good, tmp_path, saving, record_promise
):
    """Adagrad with lr 0.45 at once goes to hundreds of bits a token and stays there."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(good, folder)
    before = (folder / "checkpoint_last.pt").read_bytes()
    options = [*train_options(toy / "data-bin", folder), *saving, "--no-epoch-checkpoints"]
    options[options.index("--lr") + 1], options[options.index("--warmup-updates") + 1] = "0.45", "1"
    done = run("fairseq-train", *options, "--reset-lr-scheduler", "--max-update", "100000", check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: the loss has exploded: 100 updates in a row were worse than twice the 5.6 bits")
    assert "raise --warmup-updates (now 1) or lower --lr (now 0.45)" in last
    assert f"the last one saved is {folder}/checkpoint_last.pt" in last
    assert "no checkpoint is saved now" in done.stderr + done.stdout
    assert (folder / "checkpoint_last.pt").read_bytes() == before
    record_promise(
        "A training that explodes is stopped with advice, and its last good checkpoint stays", "after 100 updates"
    )


def test_a_validation_worse_than_chance_is_no_explosion():
    """A model that knows its training text by heart comes to be far worse than chance on other text, step by step."""
    watch = LossWatch(256)
    assert not any(watch.wrecked(loss) for loss in (7.0, 5.0, 9.0, 15.0, 20.0, 35.0, 60.0))
    assert watch.wrecked(1e6) and watch.wrecked(NAN) and watch.wrecked(200.0)
    assert not watch.wrecked(70.0)
    jump = LossWatch(256)
    assert not jump.wrecked(5.0) and jump.wrecked(44.0) and not jump.wrecked(5.0)


def test_a_training_that_ends_in_an_explosion_says_so(toy, good, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(good, folder)
    options = [*train_options(toy / "data-bin", folder), "--disable-validation"]
    options[options.index("--lr") + 1], options[options.index("--warmup-updates") + 1] = "0.45", "1"
    done = run("fairseq-train", *options, "--reset-lr-scheduler", "--max-update", "20", check=False)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: the training ends without being saved, since the loss has exploded, to ")
    assert "raise --max-update or --max-epoch and go on, or raise --warmup-updates (now 1)" in last


def test_gradients_that_are_no_numbers_stop_the_training_in_one_line(toy, tmp_path):
    options = train_options(toy / "data-bin", tmp_path)
    options[options.index("--lr") + 1], options[options.index("--warmup-updates") + 1] = "20", "1"
    done = run("fairseq-train", *options, "--max-update", "10", check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: gradients are Nan/Inf: raise --warmup-updates (now 1) or lower --lr (now 20.0)")
