"""Sequence-to-sequence ResMLP: token mixing in place of self-attention.

Paper: Touvron et al., "ResMLP: Feedforward networks for image classification with data-efficient training",
https://arxiv.org/abs/2105.03404, equations (1) to (3) and section 3.6 (machine translation).

Dimensions, named in comments where shapes change:

    T   positions of the longest sentence in the batch (S on the source side if both occur)
    B   sentences in the batch (times the beam size in beam search)
    d   channels: the embedding dimension
    N   the largest T that a model accepts: its matrices A are N x N
    h   heads: matrices A per layer, each for d / h channels
    V   entries of the dictionary

Activations are time first, T x B x d, so that mixing is one matrix product without a transpose:
A[:T, :T] times x viewed as T x (B d).
"""

import torch
from fairseq.models import FairseqEncoder, FairseqIncrementalDecoder
from fairseq.models.transformer import Linear
from fairseq.modules import FairseqDropout
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_resmlp.common.activation import ACTIVATION
from fairseq_resmlp.common.errors import check_length
from fairseq_resmlp.modules.affine import affine
from fairseq_resmlp.modules.corner import corner
from fairseq_resmlp.modules.cross_attention import CrossAttention, one_row_per_sentence
from fairseq_resmlp.modules.incremental_state import IncrementalState
from fairseq_resmlp.modules.linear import linear
from fairseq_resmlp.modules.positional_embedding import PositionalEmbedding
from fairseq_resmlp.modules.stochastic_depth import StochasticDepth
from fairseq_resmlp.modules.token_mixing import TOKEN_MIXING, TokenMixing, register_token_mixing, resize

EncoderOut = dict[str, list[Tensor]]

POST_ALPHA = 0.2  # initial LayerScale in the paper's translation models, section 3.6


class Aff(nn.Module):
    """Aff(x) = alpha * x + beta, with one alpha and beta per channel: equation (1). Shape: (..., d) to (..., d)."""

    def __init__(self, d: int, alpha: float = 1.0):
        super().__init__()
        self.alpha = nn.Parameter(torch.full((d,), alpha))
        self.beta = nn.Parameter(torch.zeros(d))

    def forward(self, x: Tensor) -> Tensor:
        return affine(x, self.alpha, self.beta)


