"""A training whose loss has exploded is stopped, with advice, before it overwrites a good checkpoint."""

import functools
import logging
import math
import os

from fairseq import checkpoint_utils
from fairseq.trainer import Trainer

from .errors import InputError

logger = logging.getLogger(__name__)


class LossWatch:
    """Counts the updates in a row whose loss is worse than that of any model that learns.

    Args:
        V: entries of the dictionary. A model that knows nothing has a loss of log2 V bits a token.
    """

    # Spikes pass: of those measured in docs/reliability.md, up to 2,786 bits, none was longer than 8 updates.
    PATIENCE = 100

    def __init__(self, V: int):
        self.chance = math.log2(V)
        self.in_a_row = 0
        self.last = 0.0

    def exploded(self, loss: float) -> bool:
        """Whether `loss`, in bits a token, is more than twice that of knowing nothing, or no number."""
        return not loss <= 2 * self.chance

    def wrecked(self, valid_loss: float) -> bool:
        """Whether a validation has found a model that an explosion has left behind, or no number.

        A model that knows its training text too well can be several times worse than knowing nothing on other text.
        """
        return not valid_loss <= 100 * self.chance

    def see(self, loss: float) -> bool:
        """Note an update's loss; true if the training has exploded for good."""
        self.last = loss
        self.in_a_row = self.in_a_row + 1 if self.exploded(loss) else 0
        return self.in_a_row >= self.PATIENCE


def stop_when_loss_explodes() -> None:
    """Watch the loss of trainings whose task has a `loss_watch`, those of this plugin's models.

    Adagrad diverges where the learning rate rises faster than its accumulators, to a loss of 1e12 and more, and does
    not come back: their sums keep the next steps tiny.
    """
    train_step, save_checkpoint = Trainer.train_step, checkpoint_utils.save_checkpoint

    @functools.wraps(train_step)
    def watched_train_step(self, samples, *args, **kwargs):
        try:
            logged = train_step(self, samples, *args, **kwargs)
        except Exception as error:
            # fairseq's search for the layer where it began ends with an error of its own in models like ours.
            for cause in (error, error.__context__):
                if isinstance(cause, FloatingPointError) and str(cause).startswith(("gradients are", "Minimum loss")):
                    raise InputError(f"{cause}: {_advice(self.cfg)}") from error
            raise
        watch = getattr(self.task, "loss_watch", None)
        loss = logged.get("nll_loss", logged.get("loss")) if logged else None
        if watch and loss is not None and watch.see(loss):
            raise InputError(
                f"the loss has exploded: {watch.in_a_row} updates in a row were worse than twice the "
                f"{watch.chance:.1f} bits a token of knowing nothing, the last {loss:.4g}: {_advice(self.cfg)}"
            )
        return logged

    @functools.wraps(save_checkpoint)
    def save_good_checkpoint(cfg, trainer, epoch_itr, val_loss):
        watch = getattr(trainer.task, "loss_watch", None)
        # The loss of an update is from before its step; that of the validation, if there is one, from after it.
        valid = val_loss if cfg.best_checkpoint_metric in ("loss", "nll_loss") else None
        if watch and (watch.in_a_row or (valid is not None and watch.wrecked(valid))):
            loss = f"the loss has exploded, to {watch.last if watch.in_a_row else valid:.4g} bits a token"
            limits = trainer.cfg.optimization
            if 0 < limits.max_update <= trainer.get_num_updates() or 0 < limits.max_epoch < epoch_itr.next_epoch_idx:
                advice = f"raise --max-update or --max-epoch and go on, or {_advice(trainer.cfg)}"
                raise InputError(f"the training ends without being saved, since {loss}: {advice}")
            logger.warning(f"no checkpoint is saved now: {loss}")
            return None
        return save_checkpoint(cfg, trainer, epoch_itr, val_loss)

    Trainer.train_step = watched_train_step
    checkpoint_utils.save_checkpoint = save_good_checkpoint


def _advice(cfg) -> str:
    last = os.path.join(cfg.checkpoint.save_dir, "checkpoint_last.pt")
    kept = f"; {last} is from before" if os.path.exists(last) else ""
    warmup = getattr(cfg.lr_scheduler, "warmup_updates", None)
    slower = f"raise --warmup-updates (now {warmup}) or " if warmup is not None else ""
    return f"{slower}lower --lr (now {cfg.optimization.lr[0]}), clip by --clip-norm 1.0, and train anew{kept}"
