"""Patches of fairseq-train's log."""

import functools
import logging

from fairseq.logging import metrics, progress_bar
from fairseq.trainer import Trainer


def log_time_left() -> None:
    """Log `left`, the hours and minutes until --max-update at the current speed, next to wps and ups."""
    original = Trainer.train_step

    @functools.wraps(original)
    def train_step(self, samples, *args, **kwargs):
        logged = original(self, samples, *args, **kwargs)
        if self.cfg.optimization.max_update > 0:
            metrics.log_derived("left", lambda meters: _time_left(self, meters["ups"].avg))
        return logged

    Trainer.train_step = train_step


def _time_left(trainer: Trainer, updates_per_second: float) -> str:
    if updates_per_second == 0:  # not measured yet
        return "?"
    updates = trainer.cfg.optimization.max_update - trainer.get_num_updates()
    minutes = round(max(updates, 0) / updates_per_second / 60)
    return f"{minutes // 60}h{minutes % 60:02d}m"


def write_log_file_once() -> None:
    """Write every line of --log-file once.

    fairseq opens the file again in each epoch, and then writes each line to all open ones.
    """
    original = progress_bar.progress_bar

    @functools.wraps(original)
    def create_progress_bar(iterator, log_format=None, log_interval=100, log_file=None, *args, **kwargs):
        if log_file is not None:
            close_log_files(progress_bar.logger)
        return original(iterator, log_format, log_interval, log_file, *args, **kwargs)

    progress_bar.progress_bar = create_progress_bar


def close_log_files(logger: logging.Logger, keep: int = 0) -> None:
    """Close the files that a logger writes to, except for the last `keep` of them."""
    handlers = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
    for handler in handlers[: len(handlers) - keep]:
        logger.removeHandler(handler)
        handler.close()
