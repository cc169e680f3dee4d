"""Patches of training in mixed precision, `--amp`.

Under --amp, float16 represents values up to 65,504. The backward pass therefore starts from a loss times a scale, which
is halved if a gradient is infinite. fairseq then repeats the batch up to --amp-batch-retries times and skips it.
"""

import functools
import logging

import torch
from fairseq.optim import AMPOptimizer
from fairseq.tasks.fairseq_task import FairseqTask
from fairseq.trainer import Trainer

logger = logging.getLogger(__name__)


def fix_amp_double_unscaling() -> None:
    """Make --amp unscale gradients once.

    fairseq passes torch's optimizer to torch's GradScaler when it clips gradients, and its own wrapper when it steps.
    The scaler treats them as two optimizers and divides the gradients by the loss scale twice. The scale grows during
    training, so Adagrad's new gradients would vanish relative to the accumulated ones.
    """

    def step(self):
        self.scaler.step(self.optimizer)
        self.scaler.update()

    AMPOptimizer.step = step


def repeat_overflows_in_float32() -> None:
    """Make an update in float32 if --amp cannot make it in float16 (this plugin's models only).

    Aff does not bound its output. If a step is too large, the activations leave the range of float16, at any scale of
    the loss. Training in float32 recovers from such a spike in a few updates. Under --amp, fairseq skips every
    following batch and ends at the smallest scale.

    fairseq also counts the repetitions of different batches together.
    """
    trainer_step, task_step = Trainer.train_step, FairseqTask.train_step
    clip_grad_norm, step = AMPOptimizer.clip_grad_norm, AMPOptimizer.step

    @functools.wraps(trainer_step)
    def repeat_in_float32(self, samples, *args, **kwargs):
        if not self.cfg.common.amp or not hasattr(self.task, "divergence_detector"):
            return trainer_step(self, samples, *args, **kwargs)
        retries = self.cfg.common.amp_batch_retries
        self.optimizer.in_float32 = retries > 0 and self._amp_retries == retries
        if self.optimizer.in_float32:
            logger.info(f"update {self.get_num_updates() + 1} exceeds the range of float16: repeating it in float32")
        try:
            return trainer_step(self, samples, *args, **kwargs)
        finally:
            self.optimizer.in_float32, self._amp_retries = False, 0

    @functools.wraps(task_step)
    def step_in_float32(self, sample, model, criterion, optimizer, *args, **kwargs):
        def criterion_in_float32(model, sample):
            with torch.autocast("cuda", enabled=False):
                return criterion(model, sample)

        in_float32 = getattr(optimizer, "in_float32", False)
        return task_step(
            self, sample, model, criterion_in_float32 if in_float32 else criterion, optimizer, *args, **kwargs
        )

    @functools.wraps(clip_grad_norm)
    def clip_finite_grad_norm(self, max_norm, aggregate_norm_fn=None):
        self.is_at_minimum = False
        if not hasattr(self, "in_float32"):
            return clip_grad_norm(self, max_norm, aggregate_norm_fn)
        try:
            norm = clip_grad_norm(self, max_norm, aggregate_norm_fn)
        except FloatingPointError:  # the smallest scale of the loss
            self.is_at_minimum = True
            norm = torch.full((), torch.inf, device=next(iter(self.fp32_optimizer.params)).device)
        if self.in_float32 and not torch.isfinite(norm).all():
            raise FloatingPointError("gradients are Nan/Inf")  # fairseq's words in float32
        return norm

    @functools.wraps(step)
    def step_above_minimum(self):
        step(self)
        if self.is_at_minimum:  # a lower scale does not help if activations are infinite
            self.scaler.update(self.min_loss_scale)

    Trainer.train_step, FairseqTask.train_step = repeat_in_float32, step_in_float32
    AMPOptimizer.clip_grad_norm, AMPOptimizer.step = clip_finite_grad_norm, step_above_minimum
