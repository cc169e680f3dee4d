"""What a trained model has learned, as arrays: the numbers behind `fairseq-resmlp report`.

Matrices are numpy arrays in float64, so that sums over many small entries are exact enough. Rows i are the positions
that a layer writes, columns j those that it reads; both count from 0, and L is the length that training visited.

    >>> from fairseq_resmlp import ResMLPModel, analysis  # doctest: +SKIP
    >>> _, _, (model,) = ResMLPModel.load("demo/model")  # doctest: +SKIP
    >>> for mixing in analysis.mixings(model):  # doctest: +SKIP
    ...     print(mixing.name, mixing.L, analysis.convolution_share(mixing.visited))
"""

from dataclasses import dataclass
from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from torch import nn

SMALL = 0.05  # entries below this share of the largest count as small, as in Figures 3 and B.2


@dataclass
class Mixing:
    """One mixing matrix: of the encoder or decoder (`stack`), of a layer and a head (from 1; head 1 if there is one).

    A is N x N, as the layer applies it: lower-triangular in the decoder, where `causal`.
    """

    stack: str
    layer: int
    head: int
    heads: int
    causal: bool
    A: np.ndarray

    @property
    def name(self) -> str:
        """Such as "encoder layer 1"."""
        head = f", head {self.head}" if self.heads > 1 else ""
        return f"{self.stack} layer {self.layer}{head}"

    @property
    def L(self) -> int:
        """See `visited_length`."""
        return visited_length(self.A)

    @property
    def visited(self) -> np.ndarray:
        """A over the positions that training visited, L x L."""
        return self.A[: self.L, : self.L]


def mixings(model: nn.Module) -> List[Mixing]:
    """The mixing matrices of a model, encoder first; those layers have none that mix without a matrix."""
    found = []
    for stack in ("encoder", "decoder"):
        side = getattr(model, stack)
        for number, layer in enumerate(side.layers, 1):
            matrices = _matrices(layer.mixing, side.N)
            for head, A in enumerate(matrices, 1):
                found.append(Mixing(stack, number, head, len(matrices), stack == "decoder", A))
    return found


def by_layer(found: List[Mixing]) -> Dict[Tuple[str, int], List[Mixing]]:
    """The mixing matrices of each layer, one a head, by stack and layer."""
    layers: Dict[Tuple[str, int], List[Mixing]] = {}
    for mixing in found:
        layers.setdefault((mixing.stack, mixing.layer), []).append(mixing)
    return layers


def _matrices(mixing: nn.Module, N: int) -> np.ndarray:
    """The matrices that a layer applies to N positions. Shape: h x N x N, h = 0 where it has none."""
    matrices = mixing.matrix(N) if hasattr(mixing, "matrix") else torch.empty(0, N, N)
    return matrices.detach().cpu().double().numpy()


def visited_length(A: np.ndarray) -> int:
    """L, the pieces of the longest sentence of training: beyond it each diagonal of A is what it ends with.

    That is zero, where A started, or the weight that a diagonal shares. Where diagonals share all they have, only
    distances are visited: L is then the largest distance, plus one. It is N if A did not start at zero.
    """
    N = len(A)
    i, j = np.indices(A.shape)
    beyond = N - 1 - np.maximum(i, j)
    of_its_own = A[i + beyond, j + beyond] != A
    if of_its_own.any():
        L = 1 + int(np.maximum(i, j)[of_its_own].max())
        return N if L == N - 1 and (A[-1].any() or A[:, -1].any()) else L
    distances = np.abs(j - i)[A != 0]
    return 1 + int(distances.max()) if distances.size else 0


class Offsets(NamedTuple):
    """Weights by offset j - i: the offsets, the mean of the weights at each and their standard deviation; each K.

    K = 2 L - 1 from -(L - 1) to L - 1, or, for a causal matrix, L up to 0.
    """

    offset: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def by_offset(A: np.ndarray, causal: bool) -> Offsets:
    """Means and standard deviations along the diagonals of A, L x L."""
    L = len(A)
    offset = np.arange(1 - L, 1 if causal else L)
    diagonals = [np.diagonal(A, k) for k in offset]
    return Offsets(offset, np.array([d.mean() for d in diagonals]), np.array([d.std() for d in diagonals]))


