"""Stochastic depth: residual branches that are skipped at random in training (https://arxiv.org/abs/1603.09382)."""

from torch import Tensor, nn
from torch.nn import functional as F


class StochasticDepth(nn.Module):
    """Set the branch of a sentence or image to zero with probability p in training, and divide others by 1 - p.

    Shape: T x B x d to T x B x d, with one decision for each of B.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        return x * F.dropout(x.new_ones(1, x.size(1), 1), self.p)
