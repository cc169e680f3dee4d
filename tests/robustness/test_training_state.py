"""Training that is killed, run again, or followed by another one in the same process or directory."""

import errno
import fcntl
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from fairseq.logging import progress_bar
from fairseq_cli import train as fairseq_train

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.fairseq_patches import save_directory
from support.commands import run, train_options
from support.comparison import identical
from support.training import contents, end_process, final_state, train

FEW = "--no-epoch-checkpoints"
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO)


@pytest.fixture
def data(toy):
    return toy / "data-bin"


def messages(caplog):
    """Return the messages logged since the last call."""
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


# What ends a training run, and options with which it does so soon. An epoch of the toy data has 7 updates.
CONSTANT = ("--lr", "1e-9", "--max-epoch", "9")
PLATEAU = ("--lr-scheduler", "reduce_lr_on_plateau", "--warmup-updates", "0")
LIMITS = {
    "--max-update": ("--max-update", "5"),
    "--max-epoch": ("--max-epoch", "2"),
    "--patience": ("--patience", "2", *CONSTANT),
    "--patience within an epoch": ("--patience", "2", "--save-interval-updates", "2", *CONSTANT),
    "--stop-time-hours": ("--stop-time-hours", "1e-9"),
    "--stop-min-lr": ("--stop-min-lr", "0.01", "--warmup-updates", "1", "--force-anneal", "2", "--max-epoch", "9"),
    "--stop-min-lr of plateau": ("--stop-min-lr", "1e-6", *PLATEAU, "--lr", "1e-5", "--lr-shrink", "0.01"),
}


@pytest.mark.parametrize("limit", [pytest.param(name, marks=() if name == "--patience" else slow) for name in LIMITS])
def test_a_finished_training_that_is_run_again_stays_as_it_is(data, tmp_path, caplog, limit, record_promise):
    train(data, tmp_path, FEW, *LIMITS[limit])
    before = contents(tmp_path)
    assert "checkpoint_last.pt" in before
    messages(caplog)
    end_process()
    train(data, tmp_path, FEW, *LIMITS[limit])
    assert contents(tmp_path) == before
    log = messages(caplog)
    assert not any("Start iterating over samples" in text for text in log)
    (reason,) = (text for text in log if text.startswith("nothing to do: training has "))
    assert f"and {limit.split()[0]} is" in reason
    record_promise("A finished training that is run again stays as it is", f"{len(LIMITS)} ways to end")


RESUMED = {
    "patience": ("--patience", "3", *CONSTANT),
    "patience within epochs": ("--patience", "3", "--save-interval-updates", "3", *CONSTANT),
    "plateau": (*PLATEAU, "--lr-shrink", "0.5", "--max-epoch", "4"),
    "plateau with patience": (*PLATEAU, "--lr-threshold", "1", "--lr-patience", "1", "--max-epoch", "4"),
}


@slow
@pytest.mark.parametrize("name", RESUMED)
def test_a_killed_training_ends_like_an_undisturbed_one(data, tmp_path, name, record_promise):
    train(data, tmp_path / "undisturbed", FEW, *RESUMED[name])
    for update in (9, 16, 23):
        train(data, tmp_path / "killed", FEW, *RESUMED[name], kill_at=update)
    train(data, tmp_path / "killed", FEW, *RESUMED[name])
    assert identical(final_state(tmp_path / "killed"), final_state(tmp_path / "undisturbed"))
    assert ("--patience" in RESUMED[name]) == (final_state(tmp_path / "killed")["early_stopping"] is not None)
    record_promise(
        "A killed training ends as undisturbed with --patience and --lr-scheduler reduce_lr_on_plateau",
        f"{len(RESUMED)} combinations of options, 3 kills each",
    )


@slow
def test_patience_continues_if_it_is_raised_and_from_checkpoints_without_a_count(data, tmp_path):
    train(data, tmp_path, FEW, *CONSTANT, patience=1)
    assert final_state(tmp_path)["early_stopping"]["num_runs"] == 1
    train(data, tmp_path, FEW, *CONSTANT, patience=3)
    assert final_state(tmp_path)["early_stopping"]["num_runs"] == 3
    assert final_state(tmp_path)["train_iterator"]["epoch"] == 5
    state = torch.load(tmp_path / "checkpoint_last.pt")
    del state["extra_state"]["early_stopping"]
    torch.save(state, tmp_path / "checkpoint_last.pt")
    train(data, tmp_path, FEW, *CONSTANT, patience=1)  # the best loss is known, but not when it was reached
    assert final_state(tmp_path)["train_iterator"]["epoch"] == 6