class LayerNorm(Aff):
    """The Transformer's normalization: Aff of x scaled to mean 0 and variance 1 over the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.alpha.shape, self.alpha, self.beta)


NORMALIZATION = {"affine": Aff, "layer": LayerNorm}  # the choices of --normalization


@register_token_mixing("linear")
class LinearMixing(TokenMixing):
    """A linear layer across tokens, the same for every channel: y = A x + b in equation (2).

    A (N x N) is cropped to T x T. If `causal`, the forward pass masks it to its lower triangle: the entries above the
    diagonal start at zero, receive zero gradients and stay zero. With several heads, A is h x N x N.
    """

    def __init__(self, d: int, N: int, causal: bool, cfg):
        super().__init__()
        self.causal, self.N, self.heads = causal, N, cfg.mixing_heads
        self.add_parameters(cfg)

    def add_parameters(self, cfg) -> None:
        """Create A and b, at zero. With --no-mixing-bias, b is not trained."""
        A = torch.zeros(self.heads, self.N, self.N)
        if cfg.mixing_init_std:
            A.normal_(std=cfg.mixing_init_std)
        A = A.tril() if self.causal else A
        self.A = nn.Parameter(A if self.heads > 1 else A[0])
        b = torch.zeros(self.N)
        if cfg.no_mixing_bias:
            self.register_buffer("b", b, persistent=False)
        else:
            self.b = nn.Parameter(b)

    def matrix(self, T: int) -> Tensor:
        """Return A for T positions. Shape: h x T x T."""
        A = corner(self.A, T, self.causal)
        return A if A.dim() == 3 else A.unsqueeze(0)

    def row(self, t: int) -> Tensor:
        """Return row t of a causal A, up to the diagonal. Shape: h x (t + 1)."""
        A = self.A[..., t, : t + 1]
        return A if A.dim() == 2 else A.unsqueeze(0)

    def mix(self, x: Tensor, keep: Tensor | None) -> Tensor:
        T, B, d = x.shape
        A, b, h = self.matrix(T), self.b[:T].view(T, 1, -1), self.heads
        if h == 1:
            return linear(A.squeeze(0), x.reshape(T, B * d).t()).view(T, B, d) + b
        groups = x.reshape(T, B, h, d // h).permute(2, 0, 1, 3).reshape(h, T, -1)  # h x T x (B d/h)
        return torch.bmm(A, groups).view(h, T, B, d // h).permute(1, 2, 0, 3).reshape(T, B, d) + b

    def mix_last_position(self, store: Tensor, ancestors: Tensor) -> Tensor:
        """Sum the cached rows, weighted by row t of A, in one pass."""
        (B, t), h = ancestors.shape, self.heads
        weights = self.row(t - 1)  # h x t
        if h > 1:  # view each cached row as h rows of d / h channels
            ancestors = (ancestors.unsqueeze(1) * h + torch.arange(h, device=store.device).unsqueeze(1)).flatten(0, 1)
            weights = weights.repeat(B, 1)  # (B h) x t
        table = store.reshape(-1, store.size(2) // h)
        y = F.embedding_bag(ancestors, table, per_sample_weights=weights.expand_as(ancestors).contiguous(), mode="sum")
        return (y.view(B, -1) + self.b[t - 1]).unsqueeze(0)  # 1 x B x d

    def prunable_weight(self) -> Tensor:
        """Return the parameter that determines A: A itself, N x N or h x N x N."""
        return self.A

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Crop a checkpoint that was trained with a larger N, or pad a smaller one with zeros, which have no effect."""
        if self.stored_length(state_dict, name) is None:
            return
        A = resize(resize(state_dict[f"{name}.A"], -1, self.N), -2, self.N)
        state_dict[f"{name}.A"] = A.tril() if self.causal else A
        if f"{name}.b" in state_dict:
            state_dict[f"{name}.b"] = resize(state_dict[f"{name}.b"], 0, self.N)

    def stored_length(self, state_dict: dict[str, Tensor], name: str) -> int | None:
        A = state_dict.get(f"{name}.A")
        return None if A is None else A.size(-1)


class FeedForward(nn.Module):
    """C GELU(B x) in equation (3). With GEGLU, B has twice as many rows. Shape: (..., d) to (..., d)."""

    def __init__(self, d: int, hidden: int, cfg):
        super().__init__()
        self.B = Linear(d, 2 * hidden if cfg.activation_fn == "geglu" else hidden)
        self.C = Linear(hidden, d)
        self.activation = ACTIVATION[cfg.activation_fn]
        self.activation_dropout = FairseqDropout(cfg.activation_dropout, module_name=self.__class__.__name__)

    def forward(self, x: Tensor) -> Tensor:
        h = self.activation_dropout(self.activation(linear(x, self.B.weight, self.B.bias)))
        return linear(h, self.C.weight, self.C.bias)


class ResMLPEncoderLayer(nn.Module):
    """Equations (2) and (3): token mixing, then channel mixing. It encodes sentences, and images (`vision`).

    Shape: x is T x B x d, keep is T x B x 1 (1 at tokens, 0 at padding) or None without padding; the result is
    T x B x d.

    Args:
        cfg (ResMLPConfig): see `fairseq_resmlp.model.config`
        post_alpha: initial alpha after each sublayer
        stochastic_depth: probability in training that a sublayer skips a sentence or image
    """

    def __init__(self, cfg, post_alpha: float = POST_ALPHA, stochastic_depth: float = 0.0):
        super().__init__()
        d, norm = cfg.encoder_embed_dim, NORMALIZATION[cfg.normalization]
        self.mixing_pre, self.mixing_post = norm(d), Aff(d, post_alpha)
        self.mixing = TOKEN_MIXING[cfg.token_mixing](d, cfg.encoder_max_positions, False, cfg)
        self.ffn_pre, self.ffn_post = norm(d), Aff(d, post_alpha)
        self.ffn = FeedForward(d, cfg.encoder_ffn_embed_dim, cfg)
        self.dropout = FairseqDropout(cfg.dropout, module_name=self.__class__.__name__)
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        x = x + self.stochastic_depth(self.dropout(self.mixing_post(self.mixing(self.mixing_pre(x), keep))))
        return x + self.stochastic_depth(self.dropout(self.ffn_post(self.ffn(self.ffn_pre(x)))))


