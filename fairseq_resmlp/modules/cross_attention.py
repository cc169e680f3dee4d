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
        if bool((groups == groups[:, :1]).all()):
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
        rows: Tensor | None,
        incremental_state: IncrementalState | None,
        need_attn: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Shape: as `ResMLPDecoderLayer.forward`."""
        T, R, d = x.shape
        state: dict[str, Tensor | None] = {}
        if incremental_state is not None:
            state = self._get_input_buffer(incremental_state)
        if "k" not in state:
            if rows is not None:
                kept = one_row_per_sentence(rows, R // encoder_out.size(1))
                encoder_out = encoder_out.index_select(1, kept)
                padding_bias = padding_bias.index_select(0, kept)
            k = self.split_heads(linear(encoder_out, self.k_proj.weight, self.k_proj.bias))  # B x h x S x d/h
            v = self.split_heads(linear(encoder_out, self.v_proj.weight, self.v_proj.bias))
            bias = padding_bias[:, None, None, :]  # B x 1 x 1 x S
            if incremental_state is not None:  # every step reads k and v
                k, v = k.contiguous(), v.contiguous()
                state["k"], state["v"], state["bias"] = k, v, bias
                state["sentences"] = torch.arange(R, device=x.device) // (R // encoder_out.size(1))
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
        """Keep the keys and values of the sentences that still have hypotheses."""
        state = self._get_input_buffer(incremental_state)
        if "k" in state:
            k, v, bias, sentences = state["k"], state["v"], state["bias"], state["sentences"]
            assert k is not None and v is not None and bias is not None and sentences is not None
            rows = sentences.index_select(0, new_order)
            if not torch.equal(rows, sentences):
                kept = one_row_per_sentence(rows, sentences.size(0) // k.size(0))
                state["k"], state["v"] = k.index_select(0, kept), v.index_select(0, kept)
                state["bias"] = bias.index_select(0, kept)
                beam = rows.size(0) // kept.size(0)
                state["sentences"] = torch.arange(rows.size(0), device=k.device) // beam
                self._set_input_buffer(incremental_state, state)
        return incremental_state

    def split_heads(self, x: Tensor) -> Tensor:
        """Split the channels into heads. Shape: S x B x d to B x h x S x d/h."""
        return x.view(x.size(0), x.size(1), self.num_heads, self.head_dim).permute(1, 2, 0, 3)
