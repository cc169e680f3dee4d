"""Patches of resuming with other options than those of the checkpoint."""

import functools
import logging

import torch
from fairseq.data.iterators import EpochBatchIterator
from fairseq.trainer import Trainer

from fairseq_resmlp.common.errors import InputError

logger = logging.getLogger(__name__)


def resume_with_other_batches() -> None:
    """Resume within an epoch if --max-tokens, the number of processes or the data have changed (fairseq issue 781).

    A checkpoint stores how many batches of the epoch each process has used. If the batches or the processes are
    different when training resumes, fairseq skips another part of the data, or fails if there are fewer. With this
    patch, checkpoints also store the number of batches and processes.

    - The same batches, divided among other processes: training skips those that have been used. It is exact if
      --update-freq times the number of processes is the same, so that each update has the same batches.
    - Other batches: training skips the same fraction of the epoch.
    """
    state_dict, load_state_dict = EpochBatchIterator.state_dict, EpochBatchIterator.load_state_dict

    @functools.wraps(state_dict)
    def state_dict_with_total(self):
        sizes = {"batches_in_epoch": len(self), "batches_of_all_processes": len(self.frozen_batches)}
        return {**state_dict(self), **sizes, "processes": self.num_shards}

    @functools.wraps(load_state_dict)
    def load_state_dict_of_other_batches(self, state):
        used, total, now = state.get("iterations_in_epoch", 0), state.get("batches_in_epoch"), len(self)
        processes, divided = state.get("processes", self.num_shards), len(self.frozen_batches)
        if used and processes != self.num_shards and state.get("batches_of_all_processes") == divided:
            # A process has used every n-th batch of the epoch.
            resumed = used * processes // self.num_shards
            logger.info(
                f"the number of processes has changed from {processes} to {self.num_shards}: epoch {state['epoch']} "
                f"continues after batch {resumed} of each process"
            )
            state = {**state, "iterations_in_epoch": resumed}
        # Checkpoints written without this patch have no total.
        elif used and (now <= used if total is None else now != total):
            resumed = 0 if total is None else used * now // total
            logger.warning(
                f"the data, --max-tokens, --batch-size or the number of processes has changed: epoch {state['epoch']} "
                f"now has {now} batches{f' instead of {total}' if total else ''}, and continues after batch {resumed}, "
                f"not {used}"
            )
            state = {**state, "iterations_in_epoch": resumed}
        load_state_dict(self, state)

    EpochBatchIterator.state_dict = state_dict_with_total
    EpochBatchIterator.load_state_dict = load_state_dict_of_other_batches


def explain_changed_options() -> None:
    """Report in one line that a checkpoint cannot be resumed with another scheduler, size of A or moving average."""
    original = Trainer.load_checkpoint

    @functools.wraps(original)
    def load_checkpoint(self, filename, *args, **kwargs):
        try:
            loaded = original(self, filename, *args, **kwargs)
        except KeyError as error:
            if self.cfg.ema.store_ema and error.args == ("model",):
                raise InputError(f"{filename} has no moving average of the weights: omit --store-ema") from error
            raise InputError(
                f"{filename} was written with another --lr-scheduler or --optimizer, or is incomplete ({error} not "
                "found): use the same options, or pass --reset-lr-scheduler or --reset-optimizer"
            ) from error
        if loaded is not None:
            _check_optimizer_state(self, filename)
        return loaded

    Trainer.load_checkpoint = load_checkpoint


def _check_optimizer_state(trainer: Trainer, filename: str) -> None:
    """Check that the optimizer state has the sizes of the parameters. Another N changes the size of A."""
    for parameter, state in getattr(trainer.optimizer.optimizer, "state", {}).items():
        for value in state.values():
            if torch.is_tensor(value) and value.dim() == parameter.dim() and value.shape != parameter.shape:
                raise InputError(
                    f"the optimizer state of {filename} has a tensor of size {tuple(value.shape)}, but the parameter "
                    f"has size {tuple(parameter.shape)}: pass --reset-optimizer"
                )
