"""Patches of the state of a training run: what it restores, what it starts without, and when it is finished."""

import functools
import glob
import logging
import math
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

from fairseq import checkpoint_utils
from fairseq.file_io import PathManager
from fairseq.logging import progress_bar
from fairseq.models import ARCH_MODEL_NAME_REGISTRY
from fairseq.optim.lr_scheduler.reduce_lr_on_plateau import ReduceLROnPlateauLRSchedule
from fairseq.trainer import Trainer
from fairseq_cli import train
from omegaconf import OmegaConf, open_dict

from fairseq_resmlp.checkpoints.checkpoint_file import read_checkpoint
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.fairseq_patches.progress import close_log_files

logger = logging.getLogger(__name__)

RESETS = ("reset_optimizer", "reset_lr_scheduler", "reset_meters", "reset_dataloader")


def trains_resmlp(trainer: Trainer) -> bool:
    """Return whether the model is one of this plugin's, not one of fairseq's own."""
    return ARCH_MODEL_NAME_REGISTRY.get(getattr(trainer.cfg.model, "_name", None)) == "resmlp"


def train_modules() -> list[ModuleType]:
    """Return fairseq_cli.train, and its second copy if the program is `python -m fairseq_cli.train`."""
    main = sys.modules["__main__"]
    return [train, main] if hasattr(main, "should_stop_early") and main is not train else [train]


def keep_state_with_its_training() -> None:
    """Restore the count of --patience on resumption, and start every training run without the state of others.

    fairseq stores the best validation loss and the count of --patience in attributes of functions. The count is lost
    when training is interrupted (fairseq issue 3531). A second training run in the same process, such as a job of a
    Hydra sweep, starts with the values of the first one (issue 1910), and writes to its TensorBoard and log files.
    """
    load_checkpoint, save_checkpoint = checkpoint_utils.load_checkpoint, Trainer.save_checkpoint

    @functools.wraps(load_checkpoint)
    def load_with_early_stopping(cfg, trainer, **kwargs):
        _forget_earlier_training(trainer.cfg.common.log_file)
        extra_state, epoch_itr = load_checkpoint(cfg, trainer, **kwargs)
        best = getattr(checkpoint_utils.save_checkpoint, "best", None)
        if best is not None and cfg.patience > 0:  # it has been restored: neither meters nor optimizer are reset
            for module in train_modules():
                vars(module.should_stop_early).update(extra_state.get("early_stopping", {"best": best, "num_runs": 0}))
        return extra_state, epoch_itr

    @functools.wraps(save_checkpoint)
    def save_with_early_stopping(self, filename, extra_state):
        count = _early_stopping()
        return save_checkpoint(self, filename, {**extra_state, "early_stopping": count} if count else extra_state)

    checkpoint_utils.load_checkpoint = load_with_early_stopping
    Trainer.save_checkpoint = save_with_early_stopping


def _early_stopping() -> dict[str, float]:
    """Return the best validation loss and the number of validations without improvement since, as --patience counts."""
    found: dict[str, float] = {}
    for module in train_modules():
        found |= {name: value for name, value in vars(module.should_stop_early).items() if name in ("best", "num_runs")}
    return found


def _forget_earlier_training(log_file: str | None) -> None:
    for function in (checkpoint_utils.save_checkpoint, *(module.should_stop_early for module in train_modules())):
        for name in ("best", "num_runs"):
            vars(function).pop(name, None)
    progress_bar._close_writers()
    progress_bar._tensorboard_writers.clear()
    close_log_files(progress_bar.logger)
    for module in train_modules():
        close_log_files(module.logger, keep=1 if log_file else 0)  # fairseq has already opened this training's


