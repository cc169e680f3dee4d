"""Patches of the --save-dir of a training run: checked without harm, and not shared by two runs."""

import contextlib
import fcntl
import functools
import logging
import os
import socket
import tempfile

from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.fairseq_patches.training_state import trains_resmlp

logger = logging.getLogger(__name__)

# Descriptors of the lock files of this process. The locks end when the process does.
_locked: list[int] = []


def check_directory_with_unique_name() -> None:
    """Keep a file named `dummy` in --save-dir.

    To find out whether it can write to the directory, fairseq creates and deletes this file. It deletes the user's, and
    fails if two training runs start at the same time.
    """

    def verify_checkpoint_directory(save_dir):
        os.makedirs(save_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=save_dir):
            pass

    checkpoint_utils.verify_checkpoint_directory = verify_checkpoint_directory


def refuse_second_training() -> None:
    """Refuse to train one of this plugin's models in the --save-dir of another training run that has not ended.

    The two would overwrite each other's checkpoints. The master process locks the directory; with --no-save it does
    not, because it writes nothing there.
    """
    load_checkpoint = checkpoint_utils.load_checkpoint

    @functools.wraps(load_checkpoint)
    def load_into_locked_directory(cfg, trainer, **kwargs):
        is_master = distributed_utils.is_master(trainer.cfg.distributed_training)
        if is_master and not cfg.no_save and trains_resmlp(trainer):
            lock_directory(cfg.save_dir)
        return load_checkpoint(cfg, trainer, **kwargs)

    checkpoint_utils.load_checkpoint = load_into_locked_directory


def lock_directory(directory: str) -> None:
    """Lock a directory until the process ends. A process may lock it again, except for two jobs of a Hydra sweep.

    The lock is one of POSIX (`fcntl.lockf`), not of `flock`: processes that load data would inherit the latter and hold
    it for some seconds after training has been killed.

    Raises:
        InputError: another process has locked the directory, or another job of the sweep
    """
    path = os.path.join(directory, ".training.lock")
    # Closing any descriptor of this file would unlock it, so a file that this process has locked is not opened again.
    if any(_is_file(descriptor, path) for descriptor in _locked):
        if _is_sweep():
            raise InputError(
                f"two jobs of this sweep have the same checkpoint.save_dir, {directory}: include the number of the job "
                "in it, as in DIRECTORY/${hydra:job.num}"
            )
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        _warn(directory, error)
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.read(descriptor, 1000).decode("utf-8", "replace").strip() or "unknown process"
        os.close(descriptor)
        raise InputError(
            f"another training ({owner}) uses {directory}: wait until it has ended, or specify another --save-dir"
        ) from error
    except OSError as error:
        os.close(descriptor)
        _warn(directory, error)
        return
    _locked.append(descriptor)
    with contextlib.suppress(OSError):  # for the message above only
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def _is_sweep() -> bool:
    """Return whether this process runs the jobs of fairseq-hydra-train --multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _is_file(descriptor: int, path: str) -> bool:
    return os.path.exists(path) and os.path.samestat(os.fstat(descriptor), os.stat(path))


def _warn(directory: str, error: OSError) -> None:
    reason = error.strerror or error
    logger.warning(f"{directory} cannot be locked ({reason}): make sure that no other training uses it")
