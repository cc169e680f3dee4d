"""The mixing matrices A of a model as JSON."""

import math
from functools import cache
from typing import NamedTuple

from torch import Tensor

from fairseq_resmlp.inference.network import Network
from fairseq_resmlp.report.statistics import visited_length

MAX_NUMBERS = 1 << 16  # per layer


class MixingLayer(NamedTuple):
    """A layer that mixes tokens. `positions` is the number of positions that are shown."""

    stack: str
    layer: int
    heads: int
    positions: int


class MixingMaps:
    """The matrices A of each layer that mixes tokens, up to the length of the longest training sentence.

    Args:
        network: the model
    """

    def __init__(self, network: Network):
        stacks = {"encoder": network.A, "decoder": network.past_A.permute(1, 2, 0, 3)}  # L x m x N x N
        self._matrices: dict[tuple[str, int], Tensor] = {}
        self.layers: list[MixingLayer] = []
        for stack, matrices in stacks.items():
            for layer, heads in enumerate(matrices.float().cpu(), 1):
                if heads.any():
                    visited = max(visited_length(A.double().numpy()) for A in heads)
                    positions = min(visited, math.isqrt(MAX_NUMBERS // len(heads)))
                    self.layers.append(MixingLayer(stack, layer, len(heads), positions))
                    self._matrices[stack, layer] = heads[:, :positions, :positions]
        self.matrices = cache(self._rounded)

    def _rounded(self, stack: str, layer: int) -> list[list[list[float]]] | None:
        """Return A of a layer with four significant digits, heads x positions x positions, or None if not found."""
        heads = self._matrices.get((stack, layer))
        if heads is None:
            return None
        return [[[float(f"{value:.4g}") for value in row] for row in A] for A in heads.tolist()]
