"""What is broken in fairseq under current Python and torch, mended when the plugin is imported.

fairseq imports --user-dir before it reads data or checkpoints, so one import serves every command.
Each mend names fairseq's issue where there is one, changes nothing where fairseq needs it no longer, and has a test
in tests/ that fails without it.
"""

import _codecs
import ast
import atexit
import contextlib
import functools
import logging
import math
import os
import pickle
import queue
import re
import shutil
import sys
import warnings
import weakref
from dataclasses import dataclass, field
from typing import List

import numpy as np
import torch
from fairseq import checkpoint_utils, options, tasks, utils
from fairseq.data import data_utils
from fairseq.data.iterators import BufferedIterator
from fairseq.dataclass import FairseqDataclass
from fairseq.file_io import PathManager
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_NAME_REGISTRY
from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY, OPTIMIZER_REGISTRY, AMPOptimizer, MemoryEfficientFP16Optimizer
from fairseq.search import DiverseBeamSearch
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks import FairseqTask
from fairseq.trainer import Trainer
from fairseq_cli import interactive, train
from hydra.core.config_store import ConfigStore
from omegaconf import II, DictConfig, open_dict
from torch import distributed

from . import archive, checkpoint, lines, text
from .errors import InputError, too_long

logger = logging.getLogger(__name__)


@functools.lru_cache(maxsize=None)  # mending twice would wrap fairseq's functions twice
def apply() -> None:
    """Mend all that still needs it; called again, do nothing."""
    load_only_harmless_checkpoints()
    evaluate_only_plain_values()
    keep_last_batch()
    resume_with_the_same_batches()
    train_no_longer_than_told()
    end_loading_with_the_training()
    write_checkpoints_whole()
    save_every_interval()
    unscale_gradients_once()
    remember_languages()
    number_sentences_in_diverse_beam_search()
    refuse_translations_without_scores()
    translate_every_line()
    replace_unknown_words()
    let_hydra_use_adagrad()
    let_hydra_use_architectures()
    show_model_options_in_help()
    take_bf16_without_a_tpu()
    name_the_remedy_for_memory_efficiency()
    accept_a_second_copy()
    print_input_errors_in_one_line()
    silence_warnings()


def load_only_harmless_checkpoints() -> None:
    """Load fairseq's checkpoints weights-only and whole (fairseq issue 5610).

    torch 2.6 and later refuse what is not plain data unless it is on a list, and fairseq's own checkpoints hold
    some (see `checkpoint.ALLOWED`). Older torch has to be asked for the protection. A checkpoint that does not fit
    the model is named in one line, too.
    """
    if not hasattr(torch.serialization, "add_safe_globals"):
        raise ImportError(f"torch {torch.__version__} cannot load checkpoints safely: install torch >= 2.4")
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        for stand_in, name in checkpoint.ALLOWED:  # this torch takes names from the classes themselves
            stand_in.__module__, stand_in.__qualname__ = name.rsplit(".", 1)
            stand_in.__name__ = stand_in.__qualname__
        checkpoint.ALLOWED[:] = [*{stand_in for stand_in, _ in checkpoint.ALLOWED}, _codecs.encode]
        torch.serialization._is_torchscript_zip = _refuse_scripts(torch.serialization._is_torchscript_zip)
    load_to_cpu, load_in_training = checkpoint_utils.load_checkpoint_to_cpu, Trainer.load_checkpoint
    load_and_build = checkpoint_utils.load_model_ensemble_and_task

    @functools.wraps(load_to_cpu)
    def load_checkpoint_to_cpu(path, *args, **kwargs):
        with checkpoint.safe_to_load(path):
            state = load_to_cpu(path, *args, **kwargs)
            checkpoint.check(state, path)
            checkpoint.complete(state)
            also_check = checkpoint.also_check.get()
            if also_check:
                also_check(state, path)
        return state

    @functools.wraps(load_in_training)
    def load_checkpoint(self, filename, *args, **kwargs):
        try:
            return load_in_training(self, filename, *args, **kwargs)
        except Exception as error:
            if isinstance(error.__context__, InputError):  # fairseq replaces it by "architectures match"
                raise InputError(f"{filename}: {error.__context__}") from error
            raise

    @functools.wraps(load_and_build)
    def load_model_ensemble_and_task(*args, **kwargs):
        try:
            # Building a model, too, may load files that its options name.
            with archive.weights_only(checkpoint.ALLOWED):
                return load_and_build(*args, **kwargs)
        except pickle.UnpicklingError as error:
            reason = archive.reason(error)
            raise InputError(f"a file that a checkpoint's options name is refused: {reason}") from error

    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu
    checkpoint_utils.load_model_ensemble_and_task = load_model_ensemble_and_task
    Trainer.load_checkpoint = load_checkpoint


