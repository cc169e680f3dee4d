"""Label-smoothed cross-entropy in less time and memory: `--criterion fused_label_smoothed_cross_entropy`.

The criterion computes the output layer itself, so that the logits of a batch never exist all at once. It processes
target positions in blocks and the dictionary in chunks, and turns the logits of a block into their gradient before it
continues with the next block.

Dimensions: M target positions without padding (m of them in a block), d channels, V entries of the dictionary.
"""

import inspect
import math

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.modules.linear import linear

ROWS = 1024  # target positions per block
ENTRIES = 4096  # dictionary entries per chunk on a CPU: glibc maps fresh pages for allocations of 32 MiB or more


class SmoothedCrossEntropy(torch.autograd.Function):
    """The loss, summed over target positions. Its gradient is already computed in the forward pass.

    The gradient with respect to the logits z of a position with target y is

        softmax(z)_v - epsilon_i - (1 - epsilon - epsilon_i) [v = y],   epsilon_i = epsilon / (V - 1)

    because fairseq's two coefficients of the softmax add up to 1. It does not depend on later computations, except for
    a factor, which `backward` applies. All sums are computed in at least float32. float16 cannot represent the small
    probabilities or the large sums, and the loss scale is not known yet, so float16 gradients are computed in float32.
    """

    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, target: Tensor, epsilon: float, training: bool):
        """
        Args:
            features: M x d
            weight: V x d
            target (LongTensor): M
            epsilon: label smoothing
            training: whether a gradient will be needed

        Returns:
            three sums over positions: the loss in nats, its part without smoothing (the negative log-likelihood) in
            nats, and the number of targets that have the largest logit. Only the loss has a gradient.
        """
        V = len(weight)
        epsilon_i = epsilon / (V - 1)
        exact = torch.promote_types(features.dtype, torch.float32)
        product_type = exact if features.dtype == torch.float16 else features.dtype
        entries = ENTRIES if features.device.type == "cpu" else V
        chunks = [(first, weight[first : first + entries]) for first in range(0, V, entries)]
        needs_features, needs_weight = (training and needed for needed in ctx.needs_input_grad[:2])
        grad_features = torch.zeros_like(features, dtype=exact) if needs_features else None
        grad_weight = torch.zeros_like(weight, dtype=exact) if needs_weight else None
        # Two separate tensors, not views of one: fairseq multiplies the loss of a dummy batch by zero in place.
        loss, nll = features.new_zeros((), dtype=exact), features.new_zeros((), dtype=exact)
        correct = target.new_zeros(())

        for block in (slice(row, row + ROWS) for row in range(0, len(features), ROWS)):
            x, y = features[block], target[block].unsqueeze(1)  # m x d, m x 1
            log_sum_exp = x.new_full(y.shape, -math.inf, dtype=exact)
            largest, guess = log_sum_exp, torch.full_like(y, -1)
            z_y = z_sum = torch.zeros_like(log_sum_exp)
            exps = []
            for first, E in chunks:
                z = linear(x, E).to(exact)  # m x entries
                z_sum = z_sum + z.sum(1, keepdim=True)
                z_y = z_y + z.gather(1, _column(y, first, E)) * _inside(y, first, E)
                top, column = z.max(1, keepdim=True)
                guess = torch.where(top > largest, first + column, guess)
                largest = torch.maximum(top, largest)
                exp = z.sub_(top).exp_()
                log_sum_exp = torch.logaddexp(log_sum_exp, top + exp.sum(1, keepdim=True).log())
                if needs_features or needs_weight:
                    exps.append((exp, top))
            nll_here = (log_sum_exp - z_y).sum()
            nll += nll_here
            loss += (1 - epsilon - epsilon_i) * nll_here + epsilon_i * (V * log_sum_exp - z_sum).sum()
            correct += (guess == y).sum()

            for (first, E), (exp, top) in zip(chunks, exps, strict=False):  # exps is empty without gradients
                grad = exp.mul_((top - log_sum_exp).exp()).sub_(epsilon_i)
                grad.scatter_add_(1, _column(y, first, E), (epsilon + epsilon_i - 1) * _inside(y, first, E).to(exact))
                grad = grad.to(product_type)
                if needs_features:
                    grad_features[block] += linear(grad, E.t().to(product_type))
                if needs_weight:
                    grad_weight[first : first + len(E)] += linear(grad.t(), x.t().to(product_type))

        ctx.types = features.dtype, weight.dtype
        ctx.save_for_backward(grad_features, grad_weight)
        ctx.mark_non_differentiable(nll, correct)
        return loss, nll, correct

    @staticmethod
    @once_differentiable
    def backward(ctx, factor: Tensor, *_):
        # In place: autograd then rejects a second backward pass, because the saved tensors have changed.
        grads = [
            grad if grad is None else grad.mul_(factor).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.types, strict=True)
        ]
        return (*grads, None, None, None)