def resume_lr_schedule() -> None:
    """Make resumed training use the same learning rates with --lr-scheduler reduce_lr_on_plateau.

    fairseq saves the checkpoint of an epoch before the schedule sees its validation loss, and does not save how many
    validations did not improve. Resumed training would reduce the learning rate later.
    """
    load_checkpoint = checkpoint_utils.load_checkpoint
    state_dict, load_state_dict = (
        ReduceLROnPlateauLRSchedule.state_dict,
        ReduceLROnPlateauLRSchedule.load_state_dict,
    )

    @functools.wraps(load_checkpoint)
    def load_with_validation_loss(cfg, trainer, **kwargs):
        extra_state, epoch_itr = load_checkpoint(cfg, trainer, **kwargs)
        # The number of updates is that of the optimizer: 0 if nothing was loaded, or if it was reset.
        if trainer.get_num_updates() and not (cfg.reset_lr_scheduler or cfg.reset_dataloader):
            at_epoch_end = extra_state["train_iterator"].get("iterations_in_epoch") == 0
            if at_epoch_end and extra_state.get("val_loss") is not None:
                trainer.lr_step(epoch_itr.epoch - 1, extra_state["val_loss"])
                trainer.lr_step(epoch_itr.epoch)
        return extra_state, epoch_itr

    @functools.wraps(state_dict)
    def state_dict_with_count(self):
        return {**state_dict(self), "num_bad_epochs": self.lr_scheduler.num_bad_epochs}

    @functools.wraps(load_state_dict)
    def load_state_dict_with_count(self, state):
        load_state_dict(self, state)
        self.lr_scheduler.num_bad_epochs = state.get("num_bad_epochs", 0)

    checkpoint_utils.load_checkpoint = load_with_validation_loss
    ReduceLROnPlateauLRSchedule.state_dict = state_dict_with_count
    ReduceLROnPlateauLRSchedule.load_state_dict = load_state_dict_with_count


def leave_finished_training_unchanged() -> None:
    """Exit without training if the training run has already ended by one of its own limits.

    Without this, fairseq trains at least one more update before it checks most of the limits, and overwrites the last
    checkpoint.
    """
    load_checkpoint = checkpoint_utils.load_checkpoint

    @functools.wraps(load_checkpoint)
    def load_unless_finished(cfg, trainer, **kwargs):
        extra_state, epoch_itr = load_checkpoint(cfg, trainer, **kwargs)
        # The number of updates is that of the optimizer: 0 if nothing was loaded, or if it was reset.
        reason = why_finished(trainer, epoch_itr) if trainer.get_num_updates() else None
        if reason:
            logger.info(f"nothing to do: training {reason}")
            # No epoch follows: fairseq compares the number of the next one with --max-epoch, which may be infinite. An
            # exit would also end the other jobs of a sweep.
            epoch_itr = SimpleNamespace(next_epoch_idx=math.nan)
        return extra_state, epoch_itr

    checkpoint_utils.load_checkpoint = load_unless_finished


def why_finished(trainer: Trainer, epoch_itr: Any) -> str | None:
    """Return which limit the training run has reached, or None."""
    limits, checkpoint = trainer.cfg.optimization, trainer.cfg.checkpoint
    updates, epochs = trainer.get_num_updates(), epoch_itr.next_epoch_idx - 1
    hours, count = trainer.cumulative_training_time() / 3600, _early_stopping().get("num_runs", 0)
    if 0 < (limits.max_update or 0) <= updates:
        return f"has completed {updates} updates and --max-update is {limits.max_update}"
    if 0 < (limits.max_epoch or 0) <= epochs:
        return f"has completed {epochs} epochs and --max-epoch is {limits.max_epoch}"
    if 0 < checkpoint.patience <= count:
        return f"has not improved in {count} validations and --patience is {checkpoint.patience}"
    if 0 < limits.stop_time_hours < hours:
        return f"has taken {hours:.4g} hours and --stop-time-hours is {limits.stop_time_hours:g}"
    if trainer.get_lr() <= limits.stop_min_lr:
        return f"has a learning rate of {trainer.get_lr():g} and --stop-min-lr is {limits.stop_min_lr:g}"
    return None


