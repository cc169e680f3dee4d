"""Activations between the two layers of a feed-forward layer: the choices of --activation-fn."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F


def geglu(x: Tensor) -> Tensor:
    """Multiply the GELU of the first half of the channels by the second half (Shazeer, 2020, arXiv 2002.05202).

    Shape: (..., 2 hidden) to (..., hidden).
    """
    gate, value = x.chunk(2, -1)
    return F.gelu(gate) * value


ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "geglu": geglu}
