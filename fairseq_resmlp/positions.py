"""Embeddings of positions, as Transformers have and the paper's model has not."""

from typing import Dict

import torch
from fairseq.modules import SinusoidalPositionalEmbedding
from torch import Tensor, nn

from .mixing import fit


class Positions(nn.Module):
    """Adds embeddings of positions P (N x d): `learned`, `sinusoidal`, or `none`. Shape: B x T x d to B x T x d.

    The model needs none, as A and b know where a word stands; they are here to be compared with. They have the size
    of the embeddings of tokens.
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

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> None:
        """Fit a checkpoint trained with another N."""
        if f"{name}.P" in state_dict:
            state_dict[f"{name}.P"] = fit(state_dict[f"{name}.P"], 0, self.N)
