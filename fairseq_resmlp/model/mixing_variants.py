"""Alternatives to the paper's linear layer across tokens, for comparison: the other choices of --token-mixing.

They transfer the paper's Table 3 ("patch communication") from images to sentences, causal in the decoder. The
parametrized tests of `LinearMixing` cover each of them.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_resmlp.modules.corner import corner
from fairseq_resmlp.modules.incremental_state import IncrementalState
from fairseq_resmlp.modules.linear import linear
from fairseq_resmlp.modules.token_mixing import TokenMixing, register_token_mixing, resize
from fairseq_resmlp.resmlp import LinearMixing


@register_token_mixing("none")
class NoMixing(TokenMixing):
    """A = 0 and b = 0: tokens exchange information only through cross-attention."""

    def __init__(self, d: int, N: int, causal: bool, cfg):
        super().__init__()

    def forward(
        self, x: Tensor, keep: Tensor | None = None, incremental_state: IncrementalState | None = None
    ) -> Tensor:
        return x * 0  # not zeros_like: distributed training expects a gradient for every earlier parameter


@register_token_mixing("mlp")
class MLPMixing(TokenMixing):
    """Two linear layers across tokens with a GELU between them: y = A2 GELU(A1 x + b1) + b, for every channel.

    A1 is 4N x N and A2 is N x 4N: four hidden units per position. If causal, a unit sees no position after its own and
    is seen by none before it. Units of padding are zero, like the x of padding.
    """

    def __init__(self, d: int, N: int, causal: bool, cfg):
        super().__init__()
        self.causal, self.N, self.expansion = causal, N, 4
        # Each unit starts with a view of its own position only, and A2 starts at zero, so a position that training
        # never reaches neither sees nor affects the others.
        eye = torch.eye(N).repeat_interleave(self.expansion, 0)  # 4N x N
        self.A1 = nn.Parameter(eye * torch.randn(self.expansion * N, 1))
        self.b1 = nn.Parameter(torch.zeros(self.expansion * N))
        self.A2 = nn.Parameter(torch.zeros(N, self.expansion * N))
        self.b = nn.Parameter(torch.zeros(N))

    def mix(self, x: Tensor, keep: Tensor | None) -> Tensor:
        T, B, d = x.shape
        units = self.expansion * T
        A1, A2 = self.A1[:units, :T], self.A2[:T, :units]
        if self.causal:
            t = torch.arange(T, device=x.device)
            position = t.repeat_interleave(self.expansion)  # of each unit
            A1, A2 = A1 * (position.unsqueeze(1) >= t), A2 * (t.unsqueeze(1) >= position)
        hidden = F.gelu(linear(x.reshape(T, B * d).t(), A1, self.b1[:units]))  # (B d) x 4T
        if keep is not None:
            kept = keep[:, :, 0].t().repeat_interleave(self.expansion, 1)  # B x 4T
            hidden = (hidden.view(B, d, units) * kept.unsqueeze(1)).view(B * d, units)
        return linear(hidden, A2, self.b[:T]).t().view(T, B, d)

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Crop a checkpoint that was trained with a larger N, or pad a smaller one with harmless, trainable units."""
        if self.stored_length(state_dict, name) is None:
            return
        old = len(state_dict[f"{name}.A1"])  # units
        N, units = self.N, self.expansion * self.N
        for part, sizes in (("A1", (units, N)), ("b1", (units,)), ("A2", (N, units)), ("b", (N,))):
            tensor = state_dict[f"{name}.{part}"]
            for dim, size in enumerate(sizes):
                tensor = resize(tensor, dim, size)
            state_dict[f"{name}.{part}"] = tensor
        A1 = state_dict[f"{name}.A1"]
        state_dict[f"{name}.A1"] = torch.cat([A1[:old], self.A1.detach()[old:].to(A1)])  # new units see their position

    def stored_length(self, state_dict: dict[str, Tensor], name: str) -> int | None:
        A1 = state_dict.get(f"{name}.A1")
        return None if A1 is None else A1.size(1)


