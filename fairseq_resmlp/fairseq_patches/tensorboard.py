"""Patches of writing TensorBoard files."""

import functools
import glob
import os

from fairseq.logging import progress_bar
from fairseq.logging.progress_bar import TensorboardProgressBarWrapper

from fairseq_resmlp.common.errors import InputError


def explain_full_disk() -> None:
    """Report in one line that a file below --tensorboard-logdir cannot be written, and name the file.

    TensorBoard writes in a thread. An error there is printed as a traceback, and raised without the name of the file.
    """
    log = TensorboardProgressBarWrapper._log_to_tensorboard

    @functools.wraps(log)
    def _log_to_tensorboard(self, stats, tag=None, step=None):
        try:
            log(self, stats, tag, step)
        except OSError as error:
            progress_bar._tensorboard_writers.pop(tag or "", None)  # fairseq would write to it again at exit
            directory = os.path.join(self.tensorboard_logdir, tag or "")
            files = sorted(glob.glob(os.path.join(glob.escape(directory), "events.out.tfevents.*")))
            file = error.filename or (files[-1] if files else directory)
            raise InputError(f"cannot write {file}: {error.strerror or error}") from error

    TensorboardProgressBarWrapper._log_to_tensorboard = _log_to_tensorboard
    try:
        from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread
    except ImportError:  # not installed, or tensorboardX
        return
    run = _AsyncWriterThread.run

    @functools.wraps(run)
    def run_without_traceback(self):
        try:
            run(self)
        except OSError:
            if self.exception is None:  # otherwise the next call of the writer raises it
                raise

    _AsyncWriterThread.run = run_without_traceback
