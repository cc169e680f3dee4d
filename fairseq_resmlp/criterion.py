"""Label-smoothed cross-entropy that never holds all logits: `--criterion fused_label_smoothed_cross_entropy`.

The output layer belongs to the criterion here. It takes the target positions in blocks and the dictionary in chunks,
and turns the logits of a block into their gradient before it goes on to the next.

Dimensions: M target positions that are no padding (m of them in a block), d channels, V entries of the dictionary.
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

from .errors import InputError
from .linear import linear

ROWS = 1024  # target positions in a block
ENTRIES = 4096  # of the dictionary in a chunk, on a CPU: glibc takes fresh pages for every 32 MiB or more


class SmoothedCrossEntropy(torch.autograd.Function):
    """The loss of features, weight and target, summed over positions; its gradient is made in the forward pass.

    With respect to the logits z of a position with target y the gradient is

        softmax(z)_v - epsilon_i - (1 - epsilon - epsilon_i) [v = y],   epsilon_i = epsilon / (V - 1)

    since fairseq's two coefficients of the softmax add up to 1. It needs nothing that comes later but the factor by
    which `backward` multiplies. All sums are taken in float32 or better. float16 holds neither the small
    probabilities nor the large sums, and no loss scale is known yet: its gradients are float32 throughout.
    """

    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, target: Tensor, epsilon: float, training: bool):
        """
        Args:
            features: M x d
            weight: V x d
            target (LongTensor): M
            epsilon: label smoothing
            training: whether a gradient will be asked for

        Returns:
            three sums over positions: the loss and the part of it that is no smoothing, in nats, and the targets
            that have the largest logit. Only the loss has a gradient.
        """
        V = len(weight)
        epsilon_i = epsilon / (V - 1)
        exact = torch.promote_types(features.dtype, torch.float32)
        product_type = exact if features.dtype == torch.float16 else features.dtype
        entries = ENTRIES if features.device.type == "cpu" else V
        chunks = [(first, weight[first : first + entries]) for first in range(0, V, entries)]
        wants_features, wants_weight = (training and wanted for wanted in ctx.needs_input_grad[:2])
        grad_features = torch.zeros_like(features, dtype=exact) if wants_features else None
        grad_weight = torch.zeros_like(weight, dtype=exact) if wants_weight else None
        # Two tensors and no views: fairseq multiplies the loss of a dummy batch by zero in place.
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
                if wants_features or wants_weight:
                    exps.append((exp, top))
            nll_here = (log_sum_exp - z_y).sum()
            nll += nll_here
            loss += (1 - epsilon - epsilon_i) * nll_here + epsilon_i * (V * log_sum_exp - z_sum).sum()
            correct += (guess == y).sum()

            for (first, E), (exp, top) in zip(chunks, exps):
                grad = exp.mul_((top - log_sum_exp).exp()).sub_(epsilon_i)
                grad.scatter_add_(1, _column(y, first, E), (epsilon + epsilon_i - 1) * _inside(y, first, E).to(exact))
                grad = grad.to(product_type)
                if wants_features:
                    grad_features[block] += linear(grad, E.t().to(product_type))
                if wants_weight:
                    grad_weight[first : first + len(E)] += linear(grad.t(), x.t().to(product_type))

        ctx.types = features.dtype, weight.dtype
        ctx.save_for_backward(grad_features, grad_weight)
        ctx.mark_non_differentiable(nll, correct)
        return loss, nll, correct

    @staticmethod
    @once_differentiable
    def backward(ctx, factor: Tensor, *_):
        # In place: autograd refuses to give them a second time, as they have changed since they were saved.
        grads = [
            grad if grad is None else grad.mul_(factor).to(dtype) for grad, dtype in zip(ctx.saved_tensors, ctx.types)
        ]
        return (*grads, None, None, None)


def _column(y: Tensor, first: int, E: Tensor) -> Tensor:
    """Where the targets y stand in the logits of the chunk E, which begins at `first`; any column if elsewhere."""
    return (y - first).clamp(0, len(E) - 1)


def _inside(y: Tensor, first: int, E: Tensor) -> Tensor:
    """Which of the targets y are in the chunk E, which begins at `first`."""
    return (first <= y) & (y < first + len(E))


@register_criterion("fused_label_smoothed_cross_entropy", dataclass=LabelSmoothedCrossEntropyCriterionConfig)
class FusedLabelSmoothedCrossEntropyCriterion(LabelSmoothedCrossEntropyCriterion):
    """fairseq's label_smoothed_cross_entropy: same options, loss, gradients and logs; less time and memory.

    For models whose forward takes features_only and whose decoder ends in an `output_projection` without bias: this
    plugin's and fairseq's Transformer among them.
    """

    def forward(self, model, sample, reduce=True):
        """The loss of a batch, as in fairseq's criterion.

        Returns:
            the loss in nats, summed over the batch; what to divide its gradient by (target tokens, or sentences with
            --sentence-avg); and what is to be logged

        Raises:
            InputError: the model is not of that kind
        """
        if not reduce:
            return super().forward(model, sample, reduce)
        weight = _output_weight(model)
        net_output = model(**sample["net_input"], features_only=True)
        features, target = net_output[0], model.get_targets(sample, net_output)
        features, target = features[:, self.ignore_prefix_size :], target[:, self.ignore_prefix_size :]
        kept = target.ne(self.padding_idx)
        features, target = features[kept], target[kept]  # M x d, M
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
    """The V x d weight of the output layer; InputError if that is not all that follows the features."""
    inner = model
    while hasattr(inner, "module"):  # what training on several processes wraps it in
        inner = inner.module
        if getattr(inner, "find_unused_parameters", False):
            raise InputError(
                "fused_label_smoothed_cross_entropy uses the output layer where --find-unused-parameters does not see "
                "it: leave that out, or use --criterion label_smoothed_cross_entropy"
            )
    layer = getattr(getattr(inner, "decoder", None), "output_projection", None)
    takes_features_only = "features_only" in inspect.signature(inner.forward).parameters
    if not takes_features_only or not isinstance(layer, nn.Linear) or layer.bias is not None:
        raise InputError(
            f"fused_label_smoothed_cross_entropy does not fit {type(inner).__name__}, whose decoder must end in an "
            "output_projection without bias, and whose forward must take features_only: use "
            "--criterion label_smoothed_cross_entropy"
        )
    return layer.weight
