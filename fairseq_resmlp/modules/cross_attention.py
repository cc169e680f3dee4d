"""Cross-attention of the decoder, the part of the Transformer that ResMLP keeps (section 3.6)."""

import torch
from fairseq.modules import MultiheadAttention
from torch import Tensor
from torch.nn import functional as F

from fairseq_resmlp.modules.incremental_state import IncrementalState
from fairseq_resmlp.modules.linear import linear


def one_row_per_sentence(rows: Tensor, beam: int) -> Tensor:
    """Return the sentence of each group of `beam` rows, or of each row if a group mixes sentences.

    Shape: R to R / beam, or to R.
    """
    if beam > 1 and rows.size(0) % beam == 0:
        groups = rows.view(-1, beam)
        if torch.equal(groups, groups[:, :1].expand_as(groups)):
            return groups[:, 0]
    return rows


class CrossAttention(MultiheadAttention):
    """fairseq's multi-head attention from the target, T x B x d, to the encoder output, S x B x d.

    Keys and values are computed once per sentence. In beam search, the hypotheses of a sentence are adjacent rows and
    share its keys and values: each hypothesis is one more query.
    """

    def forward(
        self,
        x: Tensor,
        encoder_out: Tensor,
        padding_bias: Tensor,
        incremental_state: IncrementalState | None,
        need_attn: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Shape: as `ResMLPDecoderLayer.forward`."""
        T, R, d = x.shape
        state: dict[str, Tensor | None] = {}
        if incremental_state is not None:
            state = self._get_input_buffer(incremental_state)
        if "k" not in state:
            k = self.split_heads(linear(encoder_out, self.k_proj.weight, self.k_proj.bias))  # B x h x S x d/h
            v = self.split_heads(linear(encoder_out, self.v_proj.weight, self.v_proj.bias))
            bias = padding_bias[:, None, None, :]  # B x 1 x 1 x S
            if incremental_state is not None:  # every step reads k and v
                k, v = k.contiguous(), v.contiguous()
                state["k"], state["v"], state["bias"] = k, v, bias
                self._set_input_buffer(incremental_state, state)
        else:
            cached_k, cached_v, cached_bias = state["k"], state["v"], state["bias"]
            assert cached_k is not None and cached_v is not None and cached_bias is not None
            k, v, bias = cached_k, cached_v, cached_bias
        B, beam = k.size(0), R // k.size(0)
        q = linear(x, self.q_proj.weight, self.q_proj.bias).view(T, B, beam, self.num_heads, self.head_dim)
        q = q.permute(1, 3, 2, 0, 4).reshape(B, self.num_heads, beam * T, self.head_dim)
        attn: Tensor | None = None
        if incremental_state is None and not need_attn:  # many queries: no attention weights needed
            dropout = self.dropout_module.p if self.training or self.dropout_module.apply_during_inference else 0.0
            h = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        else:  # few queries: two plain products are faster
            weights = (torch.matmul(q * self.scaling, k.transpose(2, 3)) + bias.type_as(q)).softmax(-1)
            h = torch.matmul(self.dropout_module(weights), v)
            if need_attn:
                attn = weights.mean(1).view(R, T, -1)
        h = h.view(B, self.num_heads, beam, T, self.head_dim).permute(3, 0, 2, 1, 4).reshape(T, R, d)
        return linear(h, self.out_proj.weight, self.out_proj.bias), attn

    @torch.jit.export
    def reorder_incremental_state(
        self, incremental_state: IncrementalState, new_order: Tensor
    ) -> IncrementalState | None:
        """Do nothing: the decoder calls `select_sentences` for all layers."""
        return incremental_state

    def select_sentences(self, incremental_state: IncrementalState, kept: Tensor) -> None:
        """Keep the keys and values of these sentences (LongTensor)."""
        state = self._get_input_buffer(incremental_state)
        for name, value in state.items():
            if value is not None:
                state[name] = value.index_select(0, kept)
        self._set_input_buffer(incremental_state, state)

    def split_heads(self, x: Tensor) -> Tensor:
        """Split the channels into heads. Shape: S x B x d to B x h x S x d/h."""
        return x.view(x.size(0), x.size(1), self.num_heads, self.head_dim).permute(1, 2, 0, 3)
