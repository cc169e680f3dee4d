"""Sequence-to-sequence ResMLP: token mixing in place of self-attention.

Paper: Touvron et al., "ResMLP: Feedforward networks for image classification with data-efficient
training", https://arxiv.org/abs/2105.03404, equations (1) to (3) and section 3.6 (machine translation).

Dimensions, written after the lines that change them:

    T   positions of the longest sentence in the batch (S on the source side where both occur)
    B   sentences in the batch (times the beam size in beam search)
    d   channels: the embedding dimension
    N   the largest T a model can take: its matrices A are N x N
    V   entries of the dictionary

Activations are time first, T x B x d, so that mixing is one plain matrix product,
A[:T, :T] times x seen as T x (B d), without a transpose.
"""

from typing import Dict, List, Optional, Tuple

import torch
from fairseq.models import FairseqEncoder, FairseqIncrementalDecoder
from fairseq.models.transformer import Linear
from fairseq.modules import FairseqDropout
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import CrossAttention, IncrementalState
from .errors import check_length
from .linear import linear
from .mixing import TOKEN_MIXING, TokenMixing, fit
from .positions import Positions

EncoderOut = Dict[str, List[Tensor]]

POST_ALPHA = 0.2  # the paper's initial LayerScale in translation, section 3.6


class Aff(nn.Module):
    """Aff(x) = alpha * x + beta, one alpha and beta a channel: equation (1).

    Shape: (..., d) to (..., d).
    """

    def __init__(self, d: int, alpha: float = 1.0):
        super().__init__()
        self.alpha = nn.Parameter(torch.full((d,), alpha))
        self.beta = nn.Parameter(torch.zeros(d))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.alpha, x)

    def fold_into_next(self, layer: nn.Linear) -> nn.Module:
        """Make `layer` do this Aff's work, too: layer(Aff(x)). Returns what is left.

        "Aff has no cost at inference time, since it can be absorbed in the adjacent linear layer", section 2.
        """
        W = layer.weight.double()
        b = W @ self.beta.double()
        set_linear(layer, W * self.alpha.double(), b if layer.bias is None else b + layer.bias.double())
        return self.without_scale_and_shift()

    def without_scale_and_shift(self) -> nn.Module:
        """What is left where alpha is 1 and beta 0: nothing."""
        return nn.Identity()

    def fold_into_previous(self, layer: nn.Linear) -> nn.Module:
        """Make `layer` do this Aff's work, too: Aff(layer(x)). Returns what is left: nothing."""
        alpha = self.alpha.double()
        set_linear(layer, alpha[:, None] * layer.weight.double(), alpha * layer.bias.double() + self.beta.double())
        return nn.Identity()