def _column(y: Tensor, first: int, E: Tensor) -> Tensor:
    """Return the columns of the targets y in the logits of chunk E, which begins at `first`; arbitrary if outside."""
    return (y - first).clamp(0, len(E) - 1)


def _inside(y: Tensor, first: int, E: Tensor) -> Tensor:
    """Return a mask of the targets y that are in chunk E, which begins at `first`."""
    return (first <= y) & (y < first + len(E))


@register_criterion("fused_label_smoothed_cross_entropy", dataclass=LabelSmoothedCrossEntropyCriterionConfig)
class FusedLabelSmoothedCrossEntropyCriterion(LabelSmoothedCrossEntropyCriterion):
    """fairseq's label_smoothed_cross_entropy in less time and memory: same options, loss, gradients and logs.

    It supports models whose `forward` accepts `features_only` and whose decoder ends in an `output_projection` without
    bias, such as those of this plugin and fairseq's Transformer.
    """

    def forward(self, model, sample, reduce=True):
        """Compute the loss of a batch, like fairseq's criterion.

        Returns:
            the loss in nats, summed over the batch; the divisor of its gradient (the number of target tokens, or of
            sentences with --sentence-avg); and the values to log

        Raises:
            InputError: the model is not supported
        """
        if not reduce:
            return super().forward(model, sample, reduce)
        weight = _output_weight(model)
        net_output = model(**sample["net_input"], features_only=True)
        features, target = net_output[0], model.get_targets(sample, net_output)
        features, target = features[:, self.ignore_prefix_size :], target[:, self.ignore_prefix_size :]
        kept = target.ne(self.padding_idx).flatten().nonzero()[:, 0]  # once for both: the host waits for the result
        features, target = features.flatten(0, 1).index_select(0, kept), target.flatten().index_select(0, kept)
        device = features.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            features, weight = features.to(dtype), weight.to(dtype)
        with torch.autocast(device, enabled=False):
            loss, nll, correct = SmoothedCrossEntropy.apply(features, weight, target, self.eps, torch.is_grad_enabled())
        nsentences = sample["target"].size(0)
        sample_size = nsentences if self.sentence_avg else sample["ntokens"]
        logging_output = {
            "loss": loss.data,
            "nll_loss": nll,
            "ntokens": sample["ntokens"],
            "nsentences": nsentences,
            "sample_size": sample_size,
        }
        if self.report_accuracy:
            logging_output["n_correct"] = correct.item()
            logging_output["total"] = len(target)
        return loss, sample_size, logging_output


def _output_weight(model) -> Tensor:
    """Return the V x d weight of the output layer, or raise InputError if the criterion does not support the model."""
    inner = model
    while hasattr(inner, "module"):  # wrappers for distributed training
        inner = inner.module
        if getattr(inner, "find_unused_parameters", False):
            raise InputError(
                "fused_label_smoothed_cross_entropy cannot be combined with --find-unused-parameters, which does not "
                "see that it uses the output layer: omit the option, or use --criterion label_smoothed_cross_entropy"
            )
    layer = getattr(getattr(inner, "decoder", None), "output_projection", None)
    accepts_features_only = "features_only" in inspect.signature(inner.forward).parameters
    if not accepts_features_only or not isinstance(layer, nn.Linear) or layer.bias is not None:
        raise InputError(
            f"fused_label_smoothed_cross_entropy does not support {type(inner).__name__}: its decoder must end in an "
            "output_projection without bias, and its forward must accept features_only. Use "
            "--criterion label_smoothed_cross_entropy"
        )
    return layer.weight
