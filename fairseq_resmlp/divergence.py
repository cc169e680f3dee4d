"""A training whose loss has exploded is stopped, with advice, before it overwrites a good checkpoint."""

import functools
import logging
import math
import os
from typing import Optional

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
        self.valid: Optional[float] = None  # of the last validation before

    def exploded(self, loss: float) -> bool:
        """Whether `loss`, in bits a token, is more than twice that of knowing nothing, or no number."""
        return not loss <= 2 * self.chance

    def wrecked(self, valid: float) -> bool:
        """Whether a validation has found what an explosion leaves behind: worse than knowing nothing, at a jump.

        A model that knows its training text by heart comes to be far worse than knowing nothing on other text, but
        it comes there step by step.
        """
        before = 50 * self.chance if self.valid is None else self.valid
        if not valid <= max(2 * self.chance, 3 * before):
            return True
        self.valid = valid
        return False

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
    train_step = Trainer.train_step
    save_checkpoint, load_checkpoint = checkpoint_utils.save_checkpoint, checkpoint_utils.load_checkpoint

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
        # The loss of an update is from before its step, that of a validation from after it.
        validated = val_loss is not None and _by_loss(cfg)
        if watch and (watch.wrecked(val_loss) if validated else watch.in_a_row):
            loss = f"the loss has exploded, to {val_loss if validated else watch.last:.4g} bits a token"
            if _ends(trainer, epoch_itr):
                advice = f"raise --max-update or --max-epoch and go on, or {_advice(trainer.cfg)}"
                raise InputError(f"the training ends without being saved, since {loss}: {advice}")
            logger.warning(f"no checkpoint is saved now: {loss}")
            return None
        return save_checkpoint(cfg, trainer, epoch_itr, val_loss)

    @functools.wraps(load_checkpoint)
    def load_checkpoint_with_validation(cfg, trainer, **kwargs):
        extra_state, epoch_itr = load_checkpoint(cfg, trainer, **kwargs)
        watch = getattr(trainer.task, "loss_watch", None)
        if watch and extra_state and _by_loss(cfg):
            watch.valid = extra_state.get("val_loss")
        return extra_state, epoch_itr

    Trainer.train_step = watched_train_step
    checkpoint_utils.save_checkpoint = save_good_checkpoint
    checkpoint_utils.load_checkpoint = load_checkpoint_with_validation


def _by_loss(cfg) -> bool:
    """Whether what fairseq calls the validation loss is one, and not a BLEU."""
    return cfg.best_checkpoint_metric in ("loss", "nll_loss")


def _ends(trainer: Trainer, epoch_itr) -> bool:
    """Whether no update follows."""
    limits, hours = trainer.cfg.optimization, trainer.cumulative_training_time() / 3600
    return (
        0 < limits.max_update <= trainer.get_num_updates()
        or 0 < limits.max_epoch < epoch_itr.next_epoch_idx
        or 0 < limits.stop_time_hours < hours
    )


def _advice(cfg) -> str:
    last = os.path.join(cfg.checkpoint.save_dir, "checkpoint_last.pt")
    kept = f"; the last one saved is {last}" if os.path.exists(last) else ""
    warmup = getattr(cfg.lr_scheduler, "warmup_updates", None)
    slower = f"raise --warmup-updates (now {warmup}) or " if warmup is not None else ""
    return f"{slower}lower --lr (now {cfg.optimization.lr[0]}), clip by --clip-norm 1.0, and train anew{kept}"
