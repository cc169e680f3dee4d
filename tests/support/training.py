"""Training in the process of the tests, several times, as a program or a sweep does."""

import copy
import functools

from fairseq import checkpoint_utils, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed import utils as distributed_utils
from fairseq.trainer import Trainer
from fairseq_cli import train as fairseq_train
from omegaconf import OmegaConf

from fairseq_resmlp.checkpoints.checkpoint_file import read_checkpoint
from support.commands import train_options


class Interrupted(BaseException):
    """Ends training at once, like a signal."""


@functools.cache
def _configuration(data_bin, arguments, cpu):
    parser = options.get_training_parser()
    command = [str(option) for option in (*train_options(data_bin, "unused"), *arguments)]
    if not cpu:
        command.remove("--cpu")
    if "cross_entropy" in arguments:  # the only criterion of the tests without this option
        position = command.index("--label-smoothing")
        del command[position : position + 2]
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, input_args=command))


def train(data_bin, save_dir, *arguments, kill_at=None, cpu=True, **changes):
    """Do what fairseq-train does.

    Args:
        arguments: options in addition to those of `train_options`, as on the command line. Parsing takes longer than
            training, so it is done once for the same options.
        kill_at: end training before this update. Nothing is written after that.
        cpu: train on the CPU, also if there is a GPU
        changes: options of the section `checkpoint`
    """
    cfg = copy.deepcopy(_configuration(data_bin, arguments, cpu))
    for name, value in {"save_dir": save_dir, **changes}.items():
        OmegaConf.update(cfg.checkpoint, name, value if isinstance(value, (bool, int)) else str(value))
    train_step = Trainer.train_step

    def interrupted_train_step(self, samples, *args, **kwargs):
        if self.get_num_updates() + 1 == kill_at:
            raise Interrupted
        return train_step(self, samples, *args, **kwargs)

    Trainer.train_step = interrupted_train_step
    try:
        distributed_utils.call_main(cfg, fairseq_train.main)
    except Interrupted:
        end_process()
    finally:
        Trainer.train_step = train_step


def end_process():
    """Lose what a process loses when it ends: the state that fairseq stores in attributes of its functions."""
    for function in (checkpoint_utils.save_checkpoint, fairseq_train.should_stop_early):
        for name in ("best", "num_runs"):
            vars(function).pop(name, None)


def final_state(directory, name="checkpoint_last.pt"):
    """Load a checkpoint without times: weights, optimizer state, schedule, position in the data, early stopping."""
    state = read_checkpoint(str(directory / name))
    return {
        "model": state["model"],
        "optimizer": state["last_optimizer_state"],
        "schedule": state["optimizer_history"][-1],
        **{name: state["extra_state"].get(name) for name in ("train_iterator", "val_loss", "best", "early_stopping")},
    }


def contents(directory):
    """Return the files of a directory with their content."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}
