"""Positional embeddings, which Transformers need and the paper's model does not have."""

import torch
from fairseq.modules import SinusoidalPositionalEmbedding
from torch import Tensor, nn

from fairseq_resmlp.modules.token_mixing import resize


class PositionalEmbedding(nn.Module):
    """Add a positional embedding P (N x d): `learned`, `sinusoidal` or `none`. Shape: B x T x d to B x T x d.

    The model needs none, because A and b depend on the position. The option exists for comparison. The entries of P
    have the scale of the token embeddings.
    """

    def __init__(self, kind: str, N: int, d: int):
        super().__init__()
        self.N = N
        if kind == "learned":
            self.P = nn.Parameter(torch.randn(N, d) * d**-0.5)
        else:
            P = SinusoidalPositionalEmbedding.get_embedding(N, d) * d**-0.5 if kind == "sinusoidal" else None
            self.register_buffer("P", P, persistent=False)

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        return x if self.P is None else x + self.P[first : first + x.size(1)]

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Crop or pad the embedding of a checkpoint that was trained with another N."""
        if f"{name}.P" in state_dict:
            state_dict[f"{name}.P"] = resize(state_dict[f"{name}.P"], 0, self.N)
