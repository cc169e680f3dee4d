"""Pruning: setting small weights to zero.

A weight is small if its magnitude is below a threshold times the largest of its matrix, as in the sparsity figures of
the paper (Figures 3 and B.2, threshold 5%).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.resmlp import LinearMixing


def prune(weights: Iterable[Tensor], threshold: float) -> float:
    """Zero, in place, the small entries of each matrix.

    Args:
        weights: tensors of shape ... x rows x columns; the threshold is relative to the largest entry of each matrix
        threshold: from 0, which removes nothing, to 1

    Returns:
        the fraction of nonzero entries that was removed; entries of A that training never reached are zero already

    Raises:
        InputError: the threshold is outside of 0 to 1
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"pruning threshold {threshold} is out of range: use a fraction of the largest entry, 0 to 1")
    before = after = 0
    with torch.no_grad():
        for weight in weights:
            before += int(weight.count_nonzero())
            size = weight.abs()
            weight[size < threshold * size.amax((-2, -1), keepdim=True)] = 0
            after += int(weight.count_nonzero())
    return 1 - after / before if before else 0.0


def mixing_weights(model: nn.Module) -> list[Tensor]:
    """Return the parameter behind the A of each layer, encoder first (see `LinearMixing.prunable_weight`).

    Raises:
        InputError: the model has no A
    """
    weights = [layer.mixing.prunable_weight() for layer in _layers(model) if isinstance(layer.mixing, LinearMixing)]
    if not weights:
        raise InputError("this model has no A to prune: its --token-mixing is not linear, toeplitz or toeplitz_linear")
    return weights


def feed_forward_weights(model: nn.Module) -> list[Tensor]:
    """Return B (hidden x d) and C (d x hidden) of each layer, encoder first."""
    return [weight for layer in _layers(model) for weight in (layer.ffn.B.weight, layer.ffn.C.weight)]


def _layers(model: nn.Module) -> list[nn.Module]:
    return [*model.encoder.layers, *model.decoder.layers]