def _refuse_scripts(is_torchscript_zip):
    """Let torch.load, asked for weights alone, run no TorchScript: torch before 2.6 runs it before it looks."""

    @functools.wraps(is_torchscript_zip)
    def _is_torchscript_zip(*args):
        found = is_torchscript_zip(*args)
        if found and os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD") == "1":
            raise pickle.UnpicklingError("it is TorchScript")
        return found

    return _is_torchscript_zip


def evaluate_only_plain_values() -> None:
    """Let no option run code.

    fairseq passes some options to Python's eval, such as a Transformer's adaptive_softmax_cutoff, and takes them
    from the checkpoint: loaded weights-only, it could still run anything.
    """
    plain = (ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.UnaryOp, ast.USub, ast.Load)
    sums = (ast.BinOp, ast.Add, ast.Mult)  # [(512, 3)] * 20

    def evaluate(text):
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is no text")  # where fairseq takes a default
        tree = ast.parse(text.strip(), mode="eval")
        if not all(isinstance(node, plain + sums) for node in ast.walk(tree)):
            raise InputError(f"an option is {text!r}, which is no plain value: it is not evaluated")
        return eval(compile(tree, "<option>", "eval"), {"__builtins__": {}})

    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "fairseq" and module is not None:
            module.eval = evaluate  # found before Python's own


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
    that counts epochs: resumed in epoch 2, it puts other sentences together. Frozen batches are drawn here
    as in epoch 1, always.
    """
    original = FairseqTask.get_batch_iterator

    @functools.wraps(original)
    def get_batch_iterator(self, dataset, *args, epoch=1, **kwargs):
        fresh_each_epoch = kwargs.get("disable_iterator_cache") or kwargs.get("update_epoch_batch_itr")
        if fresh_each_epoch or not self.can_reuse_epoch_itr(dataset):
            return original(self, dataset, *args, epoch=epoch, **kwargs)
        before = self.dataset_to_epoch_iter.get(dataset)
        iterator = original(self, dataset, *args, epoch=1, **kwargs)
        if iterator is not before:
            iterator.epoch = max(epoch, 1)
        return iterator

    FairseqTask.get_batch_iterator = get_batch_iterator


def train_no_longer_than_told() -> None:
    """Leave a training that has had its --max-update as it is.

    Run again, fairseq trains one update more before it looks at the limit, and overwrites the last checkpoint.
    """
    original = checkpoint_utils.load_checkpoint

    @functools.wraps(original)
    def load_checkpoint(cfg, trainer, **kwargs):
        loaded = original(cfg, trainer, **kwargs)
        limit, updates = trainer.cfg.optimization.max_update, trainer.get_num_updates()
        if 0 < limit <= updates:
            logger.info(f"nothing to do: this training has had {updates} updates, and --max-update is {limit}")
            sys.exit(0)
        return loaded

    checkpoint_utils.load_checkpoint = load_checkpoint


def end_loading_with_the_training() -> None:
    """Let a training that ends within an epoch end well (pytorch issues 38228 and 117762).

    fairseq makes batches in advance, in a thread that goes on until the epoch ends. When Python exits it stops the
    thread where it is; if that is within torch, the process aborts, and a training that is complete looks failed.
    """
    create = BufferedIterator._create_consumer
    threads = weakref.WeakSet()

    @functools.wraps(create)
    def _create_consumer(self):
        create(self)
        threads.add(self._consumer)

    @atexit.register
    def end():
        for thread in list(threads):
            thread._max_len = 0  # it looks at this after each batch
            while thread.is_alive():
                with contextlib.suppress(queue.Empty):
                    thread._queue.get(timeout=0.1)  # it may be waiting for room

    BufferedIterator._create_consumer = _create_consumer


def write_checkpoints_whole() -> None:
    """Let no checkpoint be half written under its own name, and say in one line why it cannot be written.

    fairseq writes the first of several names under a temporary one, but copies it to the others, and
    checkpoint_last.pt is one of them: killed in a copy, a training cannot be resumed. After an error it writes the
    same content again behind the half that is there.
    """
    save, copy_file = checkpoint_utils.torch_persistent_save, PathManager.copy

    @functools.wraps(save)
    def torch_persistent_save(obj, filename, async_write=False):
        if async_write or not PathManager.supports_rename(filename):
            save(obj, filename, async_write)
        else:
            checkpoint.write(obj, filename)

    @functools.wraps(copy_file)
    def copy(src_path, dst_path, overwrite=False):
        if not PathManager.supports_rename(dst_path):
            return copy_file(src_path, dst_path, overwrite)
        with checkpoint.replaced(dst_path) as partial:
            shutil.copyfile(PathManager.get_local_path(src_path), partial)
        return dst_path

    checkpoint_utils.torch_persistent_save = torch_persistent_save
    PathManager.copy = staticmethod(copy)


def save_every_interval() -> None:
    """Write the checkpoint of --save-interval-updates that falls on the end of an epoch too.

    fairseq leaves it out, even that of the last update, and an average of the last checkpoints is of older ones.
    """
    original = checkpoint_utils.save_checkpoint

    @functools.wraps(original)
    def save_checkpoint(cfg, trainer, epoch_itr, val_loss):
        saved = original(cfg, trainer, epoch_itr, val_loss)
        updates, interval, suffix = trainer.get_num_updates(), cfg.save_interval_updates, trainer.checkpoint_suffix
        due = interval > 0 and updates % interval == 0 and epoch_itr.end_of_epoch()
        last = os.path.join(cfg.save_dir, f"checkpoint_last{suffix}.pt")
        writes = trainer.should_save_checkpoint_on_current_rank and not (cfg.no_save or cfg.no_last_checkpoints)
        if due and writes:
            PathManager.copy(last, os.path.join(cfg.save_dir, f"checkpoint_{epoch_itr.epoch}_{updates}{suffix}.pt"))
        return saved

    checkpoint_utils.save_checkpoint = save_checkpoint


def unscale_gradients_once() -> None:
    """Let --amp give the optimizer the gradients as they are.

    fairseq tells torch's GradScaler of torch's optimizer when it clips and of its own wrapper when it steps. The
    scaler takes them for two and divides the gradients by the loss scale twice. The scale grows in training, so
    Adagrad's new gradients would vanish beside what it has accumulated.
    """

    def step(self):
        self.scaler.step(self.optimizer)
        self.scaler.update()

    AMPOptimizer.step = step


def remember_languages() -> None:
    """Store the languages that were inferred from file names in the checkpoint (fairseq issue 3304).

    Without them a model folder cannot be loaded unless its user names them again.
    """
    original = tasks.setup_task

    @functools.wraps(original)
    def setup_task(cfg, **kwargs):
        task = original(cfg, **kwargs)
        for side in ("source_lang", "target_lang"):
            if isinstance(cfg, DictConfig) and side in cfg and cfg[side] is None:
                cfg[side] = getattr(task.cfg, side, None)
        return task

    tasks.setup_task = setup_task


def number_sentences_in_diverse_beam_search() -> None:
    """Let --diverse-beam-groups work past the first batch (broken since fairseq pull request 5069).

    The search keeps a table with one row a sentence of the batch, but looks it up by the sentence's number
    in the whole corpus.
    """
    original = SequenceGenerator.generate

    @functools.wraps(original)
    def generate(self, models, sample, **kwargs):
        if isinstance(self.search, DiverseBeamSearch):
            sample = {key: value for key, value in sample.items() if key != "id"}  # fairseq then counts by itself
        return original(self, models, sample, **kwargs)

    SequenceGenerator.generate = generate


def refuse_translations_without_scores() -> None:
    """Give no translation where the model's output is not a number.

    The search reads NaN as a probability of zero, and goes on to a random translation, or to none.
    """
    original = SequenceGenerator.generate

    @functools.wraps(original)
    def generate(self, models, sample, **kwargs):
        try:
            found = original(self, models, sample, **kwargs)
        except AssertionError as error:
            if not re.fullmatch(r"\d+ < \d+", str(error)):  # no hypothesis has ended at the greatest length
                raise
            found = [[]]
        if not all(hypotheses and math.isfinite(hypotheses[0]["score"]) for hypotheses in found):
            raise InputError(
                "a sentence has no translation with a finite score: the model's numbers overflow or are none; in "
                "float16 take float32 instead (leave --fp16 out)"
            )
        return found

    SequenceGenerator.generate = generate


def translate_every_line() -> None:
    """Let fairseq-interactive read any line and give a translation for each (see `lines`)."""
    original = interactive.make_batches

    @functools.wraps(original)
    def make_batches(sentences, cfg, task, max_positions, encode_fn):
        lines.allow_one_line_of_any_length(cfg, max_positions)
        yield from original(sentences, cfg, task, max_positions, encode_fn)
        task.dataset_to_epoch_iter.clear()  # where fairseq keeps all that it has ever read

    def buffered_read(path, buffer_size):
        if hasattr(sys.stdout, "reconfigure"):  # not where Python has redirected it
            sys.stdout.reconfigure(encoding="utf-8", errors=sys.stdout.errors)  # as the input, whatever the terminal's
        return text.read(path, buffer_size)

    interactive.make_batches = make_batches
    interactive.buffered_read = buffered_read


def replace_unknown_words() -> None:
    """Let --replace-unk read the (source, target) pairs that --print-alignment makes (fairseq issue 3533)."""
    original = utils.replace_unk

    @functools.wraps(original)
    def replace_unk(hypo_str, src_str, alignment, align_dict, unk):
        if isinstance(alignment, list):
            source_of = {target: source for source, target in alignment}
            # Without a source word it is the end of the sentence, which fairseq puts last.
            alignment = [source_of.get(target, -1) for target in range(len(hypo_str.split()))]
        return original(hypo_str, src_str, alignment, align_dict, unk)

    utils.replace_unk = replace_unk


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


def let_hydra_use_architectures() -> None:
    """Let `model: {_name: resmlp_tiny}` be that architecture in fairseq-hydra-train.

    fairseq takes the model from the name and fills in the model's defaults, so that any name would be `resmlp_base`.
    """
    original = train.add_defaults

    @functools.wraps(original)
    def add_defaults(cfg):
        arch = getattr(cfg.get("model"), "_name", None)
        if arch in ARCH_CONFIG_REGISTRY and ARCH_MODEL_NAME_REGISTRY[arch] == "resmlp":
            with open_dict(cfg.model):
                ARCH_CONFIG_REGISTRY[arch](cfg.model)  # what the configuration file gives stays
        original(cfg)

    train.add_defaults = add_defaults


def show_model_options_in_help() -> None:
    """Let `fairseq-train --arch ARCH --help` show the architecture's options (fairseq issue 701).

    fairseq parses once to learn --arch and adds that model's options afterwards, but the first parse
    already answers --help and exits.
    """
    original = options.parse_args_and_arch

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


def take_bf16_without_a_tpu() -> None:
    """Let --bf16 and --memory-efficient-bf16 work on CPUs and GPUs (fairseq issue 4696).

    On the command line, not in fairseq-hydra-train, they imply --tpu, and the training ends for want of torch_xla.
    A TPU now has to be asked for by --tpu.
    """
    original = options.parse_args_and_arch

    @functools.wraps(original)
    def parse_args_and_arch(parser, input_args=None, parse_known=False, suppress_defaults=False, modify_parser=None):
        parsed = original(parser, input_args, parse_known, suppress_defaults, modify_parser)
        args = parsed[0] if parse_known and not suppress_defaults else parsed
        if getattr(args, "tpu", False):
            args.tpu = "--tpu" in (sys.argv[1:] if input_args is None else input_args)
        return parsed

    options.parse_args_and_arch = parse_args_and_arch


def name_the_remedy_for_memory_efficiency() -> None:
    """Say in one line what to do where --memory-efficient-bf16 (or -fp16) meets an optimizer that needs float32.

    Adagrad is one: its sums of squares would be in half precision, where they soon stop growing.
    """
    original = MemoryEfficientFP16Optimizer.__init__

    @functools.wraps(original)
    def __init__(self, cfg, params, optimizer, allow_unsupported=False, **kwargs):
        if not allow_unsupported and not optimizer.supports_memory_efficient_fp16:
            bits = "bf16" if cfg.common.bf16 else "fp16"
            raise InputError(
                f"--memory-efficient-{bits} does not go with {type(optimizer).__name__}: take --{bits} or another "
                "--optimizer, such as adam"
            )
        original(self, cfg, params, optimizer, allow_unsupported, **kwargs)

    MemoryEfficientFP16Optimizer.__init__ = __init__


def accept_a_second_copy() -> None:
    """Go on with the imported plugin where --user-dir names another copy of it, and say so.

    fairseq refuses a second folder of the same name: an installed plugin that a script has imported would
    clash with --user-dir in the repository.
    """
    original = utils.import_user_module
    package = sys.modules[__package__]

    @functools.wraps(original)
    def import_user_module(args):
        folder = os.path.abspath(getattr(args, "user_dir", None) or "")
        another = os.path.basename(folder) == __package__ and os.path.isfile(os.path.join(folder, "mends.py"))
        if another and folder not in map(os.path.abspath, package.__path__):
            logger.warning(f"{__package__} is already imported from {package.__path__[0]}: not using {folder}")
        else:
            original(args)

    utils.import_user_module = import_user_module


def print_input_errors_in_one_line() -> None:
    """End a command with the message alone of what a user can mend, a full disk and a missing file among it."""
    original = sys.excepthook

    @functools.wraps(original)
    def excepthook(kind, error, traceback):
        program = os.path.realpath((sys.argv or [""])[0])
        of_fairseq = os.path.basename(program).startswith("fairseq-") or f"{os.sep}fairseq_cli{os.sep}" in program
        # In a program that only imports the plugin a missing file may be its own.
        if issubclass(kind, InputError) or (of_fairseq and issubclass(kind, OSError)):
            print(f"error: {str(error) or kind.__name__}", file=sys.stderr)
        elif distributed.is_available() and distributed.is_initialized() and "by peer" in str(error):  # as gloo says it
            print(
                "error: another process of this training has ended: its own output says why. Start all of them again, "
                "and they go on from the last checkpoint",
                file=sys.stderr,
            )
        else:
            original(kind, error, traceback)

    sys.excepthook = excepthook


def silence_warnings() -> None:
    """Hide what fairseq's use of its own dependencies sets off and no user can act on."""
    logging.getLogger("hydra").setLevel(logging.WARNING)  # one of fairseq's models sets everything to DEBUG
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