def set_linear(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Give a linear layer new parameters, of its own and of its old type."""
    layer.weight, layer.bias = (nn.Parameter(p.to(layer.weight.dtype)) for p in (weight, bias))


class LayerNorm(Aff):
    """The Transformer's: an Aff of x brought to mean 0 and variance 1 over the channels (`--normalization layer`)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.alpha.shape, self.alpha, self.beta)

    def without_scale_and_shift(self) -> nn.Module:
        """What is left where alpha is 1 and beta 0: the normalisation."""
        return nn.LayerNorm(self.alpha.numel(), elementwise_affine=False)


NORMALIZATION = {"affine": Aff, "layer": LayerNorm}


class LinearMixing(TokenMixing):
    """A linear layer across tokens, the same for every channel: y = A x + b, the inside of equation (2).

    A (N x N) is cut to the T positions at hand; `causal` keeps it lower-triangular by cutting in the
    forward pass, so that the entries above the diagonal start at zero, get a zero gradient and stay zero.

    With h heads (--mixing-heads), A is h x N x N: one matrix for each group of d / h channels.
    """

    def __init__(self, d: int, N: int, causal: bool, cfg):
        super().__init__()
        self.causal, self.N, self.heads = causal, N, cfg.mixing_heads
        self.add_parameters(cfg)

    def add_parameters(self, cfg) -> None:
        """A and b, at zero. Without a bias (--no-mixing-bias) b stays there."""
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
        """A for T positions. Shape: h x T x T."""
        A = self.A[..., :T, :T]
        if self.causal:
            A = A.tril()
        return A if A.dim() == 3 else A.unsqueeze(0)

    def row(self, t: int) -> Tensor:
        """Row t of a causal A, up to the diagonal. Shape: h x (t + 1)."""
        A = self.A[..., t, : t + 1]
        return A if A.dim() == 2 else A.unsqueeze(0)

    def mix(self, x: Tensor, keep: Optional[Tensor]) -> Tensor:
        T, B, d = x.shape
        A, b, h = self.matrix(T), self.b[:T].view(T, 1, -1), self.heads
        if h == 1:
            return linear(A[0], x.reshape(T, B * d).t()).view(T, B, d) + b
        groups = x.reshape(T, B, h, d // h).permute(2, 0, 1, 3).reshape(h, T, -1)
        return torch.bmm(A, groups).view(h, T, B, d // h).permute(1, 2, 0, 3).reshape(T, B, d) + b

    def newest(self, store: Tensor, ancestors: Tensor) -> Tensor:
        """One pass over the rows of the cache that row t of A weighs."""
        (B, t), h = ancestors.shape, self.heads
        weights = self.row(t - 1)  # h x t
        if h > 1:  # a row of the cache is h rows of d / h channels
            ancestors = (ancestors.unsqueeze(1) * h + torch.arange(h, device=store.device).unsqueeze(1)).flatten(0, 1)
            weights = weights.repeat(B, 1)
        table = store.reshape(-1, store.size(2) // h)
        y = F.embedding_bag(ancestors, table, per_sample_weights=weights.expand_as(ancestors).contiguous(), mode="sum")
        return (y.view(B, -1) + self.b[t - 1]).unsqueeze(0)

    def weights(self) -> Tensor:
        """What A is made of: A itself, N x N or h x N x N."""
        return self.A

    def fold(self, pre: Aff, post: Aff) -> Tuple[nn.Module, nn.Module]:
        """Do the work of the Affs around: post(A pre(x) + b) = A (s x) + b', b' of N x d. Returns what is left of them.

        Channels and positions do not meet in A (s x), so that s = alpha_post alpha_pre can stand before it; beta_pre
        reaches position t with the sum of row t of A, which padding would change: for causal mixing only.
        """
        assert self.causal
        alpha = post.alpha.double()
        rows = self.matrix(self.N).double().sum(2)  # h x N
        rows = rows.repeat_interleave(alpha.numel() // self.heads, 0).t()  # N x d
        b = alpha * (rows * pre.beta.double() + self.b.double()[:, None]) + post.beta.double()
        self.b = nn.Parameter(b.to(self.b.dtype))
        scale = type(pre)(alpha.numel()).to(self.b)
        scale.alpha = nn.Parameter((alpha * pre.alpha.double()).to(self.b.dtype))
        return scale, nn.Identity()

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> None:
        """Fit a checkpoint trained with another N: cut it down, or fill up with harmless zeros."""
        if self.length_in(state_dict, name) is None:
            return
        A = fit(fit(state_dict[f"{name}.A"], -1, self.N), -2, self.N)
        state_dict[f"{name}.A"] = A.tril() if self.causal else A
        if f"{name}.b" in state_dict:
            state_dict[f"{name}.b"] = fit(state_dict[f"{name}.b"], 0, self.N)

    def length_in(self, state_dict: Dict[str, Tensor], name: str) -> Optional[int]:
        A = state_dict.get(f"{name}.A")
        return None if A is None else A.size(-1)


TOKEN_MIXING["linear"] = LinearMixing

ACTIVATION = {"gelu": F.gelu, "relu": F.relu}


class FeedForward(nn.Module):
    """C GELU(B x), the inside of equation (3), or with another activation. Shape: (..., d) to (..., d)."""

    def __init__(self, d: int, hidden: int, cfg):
        super().__init__()
        self.B = Linear(d, hidden)
        self.C = Linear(hidden, d)
        self.activation = ACTIVATION[cfg.activation_fn]
        self.activation_dropout = FairseqDropout(cfg.activation_dropout, module_name=self.__class__.__name__)

    def forward(self, x: Tensor) -> Tensor:
        h = self.activation_dropout(self.activation(linear(x, self.B.weight, self.B.bias)))
        return linear(h, self.C.weight, self.C.bias)


class ResMLPEncoderLayer(nn.Module):
    """Equations (2) and (3): mixing of tokens, then of channels.

    Shape: x is T x B x d, keep is T x B x 1 with 1 at tokens and 0 at padding; the result is T x B x d.
    """

    def __init__(self, cfg):
        super().__init__()
        d, norm = cfg.encoder_embed_dim, NORMALIZATION[cfg.normalization]
        self.mixing_pre, self.mixing_post = norm(d), Aff(d, POST_ALPHA)
        self.mixing = TOKEN_MIXING[cfg.token_mixing](d, cfg.encoder_max_positions, False, cfg)
        self.ffn_pre, self.ffn_post = norm(d), Aff(d, POST_ALPHA)
        self.ffn = FeedForward(d, cfg.encoder_ffn_embed_dim, cfg)
        self.dropout = FairseqDropout(cfg.dropout, module_name=self.__class__.__name__)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        x = x + self.dropout(self.mixing_post(self.mixing(self.mixing_pre(x), keep)))
        return x + self.dropout(self.ffn_post(self.ffn(self.ffn_pre(x))))

    def fold(self) -> None:
        """Fold the Affs away, except around the mixing: what its beta adds depends on the padding."""
        self.ffn_pre = self.ffn_pre.fold_into_next(self.ffn.B)
        self.ffn_post = self.ffn_post.fold_into_previous(self.ffn.C)


class ResMLPDecoderLayer(nn.Module):
    """Causal mixing of tokens, cross-attention to the encoder's output, mixing of channels (section 3.6).

    Padding needs no mask here: it stands on the right, where no earlier position can see it.

    Shape: x is T x R x d, encoder_out S x B x d, encoder_padding_mask B x S, and rows (R, or None where R rows are
    the B sentences) which sentence each row of x translates; the result is T x R x d and, if `need_attn`, the
    attention averaged over heads, R x T x S.
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
        encoder_padding_mask: Tensor,
        rows: Optional[Tensor],
        incremental_state: Optional[IncrementalState],
        need_attn: bool,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        x = x + self.dropout(self.mixing_post(self.mixing(self.mixing_pre(x), None, incremental_state)))
        h, attn = self.attention(
            self.attention_pre(x), encoder_out, encoder_padding_mask, rows, incremental_state, need_attn
        )
        x = x + self.dropout(self.attention_post(h))
        return x + self.dropout(self.ffn_post(self.ffn(self.ffn_pre(x)))), attn

    def fold(self) -> None:
        """Fold the Affs away."""
        self.mixing_pre, self.mixing_post = self.mixing.fold(self.mixing_pre, self.mixing_post)
        self.attention_pre = self.attention_pre.fold_into_next(self.attention.q_proj)
        self.attention_post = self.attention_post.fold_into_previous(self.attention.out_proj)
        self.ffn_pre = self.ffn_pre.fold_into_next(self.ffn.B)
        self.ffn_post = self.ffn_post.fold_into_previous(self.ffn.C)


def roll_rows(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the last dimension of each batch row to the left by that row's shift.

    Shape: x is B x T or B x M x T, shift is B (whole numbers, negative to turn right); the result is as x.
    """
    T = x.size(-1)
    shift = shift.view([-1] + [1] * (x.dim() - 1))
    index = (torch.arange(T, device=x.device) + shift) % T
    return x.gather(-1, index.expand_as(x))


class ResMLPEncoder(FairseqEncoder):
    """Embedding, L encoder layers and a final Aff (or LayerNorm).

    The embedding is not multiplied by sqrt(d) as in the Transformer: no LayerNorm would undo that, a tied
    output layer would give the previous word a logit of about sqrt(d), and training would start at a
    multiple of log V (docs/model.md has the measurement).

    Args:
        cfg (ResMLPConfig): see `fairseq_resmlp.model`
        dictionary (~fairseq.data.Dictionary): source dictionary
        embed_tokens (torch.nn.Embedding): V x d
    """

    def __init__(self, cfg, dictionary, embed_tokens: nn.Embedding):
        super().__init__(dictionary)
        d = cfg.encoder_embed_dim
        self.N = cfg.encoder_max_positions
        self.padding_idx: int = dictionary.pad()
        self.embed_tokens = embed_tokens
        self.positions = Positions(cfg.positional_embeddings, self.N, d)
        self.dropout = FairseqDropout(cfg.dropout, module_name=self.__class__.__name__)
        self.layers = nn.ModuleList([ResMLPEncoderLayer(cfg) for _ in range(cfg.encoder_layers)])
        self.final = NORMALIZATION[cfg.normalization](d)
        self.folded = False

    def forward(self, src_tokens: Tensor, src_lengths: Optional[Tensor] = None) -> EncoderOut:
        """Encode sentences padded on either side.

        Position i of a sentence is row i of A whatever stands beside it, so padding is turned to the
        right first; `left_padding` remembers by how much, for attention maps over the given tokens.

        Args:
            src_tokens (LongTensor): B x S
            src_lengths (LongTensor): B, unused

        Returns:
            dict of lists: `encoder_out` [S x B x d] and `encoder_padding_mask` [B x S] (true at padding), both
            padded on the right, `left_padding` [B], and `rows` [], or after reordering [R]: which sentence each row
            of the decoder translates, so that beam search need not copy the others.

        Raises:
            InputError: S > N
        """
        check_length(src_tokens.size(1), self.N, "source", "encoder")
        left_padding = src_tokens.eq(self.padding_idx).long().cumprod(1).sum(1)
        src_tokens = roll_rows(src_tokens, left_padding)
        padding_mask = src_tokens.eq(self.padding_idx)
        x = self.dropout(self.positions(self.embed_tokens(src_tokens))).transpose(0, 1)  # S x B x d
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
        """Select batch entries `new_order` (LongTensor) of what `forward` returned."""
        rows = encoder_out["rows"]
        return {
            "encoder_out": encoder_out["encoder_out"],
            "encoder_padding_mask": encoder_out["encoder_padding_mask"],
            "left_padding": encoder_out["left_padding"],
            "rows": [rows[0].index_select(0, new_order) if len(rows) > 0 else new_order],
        }

    def make_generation_fast_(self, **kwargs) -> None:
        """Called by fairseq-generate: fold the Affs of the feed-forward layers."""
        if not self.folded:
            self.folded = True
            for layer in self.layers:
                layer.fold()

    def max_positions(self) -> int:
        """N: the longest source, in pieces, with its end-of-sentence mark."""
        return self.N


class ResMLPDecoder(FairseqIncrementalDecoder):
    """Embedding, L decoder layers, a final Aff (or LayerNorm) and the output layer.

    Args:
        cfg (ResMLPConfig): see `fairseq_resmlp.model`
        dictionary (~fairseq.data.Dictionary): target dictionary
        embed_tokens (torch.nn.Embedding): V x d
    """

    def __init__(self, cfg, dictionary, embed_tokens: nn.Embedding):
        super().__init__(dictionary)
        d = cfg.decoder_embed_dim
        self.N = cfg.decoder_max_positions
        self.embed_tokens = embed_tokens
        self.positions = Positions(cfg.positional_embeddings, self.N, d)
        self.dropout = FairseqDropout(cfg.dropout, module_name=self.__class__.__name__)
        self.layers = nn.ModuleList([ResMLPDecoderLayer(cfg) for _ in range(cfg.decoder_layers)])
        self.final = NORMALIZATION[cfg.normalization](d)
        self.output_projection = nn.Linear(d, len(dictionary), bias=False)
        if cfg.share_decoder_input_output_embed:
            self.output_projection.weight = embed_tokens.weight
        else:
            nn.init.normal_(self.output_projection.weight, mean=0, std=d**-0.5)
        self.need_attn = True
        self.folded = False

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Optional[EncoderOut],
        incremental_state: Optional[IncrementalState] = None,
        features_only: bool = False,
    ) -> Tuple[Tensor, Dict[str, List[Optional[Tensor]]]]:
        """
        Args:
            prev_output_tokens (LongTensor): B x T, padded on the right
            encoder_out: what the encoder returned
            incremental_state: cache of incremental decoding; only the last token is then computed
            features_only (bool): stop before the output layer

        Returns:
            B x T x V logits (or B x T x d features; T is 1 with an incremental state), and a dict whose
            `attn` holds the last layer's attention averaged over heads, B x T x S over the source as it
            was given to the encoder, or None in training.

        Raises:
            InputError: T > N
        """
        check_length(prev_output_tokens.size(1), self.N, "target", "decoder")
        assert encoder_out is not None  # fairseq's generator declares it optional
        first = 0
        if incremental_state is not None:
            first = prev_output_tokens.size(1) - 1
            prev_output_tokens = prev_output_tokens[:, -1:]
        x = self.dropout(self.positions(self.embed_tokens(prev_output_tokens), first)).transpose(0, 1)  # T x B x d
        need_attn = self.need_attn and not self.training
        rows: Optional[Tensor] = None
        left_padding = encoder_out["left_padding"][0]
        if len(encoder_out["rows"]) > 0:
            rows = encoder_out["rows"][0]
            left_padding = left_padding.index_select(0, rows)
        attn: Optional[Tensor] = None
        for i, layer in enumerate(self.layers):
            x, attn = layer(
                x,
                encoder_out["encoder_out"][0],
                encoder_out["encoder_padding_mask"][0],
                rows,
                incremental_state,
                need_attn and i == len(self.layers) - 1,
            )
        if attn is not None:
            attn = roll_rows(attn, -left_padding)
        x = self.final(x).transpose(0, 1)  # B x T x d
        if not features_only:
            x = self.output_layer(x)
        return x, {"attn": [attn]}

    def extract_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Optional[EncoderOut],
        incremental_state: Optional[IncrementalState] = None,
    ) -> Tuple[Tensor, Dict[str, List[Optional[Tensor]]]]:
        """`forward` without the output layer."""
        return self.forward(prev_output_tokens, encoder_out, incremental_state, features_only=True)

    def output_layer(self, features: Tensor) -> Tensor:
        """(..., d) features to (..., V) logits."""
        return linear(features, self.output_projection.weight, self.output_projection.bias)

    def max_positions(self) -> int:
        """N: the longest target, in pieces, with its end-of-sentence mark."""
        return self.N

    def make_generation_fast_(self, need_attn: bool = False, **kwargs) -> None:
        """Called by fairseq-generate: leave attention maps out where nobody asked for them, and fold the Affs."""
        self.need_attn = need_attn
        if not self.folded:
            self.folded = True
            self.final = self.final.fold_into_next(self.output_projection)
            for layer in self.layers:
                layer.fold()
