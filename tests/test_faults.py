"""A training that is killed goes on to the same end, bit for bit, and no checkpoint is ever half written."""

import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PLUGIN, ROOT, run, train_options
from killed import PLACES
from test_checkpoints import same

from fairseq_resmlp import checkpoint

WHERE = {
    "update": "in an update",
    "validation": "in a validation",
    "writing": "in writing a checkpoint",
    "copying": "in copying one",
    "renaming": "before it has its name",
    "renamed": "just after",
    "moment": "at a random moment",
}
KILLED = ROOT / "tests" / "killed.py"


def options(toy, folder, *more):
    """Five epochs of 7 updates, a validation and a checkpoint every 5 updates and after each epoch."""
    interval = ("--save-interval-updates", "5", "--keep-interval-updates", "2", "--max-epoch", "5")
    return [str(option) for option in (*train_options(toy / "data-bin", folder), *interval, *more)]


def end(folder):
    """All of the last checkpoint that is not a clock: weights, Adagrad's sums, schedule, place in the data."""
    state = checkpoint.read(str(folder / "checkpoint_last.pt"))
    extra = state["extra_state"]
    return {
        "model": state["model"],
        "optimizer": state["last_optimizer_state"],
        "schedule": state["optimizer_history"][-1],  # one entry more for each time it was resumed
        **{name: extra[name] for name in ("train_iterator", "val_loss", "best")},
    }


def every_checkpoint_is_whole(folder):
    found = list(folder.glob("*.pt"))
    for path in found:
        checkpoint.read(str(path))
    return len(found)


@pytest.fixture(scope="module")
def undisturbed(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run("fairseq-train", *options(toy, folder))
    state = end(folder)
    assert state["schedule"]["num_updates"] == 35
    return state


def moments(times, at_random, seed):
    """Every place `times` times, at its first to fourth passing, and some moments at random, in any order."""
    generator = random.Random(seed)
    chosen = sorted(set(PLACES) - {"moment"}) * times + ["moment"] * at_random
    generator.shuffle(chosen)
    return [(place, generator.randint(1, 4 if place != "moment" else 1_000_000)) for place in chosen]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "times", "at_random"), [("SIGKILL", 2, 8), ("SIGTERM", 1, 2)])
def test_killed_again_and_again_a_training_ends_as_undisturbed(
    toy, undisturbed, tmp_path, name, times, at_random, record_promise
):
    died = []
    for place, passing in moments(times, at_random, seed=len(name)):
        done = run("python", KILLED, name, place, passing, *options(toy, tmp_path), check=False)
        if done.returncode != -signal.Signals[name]:
            # The training came to its end before: begin another, so that all of the moments are tried.
            assert done.returncode == 0, done.stderr[-3000:]
            assert same(end(tmp_path), undisturbed)
            for path in tmp_path.iterdir():
                path.unlink()
            done = run("python", KILLED, name, place, 1, *options(toy, tmp_path), check=False)
        assert done.returncode == -signal.Signals[name], done.stderr[-3000:]
        every_checkpoint_is_whole(tmp_path)
        died.append(place)
    run("fairseq-train", *options(toy, tmp_path))
    assert same(end(tmp_path), undisturbed)
    assert every_checkpoint_is_whole(tmp_path) >= 4
    record_promise(
        f"Killed by {name} and resumed, a training ends as an undisturbed one, bit for bit: weights, Adagrad's sums, "
        "schedule; no checkpoint is half written",
        f"{len(died)} times: " + ", ".join(f"{WHERE[place]} {died.count(place)}" for place in sorted(set(died))),
    )


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def two_processes(toy, folder, log, dying=None, place=None, passing=None):
    """Train on two CPU processes, of which one may die; their exit codes."""
    shared = [
        *("--distributed-world-size", "2", "--distributed-init-method", f"tcp://127.0.0.1:{port()}"),
        *("--distributed-no-spawn", "--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp"),
        "--load-checkpoint-on-all-dp-ranks",
    ]
    processes = []
    for rank in range(2):
        command = ["fairseq-train"] if rank != dying else [sys.executable, str(KILLED), "SIGKILL", place, str(passing)]
        command[0] = str(Path(sys.executable).parent / command[0]) if rank != dying else command[0]
        command += [*options(toy, folder, *shared), "--distributed-rank", str(rank)]
        with open(f"{log}{rank}", "w") as out:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            processes.append(subprocess.Popen(command, stdout=out, stderr=out, env=environment))
    try:
        return [process.wait(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_where_one_of_two_processes_dies_the_other_ends_too_and_both_resume(toy, tmp_path, record_promise):
    log = tmp_path / "log"
    assert two_processes(toy, tmp_path / "undisturbed", log) == [0, 0]
    deaths = [(1, "update", 8), (0, "writing", 2), (1, "validation", 2), (0, "copying", 1), (1, "update", 1)]
    for dying, place, passing in deaths:
        codes = two_processes(toy, tmp_path / "resumed", log, dying, place, passing)
        assert codes[dying] == -signal.SIGKILL, log.with_name(f"log{dying}").read_text()[-3000:]
        assert codes[1 - dying] not in (0, -signal.SIGKILL)
        survivor = log.with_name(f"log{1 - dying}").read_text()
        assert "error: another process of this training has ended" in survivor.splitlines()[-1]
        assert "Traceback" not in survivor
        every_checkpoint_is_whole(tmp_path / "resumed")
    assert two_processes(toy, tmp_path / "resumed", log) == [0, 0]
    assert same(end(tmp_path / "resumed"), end(tmp_path / "undisturbed"))
    record_promise(
        "Where one of two processes dies, the other ends, and resumed they end as undisturbed ones, bit for bit",
        f"{len(deaths)} deaths",
    )


def test_a_killed_training_ends_as_undisturbed(toy, undisturbed, tmp_path):
    done = run("python", KILLED, "SIGKILL", "writing", 3, *options(toy, tmp_path), check=False)
    assert done.returncode == -signal.SIGKILL
    run("fairseq-train", *options(toy, tmp_path))
    assert same(end(tmp_path), undisturbed)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model_and_translations(toy, undisturbed, tmp_path, record_promise):
    def translations(folder):
        done = run(
            *("fairseq-generate", toy / "data-bin", "--user-dir", PLUGIN, "--cpu", "--beam", "4"),
            *("--path", folder / "checkpoint_last.pt"),
        )
        return [line for line in done.stdout.splitlines() if line.startswith(("H-", "P-"))]

    expected = None
    for workers in (0, 1, 2):
        run("fairseq-train", *options(toy, tmp_path / str(workers), "--num-workers", str(workers)))
        assert same(end(tmp_path / str(workers)), undisturbed)
        found = translations(tmp_path / str(workers))
        assert len(found) == 42 and expected in (None, found)
        expected = found
    run("fairseq-train", *options(toy, tmp_path / "seed", "--seed", "2"))
    assert not same(end(tmp_path / "seed"), undisturbed)
    record_promise(
        "The same seed gives the same weights, Adagrad's sums and translations with scores, bit for bit",
        "4 trainings, with 0, 1 and 2 data-loader workers",
    )
