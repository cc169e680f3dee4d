"""Pruning: small weights set to zero.

A weight is small when its magnitude is less than a threshold times the largest of its matrix, as in the sparsity
figures of the paper (Figures 3 and B.2 count those under 5%).
"""

from typing import Iterable, List

import torch
from torch import Tensor, nn

from .errors import InputError
from .resmlp import LinearMixing


def prune(weights: Iterable[Tensor], threshold: float) -> float:
    """Zero, in place, the small entries of each matrix. Shape: ... x rows x columns, a largest entry for each matrix.

    Args:
        threshold: at least 0, where nothing is removed, and at most 1

    Returns:
        the share removed of the entries that were not zero: those of A that training never visited do not count

    Raises:
        InputError: the threshold is outside of 0 to 1
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"a threshold of {threshold} is no share of the largest entry: take one from 0 to 1")
    before = after = 0
    with torch.no_grad():
        for weight in weights:
            before += int(weight.count_nonzero())
            size = weight.abs()
            weight[size < threshold * size.amax((-2, -1), keepdim=True)] = 0
            after += int(weight.count_nonzero())
    return 1 - after / before if before else 0.0


def mixing_weights(model: nn.Module) -> List[Tensor]:
    """What the A of each layer is made of, encoder first: `LinearMixing.weights`; InputError if there is none."""
    weights = [layer.mixing.weights() for layer in _layers(model) if isinstance(layer.mixing, LinearMixing)]
    if not weights:
        raise InputError(
            "this model has no A to prune: its --token-mixing is none of linear, toeplitz and toeplitz_linear"
        )
    return weights


def feed_forward_weights(model: nn.Module) -> List[Tensor]:
    """B (hidden x d) and C (d x hidden) of each layer, encoder first."""
    return [weight for layer in _layers(model) for weight in (layer.ffn.B.weight, layer.ffn.C.weight)]


def _layers(model: nn.Module) -> List[nn.Module]:
    return [*model.encoder.layers, *model.decoder.layers]
