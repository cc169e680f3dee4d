"""Killed and resumed training ends bit-identical to an uninterrupted run, and checkpoints are always complete."""

import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_resmlp.checkpoints.checkpoint_file import read_checkpoint
from support.commands import run, train_options
from support.comparison import identical
from support.fault_injection import PLACES
from support.paths import PLUGIN, ROOT

WHERE = {
    "update": "during an update",
    "validation": "during validation",
    "writing": "while writing a checkpoint",
    "copying": "while copying a checkpoint",
    "renaming": "before the rename",
    "renamed": "after the rename",
    "moment": "at a random time",
}
FAULT_INJECTION = ROOT / "tests" / "support" / "fault_injection.py"


def options(toy, directory, *more):
    """Return options for five epochs of 7 updates, with validation and a checkpoint every 5 updates and every epoch."""
    interval = ("--save-interval-updates", "5", "--keep-interval-updates", "2", "--max-epoch", "5")
    return [str(option) for option in (*train_options(toy / "data-bin", directory), *interval, *more)]


def final_state(directory):
    """Load the last checkpoint without times: weights, Adagrad's accumulators, schedule, position in the data."""
    state = read_checkpoint(str(directory / "checkpoint_last.pt"))
    extra = state["extra_state"]
    return {
        "model": state["model"],
        "optimizer": state["last_optimizer_state"],
        "schedule": state["optimizer_history"][-1],  # has an additional entry after each resumption
        **{name: extra[name] for name in ("train_iterator", "val_loss", "best")},
    }


def check_all_checkpoints(directory):
    """Read every checkpoint, which fails if one is incomplete. Returns their number."""
    found = list(directory.glob("*.pt"))
    for path in found:
        read_checkpoint(str(path))
    return len(found)


@pytest.fixture(scope="module")
def uninterrupted(toy, tmp_path_factory):
    """Final state of an uninterrupted training run."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    run("fairseq-train", *options(toy, directory))
    state = final_state(directory)
    assert state["schedule"]["num_updates"] == 35
    return state


def kill_points(times, at_random, seed):
    """Return (place, count) pairs in random order: `times` per place, with counts up to 4, and random moments."""
    generator = random.Random(seed)
    chosen = sorted(set(PLACES) - {"moment"}) * times + ["moment"] * at_random
    generator.shuffle(chosen)
    return [(place, generator.randint(1, 4 if place != "moment" else 1_000_000)) for place in chosen]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "times", "at_random"), [("SIGKILL", 2, 8), ("SIGTERM", 1, 2)])
def test_training_killed_repeatedly_ends_like_an_uninterrupted_run(
    toy, uninterrupted, tmp_path, name, times, at_random, record_promise
):
    died = []
    for place, count in kill_points(times, at_random, seed=len(name)):
        done = run("python", FAULT_INJECTION, name, place, count, *options(toy, tmp_path), check=False)
        if done.returncode != -signal.Signals[name]:
            # Training was completed before the kill: start over, so that every kill point is tried.
            assert done.returncode == 0, done.stderr[-3000:]
            assert identical(final_state(tmp_path), uninterrupted)
            for path in tmp_path.iterdir():
                path.unlink()
            done = run("python", FAULT_INJECTION, name, place, 1, *options(toy, tmp_path), check=False)
        assert done.returncode == -signal.Signals[name], done.stderr[-3000:]
        check_all_checkpoints(tmp_path)
        died.append(place)
    run("fairseq-train", *options(toy, tmp_path))
    assert identical(final_state(tmp_path), uninterrupted)
    assert check_all_checkpoints(tmp_path) >= 4
    record_promise(
        f"A training run killed by {name} and resumed ends bit-identical to an uninterrupted run (weights, Adagrad "
        "accumulators, learning rate schedule), and no checkpoint is left half-written",
        f"{len(died)} kills: " + ", ".join(f"{died.count(place)} {WHERE[place]}" for place in sorted(set(died))),
    )


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def train_two_processes(toy, directory, log, dying=None, place=None, count=None):
    """Train on two CPU processes and return their exit codes. The process of rank `dying`, if any, kills itself."""
    shared = [
        *("--distributed-world-size", "2", "--distributed-init-method", f"tcp://127.0.0.1:{free_port()}"),
        *("--distributed-no-spawn", "--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp"),
        "--load-checkpoint-on-all-dp-ranks",
    ]
    processes = []
    for rank in range(2):
        if rank == dying:
            command = [sys.executable, str(FAULT_INJECTION), "SIGKILL", place, str(count)]
        else:
            command = [str(Path(sys.executable).parent / "fairseq-train")]
        command += [*options(toy, directory, *shared), "--distributed-rank", str(rank)]
        with open(f"{log}{rank}", "w") as out:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            processes.append(subprocess.Popen(command, stdout=out, stderr=out, env=environment))
    try:
        return [process.wait(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_if_one_of_two_processes_dies_the_other_exits_and_both_resume(toy, tmp_path, record_promise):
    log = tmp_path / "log"
    assert train_two_processes(toy, tmp_path / "uninterrupted", log) == [0, 0]
    deaths = [(1, "update", 8), (0, "writing", 2), (1, "validation", 2), (0, "copying", 1), (1, "update", 1)]
    for dying, place, count in deaths:
        codes = train_two_processes(toy, tmp_path / "resumed", log, dying, place, count)
        assert codes[dying] == -signal.SIGKILL, log.with_name(f"log{dying}").read_text()[-3000:]
        assert codes[1 - dying] not in (0, -signal.SIGKILL)
        survivor = log.with_name(f"log{1 - dying}").read_text()
        assert "error: another process of this training has exited" in survivor.splitlines()[-1]
        assert "Traceback" not in survivor
        check_all_checkpoints(tmp_path / "resumed")
    assert train_two_processes(toy, tmp_path / "resumed", log) == [0, 0]
    assert identical(final_state(tmp_path / "resumed"), final_state(tmp_path / "uninterrupted"))
    record_promise(
        "If one of two training processes is killed, the other one exits; after resuming, training ends bit-identical "
        "to an uninterrupted run",
        f"{len(deaths)} kills",
    )


def test_killed_training_ends_like_an_uninterrupted_run(toy, uninterrupted, tmp_path):
    done = run("python", FAULT_INJECTION, "SIGKILL", "writing", 3, *options(toy, tmp_path), check=False)
    assert done.returncode == -signal.SIGKILL
    run("fairseq-train", *options(toy, tmp_path))
    assert identical(final_state(tmp_path), uninterrupted)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model_and_translations(toy, uninterrupted, tmp_path, record_promise):
    def translations(directory):
        done = run(
            *("fairseq-generate", toy / "data-bin", "--user-dir", PLUGIN, "--cpu", "--beam", "4"),
            *("--path", directory / "checkpoint_last.pt"),
        )
        return [line for line in done.stdout.splitlines() if line.startswith(("H-", "P-"))]

    expected = None
    for workers in (0, 1, 2):
        run("fairseq-train", *options(toy, tmp_path / str(workers), "--num-workers", str(workers)))
        assert identical(final_state(tmp_path / str(workers)), uninterrupted)
        found = translations(tmp_path / str(workers))
        assert len(found) == 42 and expected in (None, found)
        expected = found
    run("fairseq-train", *options(toy, tmp_path / "seed", "--seed", "2"))
    assert not identical(final_state(tmp_path / "seed"), uninterrupted)
    record_promise(
        "The same seed gives bit-identical weights, Adagrad accumulators, translations and scores",
        "4 training runs, with 0, 1 and 2 data loader workers",
    )