@slow
def test_a_second_training_in_the_process_starts_without_the_state_of_the_first(data, tmp_path, record_promise):
    """As in a sweep of fairseq-hydra-train: best loss, patience, TensorBoard and log files."""
    learning = ("--max-epoch", "2", "--tensorboard-logdir", "{}/tensorboard", "--log-file", "{}/log")
    worse = ("--max-epoch", "2", "--lr", "1e-9", "--patience", "9", "--tensorboard-logdir", "{}/tensorboard")
    expected = {}
    for name, options in (("worse", worse), ("learning", learning), ("worse again", worse)):
        directory = tmp_path / name
        directory.mkdir()
        train(data, directory / "checkpoints", FEW, *(option.format(directory) for option in options))
        expected[name] = final_state(directory / "checkpoints", "checkpoint_best.pt")
        assert expected[name]["best"] == expected[name]["val_loss"]
        assert len(list((directory / "tensorboard" / "train").iterdir())) == 1
    assert identical(expected["worse"], expected["worse again"])
    assert expected["learning"]["best"] < expected["worse"]["best"]
    log = (tmp_path / "learning" / "log").read_text().splitlines()
    assert sum("valid on 'valid' subset" in line for line in log) == 2  # not repeated, not of the other trainings
    handlers = [*fairseq_train.logger.handlers, *progress_bar.logger.handlers]
    assert not any(isinstance(handler, logging.FileHandler) for handler in handlers)
    record_promise(
        "A second training in the same process starts without the state of the first", "3 trainings, 5 kinds of state"
    )


def updates(directory):
    """Return the updates of the checkpoints of --save-interval-updates."""
    return sorted(
        int(match[1]) for name in contents(directory) if (match := re.fullmatch(r"checkpoint_\d+_(\d+)\S*\.pt", name))
    )


KEPT = {  # options, updates with a checkpoint, other checkpoints; two epochs of 7 updates
    "one": (dict(keep_interval_updates=1), [14], {"1", "2", "_last", "_best"}),
    "two": (dict(keep_interval_updates=2), [7, 14], {"1", "2", "_last", "_best"}),
    "all": ({}, [7, 14], {"1", "2", "_last", "_best"}),
    "pattern": (dict(keep_interval_updates=1, keep_interval_updates_pattern=7), [7, 14], {"1", "2", "_last", "_best"}),
    "no last": (dict(no_last_checkpoints=True, keep_interval_updates=1), [14], {"1", "2", "_best"}),
    "only them": (
        dict(
            no_last_checkpoints=True, no_epoch_checkpoints=True, keep_interval_updates=1, best_checkpoint_metric="ppl"
        ),
        [14],
        {"_best"},
    ),
    "last epoch": (dict(keep_interval_updates=1, keep_last_epochs=1), [14], {"2", "_last", "_best"}),
    "suffix": (dict(keep_interval_updates=1, checkpoint_suffix="-x"), [14], {"1-x", "2-x", "_last-x", "_best-x"}),
    "no epochs": (dict(keep_interval_updates=1, no_epoch_checkpoints=True), [14], {"_last", "_best"}),
    "every second epoch": (dict(keep_interval_updates=1, save_interval=2), [14], {"2", "_last", "_best"}),
    "not saved": (dict(no_save=True), [], set()),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "one" else slow) for name in KEPT])
def test_interval_checkpoints_at_the_end_of_an_epoch_follow_the_other_options(data, tmp_path, name, record_promise):
    options, kept, others = KEPT[name]
    train(data, tmp_path, "--max-epoch", "2", save_interval_updates=7, **options)
    found = {file[len("checkpoint") : -len(".pt")] for file in contents(tmp_path) if file.endswith(".pt")}
    assert updates(tmp_path) == kept
    assert {file for file in found if not re.match(r"_\d", file)} == others
    for update in kept:
        suffix = options.get("checkpoint_suffix", "")
        state = final_state(tmp_path, f"checkpoint_{update // 7}_{update}{suffix}.pt")
        assert state["schedule"]["num_updates"] == update and state["val_loss"] is not None
        assert state["train_iterator"] == {
            **state["train_iterator"],
            "epoch": update // 7 + 1,
            "iterations_in_epoch": 0,
        }
    record_promise(
        "Checkpoints of --save-interval-updates at the end of an epoch are written, and deleted as others are",
        f"{len(KEPT)} combinations of options",
    )


@slow
def test_the_best_checkpoints_are_kept_in_the_asked_number(data, tmp_path):
    train(data, tmp_path, "--max-epoch", "4", FEW, save_interval_updates=7, keep_best_checkpoints=2)
    assert len(list(tmp_path.glob("checkpoint.best_loss_*.pt"))) == 2