class ResMLPDecoderLayer(nn.Module):
    """Causal token mixing, cross-attention to the encoder output, channel mixing (section 3.6).

    No padding mask is needed: padding is on the right, where no earlier position sees it.

    Shape: x is T x R x d, encoder_out S x B x d, padding_bias B x S (0 at tokens, minus infinity at padding). In beam
    search, each sentence has R / B adjacent rows. The result is T x R x d and, if `need_attn`, the attention averaged
    over heads, R x T x S.
    """

    def __init__(self, cfg):
        super().__init__()
        d, norm = cfg.decoder_embed_dim, NORMALIZATION[cfg.normalization]
        self.mixing_pre, self.mixing_post = norm(d), Aff(d, POST_ALPHA)
        self.mixing = TOKEN_MIXING[cfg.token_mixing](d, cfg.decoder_max_positions, True, cfg)
        self.attention_pre, self.attention_post = norm(d), Aff(d, POST_ALPHA)
        self.attention = CrossAttention(
            d,
            cfg.decoder_attention_heads,
            kdim=cfg.encoder_embed_dim,
            vdim=cfg.encoder_embed_dim,
            dropout=cfg.attention_dropout,
            encoder_decoder_attention=True,
        )
        self.ffn_pre, self.ffn_post = norm(d), Aff(d, POST_ALPHA)
        self.ffn = FeedForward(d, cfg.decoder_ffn_embed_dim, cfg)
        self.dropout = FairseqDropout(cfg.dropout, module_name=self.__class__.__name__)

    def forward(
        self,
        x: Tensor,
        encoder_out: Tensor,
        padding_bias: Tensor,
        incremental_state: IncrementalState | None,
        need_attn: bool,
    ) -> tuple[Tensor, Tensor | None]:
        x = x + self.dropout(self.mixing_post(self.mixing(self.mixing_pre(x), None, incremental_state)))
        h, attn = self.attention(self.attention_pre(x), encoder_out, padding_bias, incremental_state, need_attn)
        x = x + self.dropout(self.attention_post(h))
        return x + self.dropout(self.ffn_post(self.ffn(self.ffn_pre(x)))), attn


def roll_rows(x: Tensor, shift: Tensor) -> Tensor:
    """Roll the last dimension of each batch row to the left by that row's shift.

    Shape: x is B x T or B x M x T, shift is B (from 1 - T to T - 1; negative rolls right); the result is like x.
    """
    T = x.size(-1)
    shift = shift.view([-1] + [1] * (x.dim() - 1))
    index = torch.arange(T, device=x.device) + shift
    index = torch.where(index < 0, index + T, torch.where(index < T, index, index - T))  # % is not exported to ONNX
    return x.gather(-1, index.expand_as(x))


