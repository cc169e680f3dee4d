"""What fairseq-train's log says beyond fairseq's own words: the time left."""

import functools

from fairseq.logging import metrics
from fairseq.trainer import Trainer


def show_time_left() -> None:
    """Log `left`, hours and minutes until --max-update at the speed of the last updates, beside wps and ups."""
    original = Trainer.train_step

    @functools.wraps(original)
    def train_step(self, samples, *args, **kwargs):
        logged = original(self, samples, *args, **kwargs)
        if self.cfg.optimization.max_update > 0:
            metrics.log_derived("left", lambda meters: _left(self, meters["ups"].avg))
        return logged

    Trainer.train_step = train_step


def _left(trainer: Trainer, updates_per_second: float) -> str:
    if updates_per_second == 0:  # nothing measured yet
        return "?"
    updates = trainer.cfg.optimization.max_update - trainer.get_num_updates()
    minutes = round(max(updates, 0) / updates_per_second / 60)
    return f"{minutes // 60}h{minutes % 60:02d}m"
