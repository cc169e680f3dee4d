"""Patches of reading and writing checkpoints."""

import ast
import functools
import os
import pickle
import shutil
import sys

from fairseq import checkpoint_utils, tasks
from fairseq.file_io import PathManager
from fairseq.trainer import Trainer
from omegaconf import DictConfig

from fairseq_resmlp.checkpoints import checkpoint_file, safe_loading
from fairseq_resmlp.checkpoints.numpy_globals import ALLOWED_GLOBALS
from fairseq_resmlp.common.errors import InputError


def patch_checkpoint_loading() -> None:
    """Load fairseq's checkpoints weights-only and verify them (fairseq issue 5610).

    torch 2.6 and later refuse globals that are not on a list, and fairseq's own checkpoints contain some (see
    `ALLOWED_GLOBALS`). A checkpoint that does not fit the model is also reported in one line.
    """
    load_to_cpu, load_in_training = checkpoint_utils.load_checkpoint_to_cpu, Trainer.load_checkpoint
    load_and_build = checkpoint_utils.load_model_ensemble_and_task

    @functools.wraps(load_to_cpu)
    def load_checkpoint_to_cpu(path, *args, **kwargs):
        with checkpoint_file.safe_to_load(path):
            state = load_to_cpu(path, *args, **kwargs)
            checkpoint_file.check(state, path)
            checkpoint_file.upgrade(state)
            extra_check = checkpoint_file.extra_check.get()
            if extra_check:
                extra_check(state, path)
        return state

    @functools.wraps(load_in_training)
    def load_checkpoint(self, filename, *args, **kwargs):
        try:
            return load_in_training(self, filename, *args, **kwargs)
        except Exception as error:
            if isinstance(error.__context__, InputError):  # fairseq replaces it with "architectures match"
                raise InputError(f"{filename}: {error.__context__}") from error
            raise

    @functools.wraps(load_and_build)
    def load_model_ensemble_and_task(*args, **kwargs):
        try:
            # Building a model may also load files that its options name.
            with safe_loading.weights_only(ALLOWED_GLOBALS):
                return load_and_build(*args, **kwargs)
        except pickle.UnpicklingError as error:
            reason = safe_loading.reason(error)
            raise InputError(f"a file named in a checkpoint's options is not safe to load: {reason}") from error

    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu
    checkpoint_utils.load_model_ensemble_and_task = load_model_ensemble_and_task
    Trainer.load_checkpoint = load_checkpoint


def restrict_eval_to_literals() -> None:
    """Prevent options from running code.

    fairseq passes some options to Python's eval, such as a Transformer's adaptive_softmax_cutoff, and reads them from
    the checkpoint. Even a checkpoint that is loaded weights-only could therefore run anything.
    """
    literals = (ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.UnaryOp, ast.USub, ast.Load)
    arithmetic = (ast.BinOp, ast.Add, ast.Mult)  # [(512, 3)] * 20

    def evaluate(text):
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is not a string")  # fairseq then uses a default
        tree = ast.parse(text.strip(), mode="eval")
        if not all(isinstance(node, literals + arithmetic) for node in ast.walk(tree)):
            raise InputError(f"the option value {text!r} is not a literal and was not evaluated")
        return eval(compile(tree, "<option>", "eval"), {"__builtins__": {}})

    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "fairseq" and module is not None:
            module.eval = evaluate  # type: ignore[attr-defined]  # shadows the built-in


def write_checkpoints_atomically() -> None:
    """Never leave a partial checkpoint under its final name, and report a failed write in one line.

    fairseq writes a checkpoint under a temporary name but then copies it to its other names, among them
    checkpoint_last.pt. If it is killed while copying, training cannot resume. After a write error it appends the same
    content to the partial file.
    """
    save, copy_file = checkpoint_utils.torch_persistent_save, PathManager.copy

    @functools.wraps(save)
    def torch_persistent_save(obj, filename, async_write=False):
        if async_write or not PathManager.supports_rename(filename):
            save(obj, filename, async_write)
        else:
            checkpoint_file.write_checkpoint(obj, filename)

    @functools.wraps(copy_file)
    def copy(src_path, dst_path, overwrite=False):
        if not PathManager.supports_rename(dst_path):
            return copy_file(src_path, dst_path, overwrite)
        with checkpoint_file.replacing(dst_path) as partial:
            shutil.copyfile(PathManager.get_local_path(src_path), partial)
        return dst_path

    checkpoint_utils.torch_persistent_save = torch_persistent_save
    PathManager.copy = staticmethod(copy)


def save_interval_checkpoint_at_epoch_end() -> None:
    """Write the checkpoint of --save-interval-updates even if it coincides with the end of an epoch.

    fairseq skips it, including that of the last update, so an average of the last checkpoints would use older ones.
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


def store_inferred_languages() -> None:
    """Store languages that were inferred from file names in the checkpoint (fairseq issue 3304).

    Otherwise a model directory can only be loaded by specifying them again.
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
