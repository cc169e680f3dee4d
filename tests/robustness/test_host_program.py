"""A program that uses the plugin keeps its own environment, loads and models."""

import argparse
import os
import pickle
import signal
import threading
import time

import pytest
import torch
from fairseq import checkpoint_utils, utils

from fairseq_resmlp import ResMLPModel
from fairseq_resmlp.checkpoints.checkpoint_file import read_checkpoint
from support.commands import run, train_options
from support.paths import GOLDEN

LOADS = 200


class HostObject:
    """A class of the host program, which torch loads only with weights_only=False."""


def process_state():
    return dict(os.environ), set(torch.serialization.get_safe_globals()), torch.load, torch.serialization.load


def in_a_fork(function):
    """Run a function in a forked child. Returns whether it succeeded within a minute."""
    child = os.fork()
    if child == 0:
        try:
            function()
        except BaseException:
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            return status == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def test_loading_a_model_leaves_the_other_threads_and_the_process_alone(tmp_path, record_promise):
    own, model = tmp_path / "own.pt", str(tmp_path / "model.pt")
    torch.save(HostObject(), own)
    torch.save({"model": {"weight": torch.ones(4)}, "args": argparse.Namespace(arch="x")}, model)
    before, failed, counts = process_state(), [], {"host": 0, "plugin": 0, "fork": 0}
    done = threading.Event()

    def host():
        while not done.is_set() or counts["host"] < LOADS:
            try:
                assert type(torch.load(own, weights_only=False)) is HostObject
                with pytest.raises(pickle.UnpicklingError):
                    torch.load(own)
                assert process_state() == before
            except BaseException as error:
                failed.append(error)
                return
            counts["host"] += 1

    def in_child():
        assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
        assert type(torch.load(own, weights_only=False)) is HostObject
        assert read_checkpoint(model)["args"].arch == "x"

    thread = threading.Thread(target=host)
    thread.start()
    try:
        for number in range(LOADS):
            assert read_checkpoint(model)["args"].arch == "x"
            counts["plugin"] += 1
            if number % 20 == 0:
                assert in_a_fork(in_child)
                counts["fork"] += 1
        ResMLPModel.from_pretrained(GOLDEN)
    finally:
        done.set()
        thread.join()
    assert not failed
    assert process_state() == before
    record_promise(
        "While one thread loads checkpoints, the other threads and forked children of a program load their own files",
        f"{counts['plugin']} loads by the plugin, at least {LOADS} by another thread, {counts['fork']} forks",
    )


def test_a_fork_in_the_middle_of_a_load_loads_too(tmp_path, monkeypatch):
    """The child continues with the thread that forked. A lock held by another thread would never be released."""
    path = str(tmp_path / "model.pt")
    torch.save({"model": {"weight": torch.ones(4)}}, path)
    loading, leave = threading.Event(), threading.Event()

    def slow(storage, location):
        loading.set()
        leave.wait(60)
        return storage

    thread = threading.Thread(target=lambda: checkpoint_utils.torch.load(path, map_location=slow))
    thread.start()
    assert loading.wait(60)
    try:
        assert in_a_fork(lambda: read_checkpoint(path))
    finally:
        leave.set()
        thread.join()


def test_only_the_modules_of_fairseq_that_load_checkpoints_see_another_torch_load():
    assert torch.load is torch.serialization.load
    assert utils.torch is torch
    assert checkpoint_utils.torch is not torch and checkpoint_utils.torch.Tensor is torch.Tensor


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--lr", "1/100"), ("--lr", "[1/100, 1e-3 * 2]", "--adam-betas", "(0.9, 49/50)")])
def test_options_may_contain_arithmetic(toy, tmp_path, options):
    """fairseq evaluates these options as Python."""
    command = train_options(toy / "data-bin", tmp_path)
    command[command.index("adagrad")] = "adam"
    done = run("fairseq-train", *command, *options, "--max-update", "1", "--warmup-updates", "0", "--no-save")
    assert "'lr': [0.01" in done.stdout + done.stderr
