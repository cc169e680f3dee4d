"""Detection of diverging training: stop it, with advice, before it overwrites a good checkpoint."""

import contextlib
import functools
import logging
import math
import os
import re

from fairseq import checkpoint_utils
from fairseq.criterions import FairseqCriterion
from fairseq.criterions.adaptive_loss import AdaptiveLoss
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.trainer import Trainer

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.fairseq_patches.training_state import train_modules, why_finished

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
        self.last_update = -1
        self.valid_loss: float | None = None  # of the last validation that had not jumped
        self.jump: float | None = None  # loss of the last validation, if it had jumped
        self.saved_apart: str | None = None  # the checkpoint of a model that seemed to have diverged

    def is_divergent(self, loss: float) -> bool:
        """Return whether `loss`, in bits per token, is more than twice the uniform loss, or not a number."""
        return not loss <= 2 * self.uniform_loss

    def observe_validation(self, loss: float) -> bool:
        """Record a validation loss. Returns whether it has jumped far above the uniform loss, as after divergence.

        A model that overfits can also become far worse than uniform on other text, but only gradually. Later losses are
        not compared with one after a jump.
        """
        before = 50 * self.uniform_loss if self.valid_loss is None else self.valid_loss
        if not loss <= max(2 * self.uniform_loss, 3 * before):
            self.jump = loss
            return True
        self.valid_loss, self.jump = loss, None
        return False

    def divergent_loss(self, validated: bool) -> float | None:
        """Return the loss of a model that is about to be saved, if it has diverged.

        Args:
            validated: whether the model has just been validated. Otherwise, the last update is used, whose loss is
                measured before its step.
        """
        if validated:
            return self.jump
        return self.last_loss if self.consecutive else None

    def observe(self, loss: float, update: int) -> bool:
        """Record the loss of an update. Returns whether the last `PATIENCE` losses were all divergent.

        fairseq's `train_step` calls itself when --amp skips a batch. An update is recorded once.
        """
        if update != self.last_update:
            self.last_loss, self.last_update = loss, update
            self.consecutive = self.consecutive + 1 if self.is_divergent(loss) else 0
        return self.consecutive >= self.PATIENCE


def stop_on_divergence() -> None:
    """Monitor the loss of training runs whose task has a `divergence_detector`: those of this plugin's models.

    Adagrad diverges if the learning rate rises faster than its accumulators, to a loss of 1e12 and more, and does not
    recover: the accumulated sums keep the following steps tiny.
    """
    train_step, save_file = Trainer.train_step, Trainer.save_checkpoint
    save_checkpoint, load_checkpoint = checkpoint_utils.save_checkpoint, checkpoint_utils.load_checkpoint

    @functools.wraps(train_step)
    def monitored_train_step(self, samples, *args, **kwargs):
        detector = _detector(self)
        if detector is None:
            return train_step(self, samples, *args, **kwargs)
        try:
            logged = train_step(self, samples, *args, **kwargs)
        except Exception as error:
            # fairseq's search for the layer that caused it fails with an error of its own in models like ours.
            for cause in (error, error.__context__):
                if isinstance(cause, FloatingPointError) and re.match("gradients are|(AMP: )?Minimum loss", str(cause)):
                    raise InputError(f"{cause}: {_advice(self.cfg)}") from error
            raise
        loss = _bits_per_token(logged or {}, self.get_criterion())
        if loss is not None and detector.observe(loss, self.get_num_updates()):
            raise InputError(
                f"training has diverged: the loss of {detector.consecutive} consecutive updates exceeded twice the "
                f"{detector.uniform_loss:.1f} bits per token of a uniform distribution, the last was {loss:.4g}: "
                f"{_advice(self.cfg)}"
            )
        return logged

    def monitor_validation(get_valid_stats):
        @functools.wraps(get_valid_stats)
        def monitored_valid_stats(cfg, trainer, stats, tracking_best):
            detector, loss = _detector(trainer), _bits_per_token(stats, trainer.get_criterion())
            if detector and tracking_best and loss is not None:
                detector.observe_validation(loss)
            return get_valid_stats(cfg, trainer, stats, tracking_best)

        return monitored_valid_stats

    @functools.wraps(save_checkpoint)
    def save_good_checkpoint(cfg, trainer, epoch_itr, val_loss):
        detector = _detector(trainer)
        loss = detector.divergent_loss(validated=val_loss is not None) if detector else None
        if loss is None:
            saved = save_checkpoint(cfg, trainer, epoch_itr, val_loss)
            if detector and detector.saved_apart:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(detector.saved_apart)  # training has recovered, and continues from it
                detector.saved_apart = None
            return saved
        detector.saved_apart = _save_apart(cfg, trainer, epoch_itr, val_loss) or detector.saved_apart
        diverged = f"training has diverged, to {loss:.4g} bits per token"
        if not cfg.no_save:
            diverged += f"; this model is in {_name_apart(cfg, trainer)}"
        if why_finished(trainer, epoch_itr):
            advice = f"raise --max-update or --max-epoch and continue, or {_advice(trainer.cfg)}"
            raise InputError(f"training ended without saving a checkpoint, because {diverged}: {advice}")
        logger.warning(f"checkpoint not saved: {diverged}")
        return None

    @functools.wraps(save_file)
    def save_with_validation(self, filename, extra_state):
        loss = getattr(_detector(self), "valid_loss", None)
        return save_file(self, filename, extra_state if loss is None else {**extra_state, "valid_bits_per_token": loss})

    @functools.wraps(load_checkpoint)
    def load_with_validation(cfg, trainer, **kwargs):
        extra_state, epoch_itr = load_checkpoint(cfg, trainer, **kwargs)
        detector = _detector(trainer)
        if detector and extra_state and hasattr(checkpoint_utils.save_checkpoint, "best"):  # restored, not reset
            detector.valid_loss = extra_state.get("valid_bits_per_token")
        return extra_state, epoch_itr

    Trainer.train_step, Trainer.save_checkpoint = monitored_train_step, save_with_validation
    for module in train_modules():
        module.get_valid_stats = monitor_validation(module.get_valid_stats)  # type: ignore[attr-defined]
    checkpoint_utils.save_checkpoint, checkpoint_utils.load_checkpoint = save_good_checkpoint, load_with_validation