@slow
def test_a_killed_training_that_began_with_restore_file_continues_from_its_own_checkpoint(data, tmp_path, caplog):
    train(data, tmp_path / "first", FEW, "--max-update", "3")
    resets = dict(reset_optimizer=True, reset_lr_scheduler=True, reset_meters=True, reset_dataloader=True)
    changes = dict(restore_file=tmp_path / "first" / "checkpoint_last.pt", save_interval_updates=2, **resets)
    train(data, tmp_path / "undisturbed", FEW, "--max-update", "9", **changes)
    train(data, tmp_path / "killed", FEW, "--max-update", "9", **changes, kill_at=2)  # has saved nothing
    for update in (4, 6, 9):
        train(data, tmp_path / "killed", FEW, "--max-update", "9", **changes, kill_at=update)
    messages(caplog)
    train(data, tmp_path / "killed", FEW, "--max-update", "9", **changes)
    assert any(f"continuing from {tmp_path}/killed/checkpoint_last.pt, which" in text for text in messages(caplog))
    assert identical(final_state(tmp_path / "killed"), final_state(tmp_path / "undisturbed"))
    assert final_state(tmp_path / "killed")["schedule"]["num_updates"] == 9
    before = contents(tmp_path / "killed")
    train(data, tmp_path / "killed", FEW, "--max-update", "9", **changes)
    assert contents(tmp_path / "killed") == before  # finished


@slow
def test_training_without_a_last_checkpoint_continues_from_the_newest_and_stays_when_finished(data, tmp_path):
    changes = dict(no_last_checkpoints=True)
    train(data, tmp_path / "undisturbed", "--max-epoch", "3", **changes)
    train(data, tmp_path / "killed", "--max-epoch", "3", **changes, kill_at=9)
    train(data, tmp_path / "killed", "--max-epoch", "3", **changes)
    states = [final_state(tmp_path / name, "checkpoint3.pt") for name in ("undisturbed", "killed")]
    assert identical(*states)
    before = contents(tmp_path / "killed")
    train(data, tmp_path / "killed", "--max-epoch", "3", **changes)
    assert contents(tmp_path / "killed") == before


@slow
def test_another_restore_file_than_the_one_it_began_with_is_used(data, tmp_path, caplog):
    """For example to go back to the best checkpoint of the same directory."""
    train(data, tmp_path, "--max-epoch", "2")
    messages(caplog)
    train(data, tmp_path, "--max-epoch", "3", restore_file=tmp_path / "checkpoint1.pt")
    loaded = [text for text in messages(caplog) if text.startswith("Loaded checkpoint")]
    assert loaded == [f"Loaded checkpoint {tmp_path}/checkpoint1.pt (epoch 2 @ 7 updates)"]


def test_a_missing_checkpoint_to_begin_with_is_an_error_unless_it_is_the_last_of_the_directory(data, tmp_path):
    options = (FEW, "--max-update", "1")
    with pytest.raises(
        InputError, match=r"^--restore-file nope\.pt not found: specify an existing checkpoint, or omit"
    ):
        train(data, tmp_path, *options, restore_file="nope.pt")
    with pytest.raises(InputError, match=r"^--restore-file nope-x\.pt not found"):
        train(data, tmp_path, *options, restore_file="nope.pt", checkpoint_suffix="-x")
    with pytest.raises(InputError, match=r"^--restore-file /tmp not found"):
        train(data, tmp_path, *options, restore_file="/tmp")
    with pytest.raises(InputError, match=r"^--finetune-from-model nope\.pt does not exist$"):
        train(data, tmp_path, *options, finetune_from_model="nope.pt")
    with pytest.raises(InputError, match=r"^--finetune-from-model /tmp not found"):
        train(data, tmp_path, *options, finetune_from_model="/tmp")
    with pytest.raises(InputError, match=r"^checkpoint\.continue_once nope\.pt not found"):
        train(data, tmp_path, *options, continue_once="nope.pt")
    assert not list(tmp_path.glob("*.pt"))
    train(data, tmp_path, *options, restore_file=tmp_path / "checkpoint_last.pt")
    assert final_state(tmp_path)["schedule"]["num_updates"] == 1


# A process that locks a file as the plugin does. It prints whether it could, and waits for its input to end.
LOCK = """
import fcntl, sys
file = open(sys.argv[1], "a+")
try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("refused", flush=True)
else:
    file.write("process 123 on elsewhere")
    file.flush()
    print("locked", flush=True)
sys.stdin.read()
"""


