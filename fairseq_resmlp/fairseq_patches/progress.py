"""The time left, added to fairseq-train's log."""

import functools

from fairseq.logging import metrics
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
