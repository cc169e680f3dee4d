"""Cross-attention of the decoder, section 3.6: what ResMLP keeps of the Transformer."""

from typing import Dict, Optional, Tuple

import torch
from fairseq.modules import MultiheadAttention
from torch import Tensor
from torch.nn import functional as F

from .linear import linear

IncrementalState = Dict[str, Dict[str, Optional[Tensor]]]


def one_of_each(rows: Tensor, beam: int) -> Tensor:
    """The sentence of each group of `beam` rows, or of each row if those of a group are not of one sentence.

    Shape: R to R / beam or R.
    """
    if beam > 1 and rows.size(0) % beam == 0:
        groups = rows.view(-1, beam)
        if bool((groups == groups[:, :1]).all()):
            return groups[:, 0]
    return rows


class CrossAttention(MultiheadAttention):
    """fairseq's multi-head attention from the target to the encoder's output, T x B x d over S x B x d.

    Keys and values are computed once a sentence. In beam search the hypotheses of a sentence stand side by side and
    share them: they are further queries of it.
    """

    def forward(
        self,
        x: Tensor,
        encoder_out: Tensor,
        padding_mask: Tensor,
        rows: Optional[Tensor],
        incremental_state: Optional[IncrementalState],
        need_attn: bool,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """Shape: as `ResMLPDecoderLayer.forward`."""
        T, R, d = x.shape
        state: Dict[str, Optional[Tensor]] = {}
        if incremental_state is not None:
            state = self._get_input_buffer(incremental_state)
        if "k" not in state:
            if rows is not None:
                kept = one_of_each(rows, R // encoder_out.size(1))
                encoder_out = encoder_out.index_select(1, kept)
                padding_mask = padding_mask.index_select(0, kept)
            state["k"] = self.heads(linear(encoder_out, self.k_proj.weight, self.k_proj.bias))  # B x h x S x d/h
            state["v"] = self.heads(linear(encoder_out, self.v_proj.weight, self.v_proj.bias))
            state["mask"] = padding_mask[:, None, None, :]  # B x 1 x 1 x S
            state["sentences"] = torch.arange(R, device=x.device) // (R // encoder_out.size(1))
            if incremental_state is not None:
                self._set_input_buffer(incremental_state, state)
        k, v, mask = state["k"], state["v"], state["mask"]
        assert k is not None and v is not None and mask is not None
        B, beam = k.size(0), R // k.size(0)
        q = linear(x, self.q_proj.weight, self.q_proj.bias).view(T, B, beam, self.num_heads, self.head_dim)
        q = q.permute(1, 3, 2, 0, 4).reshape(B, self.num_heads, beam * T, self.head_dim)
        attn: Optional[Tensor] = None
        if incremental_state is None and not need_attn:  # many queries: weights are not kept
            dropout = self.dropout_module.p if self.training or self.dropout_module.apply_during_inference else 0.0
            h = F.scaled_dot_product_attention(q, k, v, attn_mask=~mask, dropout_p=dropout)
        else:  # few queries: two plain products are quicker
            weights = torch.matmul(q * self.scaling, k.transpose(2, 3)).masked_fill(mask, float("-inf")).softmax(-1)
            h = torch.matmul(self.dropout_module(weights), v)
            if need_attn:
                attn = weights.mean(1).view(R, T, -1)
        h = h.view(B, self.num_heads, beam, T, self.head_dim).permute(3, 0, 2, 1, 4).reshape(T, R, d)
        return linear(h, self.out_proj.weight, self.out_proj.bias), attn

    @torch.jit.export
    def reorder_incremental_state(
        self, incremental_state: IncrementalState, new_order: Tensor
    ) -> Optional[IncrementalState]:
        """Keep the keys and values of the sentences that the new hypotheses are of."""
        state = self._get_input_buffer(incremental_state)
        if "k" in state:
            k, v, mask, sentences = state["k"], state["v"], state["mask"], state["sentences"]
            assert k is not None and v is not None and mask is not None and sentences is not None
            rows = sentences.index_select(0, new_order)
            if not torch.equal(rows, sentences):
                kept = one_of_each(rows, sentences.size(0) // k.size(0))
                state["k"], state["v"] = k.index_select(0, kept), v.index_select(0, kept)
                state["mask"] = mask.index_select(0, kept)
                beam = rows.size(0) // kept.size(0)
                state["sentences"] = torch.arange(rows.size(0), device=k.device) // beam
                self._set_input_buffer(incremental_state, state)
        return incremental_state

    def heads(self, x: Tensor) -> Tensor:
        """Shape: S x B x d to B x h x S x d/h."""
        return x.view(x.size(0), x.size(1), self.num_heads, self.head_dim).permute(1, 2, 0, 3).contiguous()