class ResMLPEncoder(FairseqEncoder):
    """Embedding, L encoder layers and a final Aff (or LayerNorm).

    Unlike the Transformer's, the embedding is not multiplied by sqrt(d): without LayerNorm, a tied output layer would
    give the previous word a logit of about sqrt(d), and training would start at a multiple of log V (docs/model.md).

    Args:
        cfg (ResMLPConfig): see `fairseq_resmlp.model.config`
        dictionary (~fairseq.data.Dictionary): source dictionary
        embed_tokens (torch.nn.Embedding): V x d
    """

    def __init__(self, cfg, dictionary, embed_tokens: nn.Embedding):
        super().__init__(dictionary)
        d = cfg.encoder_embed_dim
        self.N = cfg.encoder_max_positions
        self.padding_idx: int = dictionary.pad()
        self.embed_tokens = embed_tokens
        self.positions = PositionalEmbedding(cfg.positional_embeddings, self.N, d)
        self.dropout = FairseqDropout(cfg.dropout, module_name=self.__class__.__name__)
        self.layers = nn.ModuleList([ResMLPEncoderLayer(cfg) for _ in range(cfg.encoder_layers)])
        self.final = NORMALIZATION[cfg.normalization](d)

    def forward(self, src_tokens: Tensor, src_lengths: Tensor | None = None) -> EncoderOut:
        """Encode sentences that are padded on either side.

        Position i of a sentence belongs to row i of A regardless of padding, so padding is first moved to the right;
        `left_padding` records by how much, so that attention maps can refer to the given tokens.

        Args:
            src_tokens (LongTensor): B x S
            src_lengths (LongTensor): B, unused

        Returns:
            dict of lists: `encoder_out` [S x B x d] and `encoder_padding_mask` [B x S] (true at padding), both padded
            on the right; `left_padding` [B]; and `rows`, [] or, after reordering, [R]: the sentence that each row of
            the decoder translates, so that beam search does not have to copy the encoder output.

        Raises:
            InputError: S > N
        """
        check_length(src_tokens.size(1), self.N, "source", "encoder")
        left_padding = src_tokens.ne(self.padding_idx).int().argmax(1)  # the first token
        src_tokens = roll_rows(src_tokens, left_padding)
        padding_mask = src_tokens.eq(self.padding_idx)
        x = self.dropout(self.positions(self.embed_tokens(src_tokens))).transpose(0, 1).contiguous()  # S x B x d
        keep = (~padding_mask).t().unsqueeze(-1).type_as(x)  # S x B x 1
        for layer in self.layers:
            x = layer(x, keep)
        return {
            "encoder_out": [self.final(x)],
            "encoder_padding_mask": [padding_mask],
            "left_padding": [left_padding],
            "rows": [],
        }

    @torch.jit.export
    def reorder_encoder_out(self, encoder_out: EncoderOut, new_order: Tensor) -> EncoderOut:
        """Select batch entries `new_order` (LongTensor) of the output of `forward`."""
        rows = encoder_out["rows"]
        return {
            "encoder_out": encoder_out["encoder_out"],
            "encoder_padding_mask": encoder_out["encoder_padding_mask"],
            "left_padding": encoder_out["left_padding"],
            "rows": [rows[0].index_select(0, new_order) if len(rows) > 0 else new_order],
        }

    def max_positions(self) -> int:
        """Return N: the length of the longest source in tokens, including the end-of-sentence token."""
        return self.N


