"""All patches together."""

import sys

from fairseq import options
from fairseq.data import data_utils

from fairseq_resmlp.fairseq_patches.apply import apply_patches
from support.commands import run, train_options
from support.paths import PLUGIN


def test_applying_the_patches_twice_changes_nothing():
    before = (data_utils.batch_by_size, options.parse_args_and_arch, sys.excepthook)
    apply_patches()
    assert before == (data_utils.batch_by_size, options.parse_args_and_arch, sys.excepthook)


def test_training_and_generation_print_no_warnings(trained, tmp_path):
    command = ("fairseq-train", *train_options(trained / "data-bin", tmp_path), "--max-update", "1")
    training = run(*command, env={})  # in a new process, to include the warnings of importing fairseq
    generation = run(
        *("fairseq-generate", trained / "data-bin", "--user-dir", PLUGIN, "--cpu"),
        *("--path", trained / "checkpoints" / "checkpoint_best.pt"),
    )
    assert "Warning" not in training.stdout + training.stderr + generation.stdout + generation.stderr
