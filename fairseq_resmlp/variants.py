"""Other ways to let tokens see each other, for comparison with the paper's linear layer: `--token-mixing`.

They carry the paper's Table 3 ("patch communication") over from images to sentences, causal in the decoder. Each is
held by the same tests as `LinearMixing`, in `tests/test_resmlp.py`.
"""

from typing import Dict, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import IncrementalState
from .linear import linear
from .mixing import TOKEN_MIXING, TokenMixing, fit
from .resmlp import LinearMixing


class NoMixing(TokenMixing):
    """A = 0 and b = 0: tokens never see each other outside cross-attention."""

    def __init__(self, d: int, N: int, causal: bool, cfg):
        super().__init__()

    def forward(
        self, x: Tensor, keep: Optional[Tensor] = None, incremental_state: Optional[IncrementalState] = None
    ) -> Tensor:
        return x * 0  # not zeros_like: distributed training wants a gradient for every parameter before it


def toeplitz(a: Tensor, T: int, causal: bool) -> Tensor:
    """The matrices with a_(i-j) at i, j. Shape: a is h x (2N - 1), or h x N if causal; the result is h x T x T."""
    i = torch.arange(T, device=a.device)
    offset = i.unsqueeze(1) - i
    return a[:, offset.clamp(min=0)].tril() if causal else a[:, offset + a.size(1) // 2]


def fit_offsets(a: Tensor, N: int, causal: bool) -> Tensor:
    """Cut weights by offset down to those of N positions, or fill up with zeros. Shapes as of `toeplitz`."""
    if causal:
        return fit(a, 1, N)
    middle = a.size(1) // 2  # where offset 0 stands
    before, after = a[:, : middle + 1].flip(1), a[:, middle + 1 :]
    return torch.cat([fit(before, 1, N).flip(1), fit(after, 1, N - 1)], 1)


class ToeplitzMixing(LinearMixing):
    """One weight an offset, A_ij = a_(i-j), and no bias: what is learned of one position holds at every other.

    "Early layers look like convolutions", section 3.2: this is a convolution as long as the sentence. `a` has, for each
    head, the offsets i - j from 1 - N (0 if causal) to N - 1.
    """

    def add_parameters(self, cfg) -> None:
        """a, at zero, and no b."""
        self.a = nn.Parameter(torch.zeros(self.heads, self.N if self.causal else 2 * self.N - 1))
        self.register_buffer("b", torch.zeros(self.N), persistent=False)

    def matrix(self, T: int) -> Tensor:
        """A for T positions. Shape: h x T x T."""
        return toeplitz(self.a, T, self.causal)

    def row(self, t: int) -> Tensor:
        """Row t of a causal A, up to the diagonal. Shape: h x (t + 1)."""
        return self.a[:, : t + 1].flip(1)

    def weights(self) -> Tensor:
        """What A is made of: the offsets' weights, h x 1 x (2N - 1), or h x 1 x N if causal."""
        return self.a.unsqueeze(1)

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> None:
        """Fit a checkpoint trained with another N: cut offsets off, or fill up with zeros."""
        if f"{name}.a" in state_dict:
            state_dict[f"{name}.a"] = fit_offsets(state_dict[f"{name}.a"], self.N, self.causal)

    def length_in(self, state_dict: Dict[str, Tensor], name: str) -> Optional[int]:
        a = state_dict.get(f"{name}.a")
        return None if a is None else a.size(1) if self.causal else (a.size(1) + 1) // 2


class ToeplitzLinearMixing(LinearMixing):
    """The paper's A, learned as one weight an offset and an eighth of each entry: A_ij = a_(i-j) + A'_ij / 8.

    Whatever `LinearMixing` can become, it can. But a first step of Adagrad moves a weight by the learning rate however
    small its gradient is, so that there an entry which few sentences reach is what they left in it; here it begins with
    what all positions have taught its offset, and moves an eighth as far. A' is `A`.
    """

    def add_parameters(self, cfg) -> None:
        """a, A' and b, at zero."""
        super().add_parameters(cfg)
        self.a = nn.Parameter(torch.zeros(self.heads, self.N if self.causal else 2 * self.N - 1))
        self.share = 0.125  # a power of two, so that `weights` rounds nothing

    def matrix(self, T: int) -> Tensor:
        """A for T positions. Shape: h x T x T."""
        A = self.A[..., :T, :T]
        return toeplitz(self.a, T, self.causal) + self.share * (A.tril() if self.causal else A)

    def row(self, t: int) -> Tensor:
        """Row t of a causal A, up to the diagonal. Shape: h x (t + 1)."""
        return self.a[:, : t + 1].flip(1) + self.share * self.A[..., t, : t + 1]

    def weights(self) -> Tensor:
        """What A is made of: A' alone, once it has taken over what is in a; A is the same."""
        with torch.no_grad():
            self.A.copy_((self.matrix(self.N) / self.share).view_as(self.A))
            self.a.zero_()
        return self.A

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> None:
        """Fit a checkpoint trained with another N, A' as `LinearMixing` does and a as `ToeplitzMixing`."""
        super().upgrade_state_dict_named(state_dict, name)
        if f"{name}.a" in state_dict:
            state_dict[f"{name}.a"] = fit_offsets(state_dict[f"{name}.a"], self.N, self.causal)


class ConvMixing(TokenMixing):
    """A depthwise convolution over time: K weights a channel, around each position or, if causal, before it."""

    def __init__(self, d: int, N: int, causal: bool, cfg):
        super().__init__()
        self.K, self.causal = cfg.mixing_kernel, causal
        self.weight = nn.Parameter(torch.zeros(d, 1, self.K))

    def mix(self, x: Tensor, keep: Optional[Tensor]) -> Tensor:
        x = x.permute(1, 2, 0)  # B x d x T
        x = F.pad(x, (self.K - 1, 0) if self.causal else (self.K // 2, self.K // 2))
        return F.conv1d(x, self.weight, groups=x.size(1)).permute(2, 0, 1)

    def newest(self, store: Tensor, ancestors: Tensor) -> Tensor:
        """Of the cache it needs the last K positions."""
        return self.mix(store.flatten(0, 1)[ancestors[:, -self.K :].t()], None)[-1:]


class MLPMixing(TokenMixing):
    """Two linear layers across tokens with a GELU between, the same for every channel: y = A2 GELU(A1 x + b1) + b.

    A1 is 4N x N, A2 N x 4N. Four hidden units belong to each position; if causal, they see no later position than
    their own, and are seen by no earlier one. Units of padding are zero, as its x is.
    """

    def __init__(self, d: int, N: int, causal: bool, cfg):
        super().__init__()
        self.causal, self.N, self.expansion = causal, N, 4
        # A unit starts with a view of its own position, and A2 at zero: a position that training never visits is
        # neither seen nor heard by the others.
        eye = torch.eye(N).repeat_interleave(self.expansion, 0)
        self.A1 = nn.Parameter(eye * torch.randn(self.expansion * N, 1))
        self.b1 = nn.Parameter(torch.zeros(self.expansion * N))
        self.A2 = nn.Parameter(torch.zeros(N, self.expansion * N))
        self.b = nn.Parameter(torch.zeros(N))

    def mix(self, x: Tensor, keep: Optional[Tensor]) -> Tensor:
        T, B, d = x.shape
        units = self.expansion * T
        A1, A2 = self.A1[:units, :T], self.A2[:T, :units]
        if self.causal:
            t = torch.arange(T, device=x.device)
            of = t.repeat_interleave(self.expansion)  # the position of each unit
            A1, A2 = A1 * (of.unsqueeze(1) >= t), A2 * (t.unsqueeze(1) >= of)
        hidden = F.gelu(linear(x.reshape(T, B * d).t(), A1, self.b1[:units]))  # B d x 4T
        if keep is not None:
            kept = keep[:, :, 0].t().repeat_interleave(self.expansion, 1)  # B x 4T
            hidden = (hidden.view(B, d, units) * kept.unsqueeze(1)).view(B * d, units)
        return linear(hidden, A2, self.b[:T]).t().view(T, B, d)

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> None:
        """Fit a checkpoint trained with another N: cut it down, or fill up with what is harmless and can be trained."""
        if self.length_in(state_dict, name) is None:
            return
        old = len(state_dict[f"{name}.A1"])  # units
        N, units = self.N, self.expansion * self.N
        for part, sizes in (("A1", (units, N)), ("b1", (units,)), ("A2", (N, units)), ("b", (N,))):
            tensor = state_dict[f"{name}.{part}"]
            for dim, size in enumerate(sizes):
                tensor = fit(tensor, dim, size)
            state_dict[f"{name}.{part}"] = tensor
        A1 = state_dict[f"{name}.A1"]
        state_dict[f"{name}.A1"] = torch.cat([A1[:old], self.A1.detach()[old:].to(A1)])  # new units see their position

    def length_in(self, state_dict: Dict[str, Tensor], name: str) -> Optional[int]:
        A1 = state_dict.get(f"{name}.A1")
        return None if A1 is None else A1.size(1)


TOKEN_MIXING.update(
    none=NoMixing, mlp=MLPMixing, conv=ConvMixing, toeplitz=ToeplitzMixing, toeplitz_linear=ToeplitzLinearMixing
)