def convolution_share(A: np.ndarray) -> float:
    """The share of the energy of A (L x L), the sum of its squares, that one weight an offset explains; NaN if A = 0.

    The best matrix with constant diagonals has the mean of each diagonal of A, and its energy is what it explains.
    """
    energy = float((A**2).sum())
    L = len(A)
    explained = sum((L - abs(k)) * float(np.diagonal(A, k).mean()) ** 2 for k in range(1 - L, L))
    return explained / energy if energy else float("nan")


def convolution_by_length(A: np.ndarray) -> np.ndarray:
    """`convolution_share` among the first n positions, A[:n, :n], for each n from 2 to L. Shape: L - 1."""
    return np.array([convolution_share(A[:n, :n]) for n in range(2, len(A) + 1)])


def mean_distance(A: np.ndarray) -> float:
    """How far a layer looks: the mean of |j - i| over the entries of A (L x L), weighted by their squares."""
    i, j = np.indices(A.shape)
    return float(np.average(np.abs(j - i), weights=A**2)) if A.any() else float("nan")


def directions(A: np.ndarray) -> Dict[str, float]:
    """The shares of the energy of A (L x L) below the diagonal (`behind`), on it (`here`) and above it (`ahead`)."""
    energy = A**2
    total = energy.sum() or float("nan")
    parts = {"behind": np.tril(energy, -1), "here": np.diagonal(energy), "ahead": np.triu(energy, 1)}
    return {name: float(part.sum() / total) for name, part in parts.items()}


def sparsity(weight: np.ndarray, causal: bool = False, threshold: float = SMALL) -> float:
    """The share of entries of a matrix smaller in magnitude than `threshold` times its largest; 1 if all are zero.

    Of a causal one (L x L), entries above the diagonal, zero by design, do not count.
    """
    size = np.abs(weight[np.tril_indices(len(weight))] if causal else weight)
    largest = size.max() if size.size else 0
    return float((size < threshold * largest).mean()) if largest else 1.0


class LayerSparsity(NamedTuple):
    """`sparsity` of the matrices of a layer: A over what training visited, all of A (both None without A), B and C."""

    stack: str
    layer: int
    A_visited: Optional[float]
    A_all: Optional[float]
    B: float
    C: float


def sparsities(model: nn.Module) -> List[LayerSparsity]:
    """Figures 3 and B.2 for each layer, encoder first; the A of several heads count as their mean."""
    layers = by_layer(mixings(model))
    found = []
    for stack in ("encoder", "decoder"):
        for number, layer in enumerate(getattr(model, stack).layers, 1):
            own = layers.get((stack, number), [])
            shares = [
                float(np.mean([sparsity(A, m.causal) for m, A in zip(own, which)])) if own else None
                for which in ([m.visited for m in own], [m.A for m in own])
            ]
            channels = [sparsity(linear.weight.detach().numpy()) for linear in (layer.ffn.B, layer.ffn.C)]
            found.append(LayerSparsity(stack, number, *shares, *channels))
    return found


class Scale(NamedTuple):
    """The alpha (d) of one Aff: of a stack, a layer, a sublayer (mixing, attention, ffn), `pre` or `post` it."""

    stack: str
    layer: int
    sublayer: str
    place: str
    alpha: np.ndarray


def scales(model: nn.Module) -> List[Scale]:
    """The learned scales of every Aff or LayerNorm inside of layers, encoder first."""
    found = []
    for stack in ("encoder", "decoder"):
        for number, layer in enumerate(getattr(model, stack).layers, 1):
            for name, module in layer.named_children():
                sublayer, _, place = name.rpartition("_")
                if place in ("pre", "post"):
                    found.append(Scale(stack, number, sublayer, place, module.alpha.detach().cpu().double().numpy()))
    return found
