"""Patches of reading and writing checkpoints."""

import functools
import importlib
import pickle
import shutil
import sys
from types import ModuleType, SimpleNamespace

import torch
from fairseq import checkpoint_utils, tasks
from fairseq.dataclass import utils as dataclass_utils
from fairseq.file_io import PathManager
from fairseq.trainer import Trainer
from omegaconf import DictConfig, OmegaConf

from fairseq_resmlp.checkpoints import checkpoint_file, safe_loading
from fairseq_resmlp.checkpoints.dictionary_hash import KEY, check_hashes
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.literals import evaluate_literal
from fairseq_resmlp.fairseq_patches.option_checks import check_override_names

# The modules of fairseq that call torch.load, except to receive objects from other processes of a training
_CALLERS_OF_TORCH_LOAD = (
    "fairseq.checkpoint_utils",
    "fairseq.data.codedataset",
    "fairseq.models.speech_to_text.xm_transformer",
    "fairseq.models.text_to_speech.vocoder",
    "fairseq.modules.quantization.pq.em",
)


class _TorchWithSafeLoad(ModuleType):
    """torch as some modules of fairseq see it. Only its `load` differs, which is `checkpoint_file.load`."""

    load = staticmethod(checkpoint_file.load)

    def __getattr__(self, name):
        return getattr(torch, name)


def patch_checkpoint_loading() -> None:
    """Load fairseq's checkpoints weights-only and verify them (fairseq issue 5610).

    torch 2.6 and later refuse globals that are not on a list, and fairseq's own checkpoints contain some (see
    `ALLOWED_GLOBALS`). A checkpoint that does not fit the model is also reported in one line.
    """
    for name in _CALLERS_OF_TORCH_LOAD:
        importlib.import_module(name).torch = _TorchWithSafeLoad("torch")  # type: ignore[attr-defined]
    load_to_cpu, load_in_training = checkpoint_utils.load_checkpoint_to_cpu, Trainer.load_checkpoint
    load_and_build = checkpoint_utils.load_model_ensemble_and_task

    @functools.wraps(load_to_cpu)
    def load_checkpoint_to_cpu(path, arg_overrides=None, *args, **kwargs):
        with checkpoint_file.safe_to_load(path):
            state = load_to_cpu(path, arg_overrides, *args, **kwargs)
            checkpoint_file.check(state, path)
            if arg_overrides and OmegaConf.is_config(state.get("cfg")):
                check_override_names(arg_overrides, state["cfg"])
            checkpoint_file.upgrade(state)
            extra_check = checkpoint_file.extra_check.get()
            if extra_check:
                extra_check(state, path)
        return state

    @functools.wraps(load_in_training)
    def load_checkpoint(self, filename, *args, **kwargs):
        def check_task(state, path):
            stored = state.get("task_state", {})
            check_hashes(stored.get(KEY), self.task.state.state_dict.get(KEY, {}))
            if hasattr(self.task, "check_state"):  # a task of this plugin
                self.task.check_state(stored)

        before = checkpoint_file.extra_check.set(check_task)
        try:
            return load_in_training(self, filename, *args, **kwargs)
        except InputError as error:
            raise InputError(str(error) if filename in str(error) else f"{filename}: {error}") from error
        except Exception as error:
            if isinstance(error.__context__, InputError):  # fairseq replaces it with "architectures match"
                raise InputError(f"{filename}: {error.__context__}") from error
            raise
        finally:
            checkpoint_file.extra_check.reset(before)

    @functools.wraps(load_and_build)
    def load_model_ensemble_and_task(*args, **kwargs):
        try:
            return load_and_build(*args, **kwargs)
        except pickle.UnpicklingError as error:  # building a model may also load files that its options name
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

    def evaluate(text):
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is not a string")  # fairseq then uses a default
        return evaluate_literal(text)

    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "fairseq" and module is not None:
            module.eval = evaluate  # type: ignore[attr-defined]  # shadows the built-in

    read_list = dataclass_utils.eval_str_list  # for options such as --lr, which fairseq evaluates without arithmetic

    @functools.wraps(read_list)
    def eval_str_list(x, x_type=float):
        return read_list(evaluate_literal(x) if isinstance(x, str) and x else x, x_type)

    dataclass_utils.eval_str_list = eval_str_list


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
        due = cfg.save_interval_updates > 0 and trainer.get_num_updates() % cfg.save_interval_updates == 0
        if due and epoch_itr.end_of_epoch():
            # fairseq writes and deletes it as in the middle of an epoch, and checkpoint_best.pt if this is the best.
            # checkpoint_last.pt comes last: training that is killed in between writes them all when it resumes.
            interval_only = OmegaConf.create(OmegaConf.to_container(cfg, enum_to_str=False))
            interval_only.update({"no_last_checkpoints": True, "keep_best_checkpoints": 0, "keep_last_epochs": -1})
            inside = SimpleNamespace(epoch=epoch_itr.epoch, state_dict=epoch_itr.state_dict, end_of_epoch=lambda: False)
            original(interval_only, trainer, inside, val_loss)
        return original(cfg, trainer, epoch_itr, val_loss)

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