def _detector(trainer: Trainer) -> DivergenceDetector | None:
    return getattr(trainer.task, "divergence_detector", None)


def _bits_per_token(stats: dict[str, float], criterion: FairseqCriterion) -> float | None:
    """Return the loss in bits per token, or None if the criterion does not log one that can be compared with log2 V.

    "loss" is per sentence with --sentence-avg, and criterions add terms of their own to it. fairseq logs "nll_loss" per
    token, and these two criterions only log it if it differs from "loss".
    """
    loss = stats.get("nll_loss")
    if loss is None and isinstance(criterion, (CrossEntropyCriterion, AdaptiveLoss)):
        loss = stats.get("loss")
    # R-Drop adds up the losses of two passes through the same tokens.
    return loss / 2 if loss is not None and getattr(criterion, "rdrop_alpha", 0) > 0 else loss


def _name_apart(cfg, trainer: Trainer) -> str:
    return os.path.join(cfg.save_dir, f"checkpoint_diverged{trainer.checkpoint_suffix}.pt")


def _save_apart(cfg, trainer: Trainer, epoch_itr, val_loss: float | None) -> str | None:
    """Save a checkpoint under a name of its own: it may still be of use. Returns its path if this rank saves."""
    if cfg.no_save:
        return None
    trainer.consolidate_optimizer()
    if trainer.always_call_state_dict_during_save_checkpoint and not trainer.should_save_checkpoint_on_current_rank:
        trainer.state_dict()  # the ranks communicate
    best = getattr(checkpoint_utils.save_checkpoint, "best", None)
    extra_state = {"train_iterator": epoch_itr.state_dict(), "val_loss": val_loss}
    return trainer.save_checkpoint(
        _name_apart(cfg, trainer), extra_state if best is None else {**extra_state, "best": best}
    )


def _advice(cfg) -> str:
    last = os.path.join(cfg.checkpoint.save_dir, "checkpoint_last.pt")
    kept = f"; the last saved checkpoint is {last}" if os.path.exists(last) else ""
    warmup = getattr(cfg.lr_scheduler, "warmup_updates", None)
    slower = f"raise --warmup-updates (now {warmup}) or " if warmup is not None else ""
    return f"{slower}lower --lr (now {cfg.optimization.lr[0]}), clip with --clip-norm 1.0, and restart training{kept}"
