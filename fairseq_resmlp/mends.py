"""What is broken in fairseq under current Python and torch, mended when the plugin is imported.

fairseq imports --user-dir before it reads data or checkpoints, so one import serves every command.
Each mend names fairseq's issue, checks that it is still needed, and has a test in tests/test_mends.py.
"""

import argparse
import functools
import os
import sys
import warnings
from dataclasses import dataclass, field
from typing import List

import numpy as np
import torch
from fairseq import options, tasks
from fairseq.data import data_utils
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY, OPTIMIZER_REGISTRY
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks import FairseqTask
from hydra.core.config_store import ConfigStore
from omegaconf import II

from .errors import InputError, too_long


def apply() -> None:
    """Mend all that still needs it. Calling it again changes nothing."""
    allow_checkpoints()
    keep_last_batch()
    resume_with_the_same_batches()
    remember_languages()
    number_sentences_in_diverse_beam_search()
    let_hydra_use_adagrad()
    show_model_options_in_help()
    name_long_sentences()
    print_input_errors_in_one_line()
    silence_warnings()


def allow_checkpoints() -> None:
    """Load fairseq's checkpoints weights-only (fairseq issue 5610).

    torch 2.6 and later refuse what is not plain data unless it is on a list. The list below is all that
    fairseq's own checkpoints hold: `argparse.Namespace` (options of models without a dataclass) and
    NumPy scalars (the best --eval-bleu score). Neither can run code. Older torch has to be asked for
    the protection.
    """
    if not hasattr(torch.serialization, "add_safe_globals"):
        raise ImportError(f"torch {torch.__version__} cannot load checkpoints safely: install torch >= 2.4")
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        os.environ.setdefault("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    multiarray = getattr(np, "_core", None) or np.core
    reconstruct = multiarray.multiarray._reconstruct
    scalar = multiarray.multiarray.scalar
    numbers = [type(np.dtype(t)) for t in (np.float32, np.float64, np.int64)]
    torch.serialization.add_safe_globals(
        [argparse.Namespace, np.ndarray, np.dtype, reconstruct, scalar, *numbers]
        # Checkpoints written under NumPy 1 know these two by their old names.
        + [(reconstruct, "numpy.core.multiarray._reconstruct"), (scalar, "numpy.core.multiarray.scalar")]
    )


def keep_last_batch() -> None:
    """Lose no sentences (fairseq issues 5036, 5094, 5351).

    `batch_by_size` throws its last batch away when its size is not a multiple of
    --required-batch-size-multiple, 8 by default: 197 test lines become 192.
    """
    original = data_utils.batch_by_size
    nine = np.arange(9)
    kept = original(nine, None, np.ones_like(nine), max_sentences=8, required_batch_size_multiple=8)
    if sum(map(len, kept)) == len(nine):
        return

    @functools.wraps(original)
    def batch_by_size(indices, *args, fixed_shapes=None, **kwargs):
        if fixed_shapes is not None:
            return original(indices, *args, fixed_shapes=fixed_shapes, **kwargs)
        if not isinstance(indices, np.ndarray):
            indices = np.fromiter(indices, dtype=np.int64, count=-1)
        if len(indices) == 0:
            return []
        batches = list(original(indices, *args, **kwargs))
        kept = sum(map(len, batches))
        return batches + [indices[kept:]] if kept < len(indices) else batches

    data_utils.batch_by_size = batch_by_size


def resume_with_the_same_batches() -> None:
    """Let a resumed training go on as an undisturbed one would.

    fairseq freezes the batches of the first epoch it sees (fairseq issue 1156) and draws them with a seed
    that counts epochs: resumed in epoch 2, it puts other sentences together. They are drawn here as in
    epoch 1, always.
    """
    original = FairseqTask.get_batch_iterator
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def get_batch_iterator(self, dataset, *args, epoch=1, **kwargs):
        before = self.dataset_to_epoch_iter.get(dataset)
        iterator = original(self, dataset, *args, epoch=1, **kwargs)
        if iterator is not before:
            iterator.epoch = max(epoch, 1)
        return iterator

    FairseqTask.get_batch_iterator = get_batch_iterator


def remember_languages() -> None:
    """Store the languages that were inferred from file names in the checkpoint (fairseq issue 3304).

    Without them a model folder cannot be loaded unless its user names them again.
    """
    original = tasks.setup_task
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def setup_task(cfg, **kwargs):
        task = original(cfg, **kwargs)
        for side in ("source_lang", "target_lang"):
            if side in cfg and cfg[side] is None:
                cfg[side] = getattr(task.cfg, side, None)
        return task

    tasks.setup_task = setup_task


def number_sentences_in_diverse_beam_search() -> None:
    """Let --diverse-beam-groups work past the first batch (broken since fairseq pull request 5069).

    The search keeps a table with one row a sentence of the batch, but looks it up by the sentence's number
    in the whole corpus.
    """
    original = SequenceGenerator.generate
    if hasattr(original, "__wrapped__") and hasattr(original.__wrapped__, "__wrapped__"):
        return

    @functools.wraps(original)
    def generate(self, models, sample, **kwargs):
        return original(self, models, {**sample, "id": torch.arange(len(sample["id"]))}, **kwargs)

    SequenceGenerator.generate = generate


@dataclass
class AdagradConfig(FairseqDataclass):
    """Options of fairseq's Adagrad for fairseq-hydra-train."""

    weight_decay: float = field(default=0.0, metadata={"help": "weight decay"})
    lr: List[float] = II("optimization.lr")


def let_hydra_use_adagrad() -> None:
    """Give Adagrad, the paper's optimizer, the dataclass without which fairseq-hydra-train does not know it."""
    if "adagrad" in OPTIMIZER_DATACLASS_REGISTRY:
        return
    OPTIMIZER_DATACLASS_REGISTRY["adagrad"] = AdagradConfig
    OPTIMIZER_REGISTRY["adagrad"].__dataclass = AdagradConfig
    node = AdagradConfig()
    node._name = "adagrad"
    ConfigStore.instance().store(name="adagrad", group="optimizer", node=node, provider="fairseq")


def show_model_options_in_help() -> None:
    """Let `fairseq-train --arch ARCH --help` show the architecture's options (fairseq issue 701).

    fairseq parses once to learn --arch and adds that model's options afterwards, but the first parse
    already answers --help and exits.
    """
    original = options.parse_args_and_arch
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def parse_args_and_arch(parser, input_args=None, parse_known=False, suppress_defaults=False, modify_parser=None):
        parse_known_args = parser.parse_known_args

        def first_parse(args=None, namespace=None):
            del parser.parse_known_args
            args = sys.argv[1:] if args is None else args
            return parse_known_args([a for a in args if a not in ("-h", "--help")], namespace)

        # With suppress_defaults fairseq calls this function again before it parses anything.
        if not suppress_defaults:
            parser.parse_known_args = first_parse
        return original(parser, input_args, parse_known, suppress_defaults, modify_parser)

    options.parse_args_and_arch = parse_args_and_arch


def name_long_sentences() -> None:
    """Say which limit a sentence passes, and how to raise it, where fairseq says "Size of sample #0 is invalid".

    Dropping it (--skip-invalid-size-inputs-valid-test) stays the user's choice.
    """
    original = FairseqTask.filter_indices_by_size
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def filter_indices_by_size(self, indices, dataset, max_positions=None, ignore_invalid_inputs=False):
        if not ignore_invalid_inputs and isinstance(max_positions, tuple) and len(max_positions) == 2:
            _, ignored = dataset.filter_indices_by_size(indices, max_positions)
            if len(ignored) > 0:
                raise InputError(_long_sentence(ignored[0], dataset.size(ignored[0]), max_positions))
        return original(self, indices, dataset, max_positions, ignore_invalid_inputs)

    FairseqTask.filter_indices_by_size = filter_indices_by_size


def _long_sentence(index, size, max_positions) -> str:
    lengths = size if isinstance(size, tuple) else (size,)
    sides = zip(("source", "target"), lengths, max_positions, ("encoder", "decoder"))
    for side, length, limit, stack in sides:
        if length > limit:
            return f"sentence {index}: {too_long(length, limit, side, stack)}"
    return f"sentence {index} of size {size} does not fit {max_positions}"


def print_input_errors_in_one_line() -> None:
    """End a command with the message of an InputError alone: a traceback says nothing to whoever made it."""
    original = sys.excepthook
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def excepthook(kind, error, traceback):
        if issubclass(kind, InputError):
            print(f"error: {error}", file=sys.stderr)
        else:
            original(kind, error, traceback)

    sys.excepthook = excepthook


def silence_warnings() -> None:
    """Hide what fairseq's use of its own dependencies sets off and no user can act on."""
    for message in (
        r"hydra\.experimental\.\w+\(\) is no longer experimental",
        r"\nThe strict flag in the compose API is deprecated",
        r"\nThe version_base parameter is not specified",
        r"In '.*': Usage of deprecated keyword in package header",
        r"\n'config' is validated against ConfigStore schema",
        r"'pin_memory' argument is set as true but no accelerator is found",
        r"`torch\.cuda\.amp\.\w+\(args\.\.\.\)` is deprecated",
        r"`torch\.jit\.script` is deprecated",
    ):
        warnings.filterwarnings("ignore", message=message)