def other_training(directory):
    """Start a process that uses the directory as a training does. Returns it and what it printed."""
    command = [sys.executable, "-c", LOCK, str(directory / ".training.lock")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return process, process.stdout.readline().decode().strip()


def test_a_second_training_in_a_directory_is_refused_before_it_changes_anything(
    data, tmp_path, monkeypatch, record_promise
):
    options, directory = (FEW, "--max-update", "1"), tmp_path / "checkpoints"
    train(data, directory, *options)
    process, result = other_training(directory)
    process.communicate()
    assert result == "refused"  # this process has not ended
    train(data, directory, *options)  # but may itself train there again

    (tmp_path / "other").mkdir()
    process, result = other_training(tmp_path / "other")
    assert result == "locked"
    before = contents(tmp_path / "other")
    message = (
        rf"^another training \(process 123 on elsewhere\) uses {tmp_path}/other: wait until it has ended, or specify"
    )
    with pytest.raises(InputError, match=message):
        train(data, tmp_path / "other", *options)
    assert contents(tmp_path / "other") == before
    train(data, tmp_path / "other", *options, no_save=True)
    with monkeypatch.context() as other_rank:
        other_rank.setattr(save_directory.distributed_utils, "is_master", lambda cfg: False)
        train(data, tmp_path / "other", *options)  # the master has locked it
    process.kill()
    process.wait()
    train(data, tmp_path / "other", *options)
    assert final_state(tmp_path / "other")["schedule"]["num_updates"] == 1
    record_promise("A second training in the same --save-dir is refused before it changes anything", "4 situations")


def test_a_file_named_dummy_in_the_directory_is_kept(data, tmp_path):
    (tmp_path / "dummy").write_text("my own")
    train(data, tmp_path, FEW, "--max-update", "1")
    assert (tmp_path / "dummy").read_text() == "my own"


def test_a_directory_that_cannot_be_locked_is_used_with_a_warning(data, tmp_path, monkeypatch, caplog):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    save_directory.lock_directory(str(tmp_path))
    (tmp_path / "directory" / ".training.lock").mkdir(parents=True)
    save_directory.lock_directory(str(tmp_path / "directory"))
    expected = "cannot be locked ({}): make sure that no other training uses it"
    reasons = ("No locks available", "Is a directory")
    assert [text.partition(" ")[2] for text in messages(caplog)] == [expected.format(reason) for reason in reasons]


def test_two_jobs_of_a_sweep_cannot_have_the_same_directory(tmp_path, monkeypatch):
    save_directory.lock_directory(str(tmp_path))
    save_directory.lock_directory(str(tmp_path))
    monkeypatch.setattr(save_directory, "_is_sweep", lambda: True)
    with pytest.raises(InputError, match=r"^two jobs of this sweep have the same checkpoint\.save_dir"):
        save_directory.lock_directory(str(tmp_path))


@slow
def test_a_full_disk_below_tensorboard_logdir_is_reported_with_the_file(data, tmp_path, capfd):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = tmp_path / "tensorboard"
    command = (FEW, "--max-update", "60", "--log-interval", "1", "--tensorboard-logdir", str(log))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        message = rf"^cannot write {log}/train_inner/events\.out\.tfevents\.\S+: File too large$"
        with pytest.raises(InputError, match=message):
            train(data, tmp_path / "checkpoints", *command, no_save=True)
        progress_bar._close_writers()  # as at exit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "Traceback" not in capfd.readouterr().err


@slow
def test_killed_training_with_data_loaders_resumes_at_once_and_leaves_no_temporary_file(data, tmp_path, record_promise):
    """Processes that load data outlive a killed training by seconds. They must not hold its lock."""
    command = ["fairseq-train", *train_options(data, tmp_path / "checkpoints"), FEW, "--max-epoch", "100000"]
    command += ["--num-workers", "2", "--save-interval-updates", "1", "--keep-interval-updates", "1"]
    signals = (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM)
    environment = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    for number in signals:
        with open(tmp_path / "log", "w") as log:
            process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env=environment)
        while (tmp_path / "log").read_text().count("Saved checkpoint") < 3:
            assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.2)
        if number == signal.SIGKILL:
            second = run(*command, check=False)
            assert second.returncode == 1
            assert re.match(r"error: another training \(process \d+ on .*\) uses ", second.stderr.splitlines()[-1])
        process.send_signal(number)
        assert process.wait() == -number
        names = set(contents(tmp_path / "checkpoints"))
        assert all(name == ".training.lock" or name.endswith(".pt") for name in names), names
    record_promise(
        "A training that is killed with its data loaders resumes at once, and leaves no temporary file",
        f"{len(signals)} kills",
    )