class ResMLPDecoder(FairseqIncrementalDecoder):
    """Embedding, L decoder layers, a final Aff (or LayerNorm) and the output layer. Arguments as for the encoder."""

    def __init__(self, cfg, dictionary, embed_tokens: nn.Embedding):
        super().__init__(dictionary)
        d = cfg.decoder_embed_dim
        self.N = cfg.decoder_max_positions
        self.embed_tokens = embed_tokens
        self.positions = PositionalEmbedding(cfg.positional_embeddings, self.N, d)
        self.dropout = FairseqDropout(cfg.dropout, module_name=self.__class__.__name__)
        self.layers = nn.ModuleList([ResMLPDecoderLayer(cfg) for _ in range(cfg.decoder_layers)])
        self.final = NORMALIZATION[cfg.normalization](d)
        self.output_projection = nn.Linear(d, len(dictionary), bias=False)
        if cfg.share_decoder_input_output_embed:
            self.output_projection.weight = embed_tokens.weight
        else:
            nn.init.normal_(self.output_projection.weight, mean=0, std=d**-0.5)
        self.need_attn = True

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: EncoderOut | None,
        incremental_state: IncrementalState | None = None,
        features_only: bool = False,
    ) -> tuple[Tensor, dict[str, list[Tensor | None]]]:
        """Decode with teacher forcing or, with an incremental state, one position.

        Args:
            prev_output_tokens (LongTensor): B x T, padded on the right
            encoder_out: output of the encoder
            incremental_state: cache of incremental decoding; only the last position is then computed
            features_only (bool): stop before the output layer

        Returns:
            B x T x V logits (or B x T x d features; T is 1 with an incremental state), and a dict whose `attn` is the
            last layer's attention averaged over heads, B x T x S over the source tokens as given, or None in training

        Raises:
            InputError: T > N
        """
        check_length(prev_output_tokens.size(1), self.N, "target", "decoder")
        assert encoder_out is not None  # fairseq's generator declares it optional
        first = 0
        if incremental_state is not None:
            first = prev_output_tokens.size(1) - 1
            prev_output_tokens = prev_output_tokens[:, -1:]
        x = self.dropout(self.positions(self.embed_tokens(prev_output_tokens), first))
        x = x.transpose(0, 1).contiguous()  # T x B x d
        need_attn = self.need_attn and not self.training
        encoded, padding_bias = self.select_sentences(encoder_out, x, incremental_state)
        attn: Tensor | None = None
        for i, layer in enumerate(self.layers):
            x, attn = layer(x, encoded, padding_bias, incremental_state, need_attn and i == len(self.layers) - 1)
        if attn is not None:
            left_padding = encoder_out["left_padding"][0]
            if len(encoder_out["rows"]) > 0:
                left_padding = left_padding.index_select(0, encoder_out["rows"][0])
            attn = roll_rows(attn, -left_padding)
        x = self.final(x).transpose(0, 1)  # B x T x d
        if not features_only:
            x = self.output_layer(x)
        return x, {"attn": [attn]}

    def select_sentences(
        self, encoder_out: EncoderOut, x: Tensor, incremental_state: IncrementalState | None
    ) -> tuple[Tensor, Tensor]:
        """Return the encoder output of the sentences that the rows of x (T x R x d) translate, and its padding.

        With an incremental state, only the first step uses them. The state then contains the sentence of each row,
        numbered from 0, as B x R / B.

        Returns:
            S x B x d; and B x S, 0 at tokens and minus infinity at padding
        """
        encoded, padding_mask = encoder_out["encoder_out"][0], encoder_out["encoder_padding_mask"][0]
        if incremental_state is not None and self.get_incremental_state(incremental_state, "sentences") is not None:
            return encoded, padding_mask
        if len(encoder_out["rows"]) > 0:
            kept = one_row_per_sentence(encoder_out["rows"][0], x.size(1) // encoded.size(1))
            encoded, padding_mask = encoded.index_select(1, kept), padding_mask.index_select(0, kept)
        if incremental_state is not None:
            self.number_rows(incremental_state, x.size(1), padding_mask)
        return encoded, torch.zeros_like(padding_mask, dtype=x.dtype).masked_fill(padding_mask, float("-inf"))

    def number_rows(self, incremental_state: IncrementalState, R: int, sentences: Tensor) -> None:
        """Store that R / B adjacent rows translate each of the B entries of `sentences`."""
        B = sentences.size(0)
        numbers = torch.arange(B, device=sentences.device).unsqueeze(1).expand(B, R // B)
        state: dict[str, Tensor | None] = {"of_row": numbers}
        self.set_incremental_state(incremental_state, "sentences", state)

    @torch.jit.export
    def reorder_incremental_state(self, incremental_state: IncrementalState, new_order: Tensor) -> None:
        """Keep the sentences that still have hypotheses. On a GPU, the host waits once for the decision."""
        state = self.get_incremental_state(incremental_state, "sentences")
        if state is not None:
            numbers = state["of_row"]
            assert numbers is not None
            rows = numbers.flatten().index_select(0, new_order)
            if not torch.equal(rows, numbers.flatten()):
                kept = one_row_per_sentence(rows, numbers.size(1))
                for layer in self.layers:
                    layer.attention.select_sentences(incremental_state, kept)
                self.number_rows(incremental_state, rows.size(0), kept)

    def extract_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: EncoderOut | None,
        incremental_state: IncrementalState | None = None,
    ) -> tuple[Tensor, dict[str, list[Tensor | None]]]:
        """Run `forward` without the output layer."""
        return self.forward(prev_output_tokens, encoder_out, incremental_state, features_only=True)

    def output_layer(self, features: Tensor) -> Tensor:
        """Project (..., d) features to (..., V) logits."""
        return linear(features, self.output_projection.weight, self.output_projection.bias)

    def max_positions(self) -> int:
        """Return N: the length of the longest target in tokens, including the end-of-sentence token."""
        return self.N

    def make_generation_fast_(self, need_attn: bool = False, **kwargs) -> None:
        """Compute attention maps only if requested. Called by fairseq-generate."""
        self.need_attn = need_attn