def resume_after_restore_file() -> None:
    """Make --restore-file work for training that is interrupted, and report a file that does not exist.

    If a training run of this plugin's models that began with --restore-file is started again, fairseq begins with that
    file again and resets again what --reset-* name, instead of continuing from the last checkpoint of the run. If the
    file does not exist, it trains from scratch.
    """
    load_checkpoint = checkpoint_utils.load_checkpoint

    @functools.wraps(load_checkpoint)
    def load_own_checkpoint(cfg, trainer, **kwargs):
        if trains_resmlp(trainer):
            cfg = _with_own_checkpoint(cfg, trainer.checkpoint_suffix)
        try:
            return load_checkpoint(cfg, trainer, **kwargs)
        except ValueError as error:
            if str(error).startswith("--finetune-from-model"):  # followed by all options
                raise InputError(str(error).partition(": {")[0]) from error
            raise

    checkpoint_utils.load_checkpoint = load_own_checkpoint


def _with_own_checkpoint(cfg, suffix: str):
    """Return the options with which the training run loads its checkpoint.

    Raises:
        InputError: --restore-file does not exist
    """
    last = os.path.join(cfg.save_dir, f"checkpoint_last{suffix}.pt")
    newest = _newest_checkpoint(cfg.save_dir) if cfg.no_last_checkpoints and not suffix else None
    if newest and not PathManager.isfile(last) and (_is_last(cfg, last) or _began_with(cfg, read_checkpoint(newest))):
        logger.info(f"continuing from {newest}, because there is no checkpoint_last.pt with --no-last-checkpoints")
        return _changed(cfg, restore_file=newest, finetune_from_model=None, **dict.fromkeys(RESETS, False))
    begins = not PathManager.isfile(last)
    if _is_last(cfg, last):
        name, file = "checkpoint.continue_once", getattr(cfg, "continue_once", None) if begins else None
    else:
        if not begins and _began_with(cfg, read_checkpoint(last)):
            logger.info(
                f"continuing from {last}, which this training saved after it began with --restore-file "
                f"{cfg.restore_file}; to begin with that file again, specify another --save-dir"
            )
            return _changed(cfg, restore_file="checkpoint_last.pt", **dict.fromkeys(RESETS, False))
        name, file = "--restore-file", cfg.restore_file.replace(".pt", f"{suffix}.pt")  # as fairseq does
    finetuned = cfg.finetune_from_model if begins else None
    if file is None and finetuned and PathManager.exists(finetuned):  # otherwise, fairseq reports it
        name, file = "--finetune-from-model", finetuned
    if file is not None and not PathManager.isfile(file):
        raise InputError(f"{name} {file} not found: specify an existing checkpoint, or omit the option")
    return cfg


def _is_last(cfg, last: str) -> bool:
    """Return whether --restore-file means the last checkpoint, by default or by its path."""
    return cfg.restore_file == "checkpoint_last.pt" or os.path.realpath(cfg.restore_file) == os.path.realpath(last)


def _newest_checkpoint(directory: str) -> str | None:
    """Return the checkpoint of a training run that was written last, except for one that has diverged."""
    paths = glob.glob(os.path.join(glob.escape(directory), "checkpoint*.pt"))
    paths = [path for path in paths if os.path.isfile(path) and not path.endswith("_diverged.pt")]
    return max(paths, key=os.path.getmtime, default=None)


def _changed(cfg, **changes: Any) -> Any:
    """Return options with some of them changed."""
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, enum_to_str=False))
    with open_dict(cfg):
        cfg.update(changes)
    return cfg


def _began_with(cfg, state: dict[str, Any]) -> bool:
    """Return whether the training run that saved a checkpoint began with the same --restore-file and --reset-*."""
    options = (state.get("cfg") or {}).get("checkpoint") or {}
    same_resets = all(bool(options.get(name)) == bool(cfg[name]) for name in RESETS)
    return same_resets and os.path.abspath(options.get("restore_file") or "") == os.path.abspath(cfg.restore_file)