@register_token_mixing("conv")
class ConvMixing(TokenMixing):
    """A depthwise convolution over time: K weights per channel, centered or, if causal, ending at each position."""

    def __init__(self, d: int, N: int, causal: bool, cfg):
        super().__init__()
        self.K, self.causal = cfg.mixing_kernel, causal
        self.weight = nn.Parameter(torch.zeros(d, 1, self.K))

    def mix(self, x: Tensor, keep: Tensor | None) -> Tensor:
        x = x.permute(1, 2, 0)  # B x d x T
        x = F.pad(x, (self.K - 1, 0) if self.causal else (self.K // 2, self.K // 2))
        return F.conv1d(x, self.weight, groups=x.size(1)).permute(2, 0, 1)  # T x B x d

    def mix_last_position(self, store: Tensor, ancestors: Tensor) -> Tensor:
        """Convolve the last K cached positions."""
        return self.mix(store.flatten(0, 1)[ancestors[:, -self.K :].t()], None)[-1:]


def toeplitz(a: Tensor, T: int, causal: bool) -> Tensor:
    """Build matrices with entries a_(i-j). Shape: h x (2N - 1), or h x N if causal, to h x T x T."""
    i = torch.arange(T, device=a.device)
    offset = i.unsqueeze(1) - i
    return a[:, offset.clamp(min=0)].tril() if causal else a[:, offset + a.size(1) // 2]


def resize_offsets(a: Tensor, N: int, causal: bool) -> Tensor:
    """Crop weights per offset to those of N positions, or pad them with zeros. Shapes as for `toeplitz`."""
    if causal:
        return resize(a, 1, N)
    middle = a.size(1) // 2  # offset 0
    before, after = a[:, : middle + 1].flip(1), a[:, middle + 1 :]
    return torch.cat([resize(before, 1, N).flip(1), resize(after, 1, N - 1)], 1)


@register_token_mixing("toeplitz")
class ToeplitzMixing(LinearMixing):
    """One weight per offset, A_ij = a_(i-j), and no bias: each position learns from all others.

    "Early layers look like convolutions", section 3.2: this is a convolution as long as the sentence. For each head,
    `a` contains the offsets i - j from 1 - N (0 if causal) to N - 1.
    """

    def add_parameters(self, cfg) -> None:
        """Create a, at zero, and no b."""
        self.a = nn.Parameter(torch.zeros(self.heads, self.N if self.causal else 2 * self.N - 1))
        self.register_buffer("b", torch.zeros(self.N), persistent=False)

    def matrix(self, T: int) -> Tensor:
        """Return A for T positions. Shape: h x T x T."""
        return toeplitz(self.a, T, self.causal)

    def row(self, t: int) -> Tensor:
        """Return row t of a causal A, up to the diagonal. Shape: h x (t + 1)."""
        return self.a[:, : t + 1].flip(1)

    def prunable_weight(self) -> Tensor:
        """Return the weights per offset, h x 1 x (2N - 1), or h x 1 x N if causal."""
        return self.a.unsqueeze(1)

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Drop the offsets that a smaller N does not need, or add zeros for a larger one."""
        if f"{name}.a" in state_dict:
            state_dict[f"{name}.a"] = resize_offsets(state_dict[f"{name}.a"], self.N, self.causal)

    def stored_length(self, state_dict: dict[str, Tensor], name: str) -> int | None:
        a = state_dict.get(f"{name}.a")
        return None if a is None else a.size(1) if self.causal else (a.size(1) + 1) // 2


@register_token_mixing("toeplitz_linear")
class ToeplitzLinearMixing(LinearMixing):
    """The paper's A, learned as one weight per offset plus an eighth of each entry: A_ij = a_(i-j) + A'_ij / 8.

    It can represent exactly what `LinearMixing` can. There, the first step of Adagrad moves a weight by the learning
    rate however small its gradient is, so an entry that few sentences reach is mostly noise. Here, such an entry starts
    from the weight that all positions share at its offset, and moves an eighth as far. A' is the parameter `A`.
    """

    def add_parameters(self, cfg) -> None:
        """Create a, A' and b, at zero."""
        super().add_parameters(cfg)
        self.a = nn.Parameter(torch.zeros(self.heads, self.N if self.causal else 2 * self.N - 1))
        self.share = 0.125  # a power of two, so that `prunable_weight` involves no rounding

    def matrix(self, T: int) -> Tensor:
        """Return A for T positions. Shape: h x T x T."""
        return toeplitz(self.a, T, self.causal) + self.share * corner(self.A, T, self.causal)

    def row(self, t: int) -> Tensor:
        """Return row t of a causal A, up to the diagonal. Shape: h x (t + 1)."""
        return self.a[:, : t + 1].flip(1) + self.share * self.A[..., t, : t + 1]

    def prunable_weight(self) -> Tensor:
        """Move a into A', which leaves A unchanged, and return A'."""
        with torch.no_grad():
            self.A.copy_((self.matrix(self.N) / self.share).view_as(self.A))
            self.a.zero_()
        return self.A

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Resize A' like `LinearMixing` and a like `ToeplitzMixing`."""
        super().upgrade_state_dict_named(state_dict, name)
        if f"{name}.a" in state_dict:
            state_dict[f"{name}.a"] = resize_offsets(state_dict[f"{name}.a"], self.N, self.causal)
