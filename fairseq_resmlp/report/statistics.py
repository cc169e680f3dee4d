"""Statistics of trained models as numpy arrays: the numbers behind `fairseq-resmlp report`.

Mixing matrices are float64, because the statistics are sums over many small entries. Row i of A is an output position
and column j an input position. Both count from 0. L is the number of positions that training visited.

    >>> from fairseq_resmlp import ResMLPModel  # doctest: +SKIP
    >>> from fairseq_resmlp.report import statistics  # doctest: +SKIP
    >>> _, _, (model,) = ResMLPModel.load("demo/model")  # doctest: +SKIP
    >>> for mixing in statistics.mixings(model):  # doctest: +SKIP
    ...     print(mixing.name, mixing.L, statistics.convolution_share(mixing.visited))
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

SMALL = 0.05  # threshold for small entries, relative to the largest, as in Figures 3 and B.2 of the paper


@dataclass
class Mixing:
    """The mixing matrix A of one head of a layer, N x N, as the layer applies it.

    `stack` is "encoder" or "decoder". Layers and heads count from 1. If `causal`, A is lower triangular.
    """

    stack: str
    layer: int
    head: int
    heads: int
    causal: bool
    A: np.ndarray

    @property
    def name(self) -> str:
        """Name of the layer and, if it has several heads, of the head: "encoder layer 1, head 2"."""
        head = f", head {self.head}" if self.heads > 1 else ""
        return f"{self.stack} layer {self.layer}{head}"

    @property
    def L(self) -> int:
        """Number of positions that training visited (see `visited_length`)."""
        return visited_length(self.A)

    @property
    def visited(self) -> np.ndarray:
        """A over the positions that training visited. Shape: L x L."""
        return self.A[: self.L, : self.L]


def stacks(model: nn.Module) -> list[tuple[str, Any]]:
    """Return the stacks of layers of a model by name: encoder and decoder, the encoder of an image model, or none."""
    return [(name, getattr(model, name)) for name in ("encoder", "decoder") if hasattr(model, name)]


def mixings(model: nn.Module) -> list[Mixing]:
    """Return the mixing matrices of a model, encoder first. Layers that mix tokens without a matrix are skipped."""
    found = []
    for stack, side in stacks(model):
        for number, layer in enumerate(side.layers, 1):
            matrices = _matrices(layer.mixing, side.N)
            for head, A in enumerate(matrices, 1):
                found.append(Mixing(stack, number, head, len(matrices), stack == "decoder", A))
    return found


def by_layer(matrices: Sequence[Mixing]) -> dict[tuple[str, int], list[Mixing]]:
    """Group mixing matrices by stack and layer; each group has one matrix per head."""
    layers: dict[tuple[str, int], list[Mixing]] = {}
    for mixing in matrices:
        layers.setdefault((mixing.stack, mixing.layer), []).append(mixing)
    return layers


def _matrices(mixing: Any, N: int) -> np.ndarray:
    """Return the matrices that a layer applies to N positions. Shape: h x N x N; h is 0 without a matrix."""
    matrices = mixing.matrix(N) if hasattr(mixing, "matrix") else torch.empty(0, N, N)
    return matrices.detach().cpu().double().numpy()


def visited_length(A: np.ndarray) -> int:
    """Infer L, the length of the longest training sentence in tokens, from A.

    Beyond L, every diagonal of A is constant: zero, the initial value, or the weight that its entries share. If all
    diagonals are constant from their start, training visited distances rather than positions. L is then the largest
    distance with a nonzero weight, plus one. L is N if A did not start at zero.
    """
    N = len(A)
    i, j = np.indices(A.shape)
    beyond = N - 1 - np.maximum(i, j)
    unshared = A[i + beyond, j + beyond] != A
    if unshared.any():
        L = 1 + int(np.maximum(i, j)[unshared].max())
        return N if L == N - 1 and (A[-1].any() or A[:, -1].any()) else L
    distances = np.abs(j - i)[A != 0]
    return 1 + int(distances.max()) if distances.size else 0


class Offsets(NamedTuple):
    """Mean and standard deviation of the weights at each offset j - i. Shape of each array: K.

    The offsets range from -(L - 1) to L - 1 (K = 2 L - 1), or to 0 for a causal matrix (K = L).
    """

    offset: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def by_offset(A: np.ndarray, causal: bool) -> Offsets:
    """Return means and standard deviations along the diagonals of A (L x L)."""
    L = len(A)
    offset = np.arange(1 - L, 1 if causal else L)
    diagonals = [np.diagonal(A, k) for k in offset]
    return Offsets(offset, np.array([d.mean() for d in diagonals]), np.array([d.std() for d in diagonals]))


def convolution_share(A: np.ndarray) -> float:
    """Return the share of the energy of A (L x L), the sum of its squares, that one weight per offset explains.

    The matrix with constant diagonals that is closest to A has the mean of each diagonal of A. The share is its energy
    divided by that of A, or NaN if A = 0.
    """
    energy = float((A**2).sum())
    L = len(A)
    explained = sum((L - abs(k)) * float(np.diagonal(A, k).mean()) ** 2 for k in range(1 - L, L))
    return explained / energy if energy else float("nan")


def grid_convolution_share(A: np.ndarray) -> float:
    """Return `convolution_share` for patches: the share that one weight per two-dimensional offset explains.

    Args:
        A: N x N, for a square grid of N patches, row by row
    """
    energy, side = float((A**2).sum()), math.isqrt(len(A))
    row, column = np.divmod(np.arange(len(A)), side)
    offset = (2 * side - 1) * np.subtract.outer(row, row) + np.subtract.outer(column, column)  # N x N, one number each
    _, group, count = np.unique(offset, return_inverse=True, return_counts=True)
    sums = np.bincount(group.ravel(), A.ravel())
    return float((sums**2 / count).sum()) / energy if energy else float("nan")


def mean_row_share(A: np.ndarray) -> float:
    """Return the share of the energy of A (N x N) that one row for all output positions explains: their mean.

    It is 1 if every position reads the same, and 1 / N is expected of independent entries with mean 0.
    """
    energy = float((A**2).sum())
    return len(A) * float((A.mean(0) ** 2).sum()) / energy if energy else float("nan")


def grid_share_of_noise(N: int) -> float:
    """Return the expected `grid_convolution_share` of a matrix of independent entries with mean 0.

    It is the number of offsets divided by that of entries.
    """
    return (2 * math.isqrt(N) - 1) ** 2 / N**2


def convolution_by_length(A: np.ndarray) -> np.ndarray:
    """Return `convolution_share` of the first n positions, A[:n, :n], for each n from 2 to L. Shape: L - 1."""
    return np.array([convolution_share(A[:n, :n]) for n in range(2, len(A) + 1)])


def mean_distance(A: np.ndarray) -> float:
    """Return the mean of |j - i| over the entries of A (L x L), weighted by their squares, or NaN if A = 0."""
    i, j = np.indices(A.shape)
    return float(np.average(np.abs(j - i), weights=A**2)) if A.any() else float("nan")


def directions(A: np.ndarray) -> dict[str, float]:
    """Return the shares of the energy of A (L x L) `behind` (j < i), `here` (j = i) and `ahead` (j > i)."""
    energy = A**2
    total = energy.sum() or float("nan")
    parts = {"behind": np.tril(energy, -1), "here": np.diagonal(energy), "ahead": np.triu(energy, 1)}
    return {name: float(part.sum() / total) for name, part in parts.items()}


def sparsity(weight: np.ndarray, causal: bool = False, threshold: float = SMALL) -> float:
    """Return the share of entries smaller in magnitude than `threshold` times the largest, or 1 if all are zero.

    If `causal`, the entries above the diagonal do not count, because they are zero by design. The matrix is then L x L.
    """
    size = np.abs(weight[np.tril_indices(len(weight))] if causal else weight)
    largest = size.max() if size.size else 0
    return float((size < threshold * largest).mean()) if largest else 1.0


class LayerSparsity(NamedTuple):
    """`sparsity` of the matrices of a layer: visited positions of A, all of A (both None without A), B and C."""

    stack: str
    layer: int
    A_visited: float | None
    A_all: float | None
    B: float
    C: float


def sparsities(model: nn.Module) -> list[LayerSparsity]:
    """Return the quantities of Figures 3 and B.2 per layer, encoder first. The values of A are means over the heads."""
    layers = by_layer(mixings(model))
    found = []
    for stack, side in stacks(model):
        for number, layer in enumerate(side.layers, 1):
            own = layers.get((stack, number), [])
            A_visited = float(np.mean([sparsity(m.visited, m.causal) for m in own])) if own else None
            A_all = float(np.mean([sparsity(m.A, m.causal) for m in own])) if own else None
            B, C = (sparsity(linear.weight.detach().numpy()) for linear in (layer.ffn.B, layer.ffn.C))
            found.append(LayerSparsity(stack, number, A_visited, A_all, B, C))
    return found


class Scale(NamedTuple):
    """The alpha of one Aff or LayerNorm. Shape: d.

    `sublayer` is "mixing", "attention" or "ffn". `place` is "pre" or "post": before or after the sublayer.
    """

    stack: str
    layer: int
    sublayer: str
    place: str
    alpha: np.ndarray


def scales(model: nn.Module) -> list[Scale]:
    """Return the learned scales of every Aff or LayerNorm in the layers, encoder first."""
    found = []
    for stack, side in stacks(model):
        for number, layer in enumerate(side.layers, 1):
            for name, module in layer.named_children():
                sublayer, _, place = name.rpartition("_")
                if place in ("pre", "post"):
                    found.append(Scale(stack, number, sublayer, place, module.alpha.detach().cpu().double().numpy()))
    return found
