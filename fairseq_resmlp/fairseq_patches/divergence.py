"""Detection of diverging training: stop it, with advice, before it overwrites a good checkpoint."""

import functools
import logging
import math
import os

from fairseq import checkpoint_utils
from fairseq.trainer import Trainer

from fairseq_resmlp.common.errors import InputError

logger = logging.getLogger(__name__)


class DivergenceDetector:
    """Detects that training has diverged, from the losses of updates and validations in bits per token.

    Args:
        V: entries of the dictionary; a uniform distribution has a loss of log2 V bits per token
    """

    # Training recovers from spikes: none of those measured in docs/reliability.md, of up to 8,157 bits per token, took
    # longer than 12 updates.
    PATIENCE = 100

    def __init__(self, V: int):
        self.uniform_loss = math.log2(V)
        self.consecutive = 0  # updates with a divergent loss
        self.last_loss = 0.0
        self.valid_loss: float | None = None  # of the previous validation

    def is_divergent(self, loss: float) -> bool:
        """Return whether `loss`, in bits per token, is more than twice the uniform loss, or not a number."""
        return not loss <= 2 * self.uniform_loss

    def observe_validation(self, loss: float) -> bool:
        """Record a validation loss. Returns whether it has jumped far above the uniform loss, as after divergence.

        A model that overfits can also become far worse than uniform on other text, but only gradually. A loss after a
        jump is not recorded.
        """
        before = 50 * self.uniform_loss if self.valid_loss is None else self.valid_loss
        if not loss <= max(2 * self.uniform_loss, 3 * before):
            return True
        self.valid_loss = loss
        return False

    def observe(self, loss: float) -> bool:
        """Record the loss of an update. Returns whether the last `PATIENCE` losses were all divergent."""
        self.last_loss = loss
        self.consecutive = self.consecutive + 1 if self.is_divergent(loss) else 0
        return self.consecutive >= self.PATIENCE


def stop_on_divergence() -> None:
    """Monitor the loss of training runs whose task has a `divergence_detector`: those of this plugin's models.

    Adagrad diverges if the learning rate rises faster than its accumulators, to a loss of 1e12 and more, and does not
    recover: the accumulated sums keep the following steps tiny.
    """
    train_step = Trainer.train_step
    save_checkpoint, load_checkpoint = checkpoint_utils.save_checkpoint, checkpoint_utils.load_checkpoint

    @functools.wraps(train_step)
    def monitored_train_step(self, samples, *args, **kwargs):
        try:
            logged = train_step(self, samples, *args, **kwargs)
        except Exception as error:
            # fairseq's search for the layer that caused it fails with an error of its own in models like ours.
            for cause in (error, error.__context__):
                if isinstance(cause, FloatingPointError) and str(cause).startswith(("gradients are", "Minimum loss")):
                    raise InputError(f"{cause}: {_advice(self.cfg)}") from error
            raise
        detector = getattr(self.task, "divergence_detector", None)
        loss = logged.get("nll_loss", logged.get("loss")) if logged else None
        if detector and loss is not None and detector.observe(loss):
            raise InputError(
                f"training has diverged: the loss of {detector.consecutive} consecutive updates exceeded twice the "
                f"{detector.uniform_loss:.1f} bits per token of a uniform distribution, the last was {loss:.4g}: "
                f"{_advice(self.cfg)}"
            )
        return logged

    @functools.wraps(save_checkpoint)
    def save_good_checkpoint(cfg, trainer, epoch_itr, val_loss):
        detector = getattr(trainer.task, "divergence_detector", None)
        # The loss of an update is measured before its step, that of a validation after it.
        validated = val_loss is not None and _validates_by_loss(cfg)
        if detector and (detector.observe_validation(val_loss) if validated else detector.consecutive):
            loss = f"training has diverged, to {val_loss if validated else detector.last_loss:.4g} bits per token"
            if _is_last_update(trainer, epoch_itr):
                advice = f"raise --max-update or --max-epoch and continue, or {_advice(trainer.cfg)}"
                raise InputError(f"training ended without saving a checkpoint, because {loss}: {advice}")
            logger.warning(f"checkpoint not saved: {loss}")
            return None
        return save_checkpoint(cfg, trainer, epoch_itr, val_loss)

    @functools.wraps(load_checkpoint)
    def load_checkpoint_with_validation(cfg, trainer, **kwargs):
        extra_state, epoch_itr = load_checkpoint(cfg, trainer, **kwargs)
        detector = getattr(trainer.task, "divergence_detector", None)
        if detector and extra_state and _validates_by_loss(cfg):
            detector.valid_loss = extra_state.get("val_loss")
        return extra_state, epoch_itr

    Trainer.train_step = monitored_train_step
    checkpoint_utils.save_checkpoint = save_good_checkpoint
    checkpoint_utils.load_checkpoint = load_checkpoint_with_validation


def _validates_by_loss(cfg) -> bool:
    """Return whether the value that fairseq calls the validation loss is a loss, not BLEU."""
    return cfg.best_checkpoint_metric in ("loss", "nll_loss")


def _is_last_update(trainer: Trainer, epoch_itr) -> bool:
    limits, hours = trainer.cfg.optimization, trainer.cumulative_training_time() / 3600
    return (
        0 < limits.max_update <= trainer.get_num_updates()
        or 0 < limits.max_epoch < epoch_itr.next_epoch_idx
        or 0 < limits.stop_time_hours < hours
    )


def _advice(cfg) -> str:
    last = os.path.join(cfg.checkpoint.save_dir, "checkpoint_last.pt")
    kept = f"; the last saved checkpoint is {last}" if os.path.exists(last) else ""
    warmup = getattr(cfg.lr_scheduler, "warmup_updates", None)
    slower = f"raise --warmup-updates (now {warmup}) or " if warmup is not None else ""
    return f"{slower}lower --lr (now {cfg.optimization.lr[0]}), clip with --clip-norm 1.0, and restart training{kept}"