def name_long_sentences(task: FairseqTask) -> None:
    """Say which limit a sentence passes, and how to raise it, where fairseq says "Size of sample #0 is invalid".

    For the tasks of our own models alone, whose options it names: `ResMLPModel.build_model` calls it.
    Dropping such sentences (--skip-invalid-size-inputs-valid-test) stays the user's choice.
    """
    original = task.filter_indices_by_size

    def filter_indices_by_size(indices, dataset, max_positions=None, ignore_invalid_inputs=False):
        if not ignore_invalid_inputs and max_positions is not None:
            _, ignored = dataset.filter_indices_by_size(indices, max_positions)
            for index in ignored[:1]:
                split = next((name for name, other in task.datasets.items() if other is dataset), None)
                raise InputError(
                    f"sentence {index}{f' of {split}' if split else ''}: "
                    f"{_long_side(task, dataset.size(index), max_positions)}; or leave out what is so long, with "
                    "--skip-invalid-size-inputs-valid-test"
                )
        return original(indices, dataset, max_positions, ignore_invalid_inputs)

    task.filter_indices_by_size = filter_indices_by_size


def _long_side(task: FairseqTask, size, max_positions) -> str:
    sides = zip(("source", "target"), ("encoder", "decoder"), size, max_positions, task.max_positions())
    for side, stack, length, limit, task_limit in sides:
        if length > limit:
            # The task has a limit of its own, 1024 by default, and the smaller one counts.
            if limit >= task_limit:
                return f"a {side} of {length} tokens is longer than {limit}: raise --max-{side}-positions"
            return too_long(length, limit, side, stack)
    raise AssertionError(f"{size} fits {max_positions}")
