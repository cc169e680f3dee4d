"""Absorbing every Aff into an adjacent linear layer, which makes it free at inference time.

"Aff has no cost at inference time, since it can be absorbed in the adjacent linear layer", section 2 of the paper.
"""

from torch import Tensor, nn

from fairseq_resmlp.resmlp import Aff, LayerNorm, LinearMixing


def fold_model_(model: nn.Module) -> None:
    """Absorb the Affs of a ResMLPModel, in place, except around the encoder's mixing.

    There, the contribution of beta to a position depends on the padding of the batch.
    """
    for layer in model.encoder.layers:
        _fold_feed_forward(layer)
    decoder = model.decoder
    decoder.final = fold_into_next(decoder.final, decoder.output_projection)
    for layer in decoder.layers:
        if isinstance(layer.mixing, LinearMixing):
            layer.mixing_pre, layer.mixing_post = _fold_causal_mixing(layer.mixing_pre, layer.mixing, layer.mixing_post)
        layer.attention_pre = fold_into_next(layer.attention_pre, layer.attention.q_proj)
        layer.attention_post = _fold_into_previous(layer.attention_post, layer.attention.out_proj)
        _fold_feed_forward(layer)


def _fold_feed_forward(layer: nn.Module) -> None:
    layer.ffn_pre = fold_into_next(layer.ffn_pre, layer.ffn.B)
    layer.ffn_post = _fold_into_previous(layer.ffn_post, layer.ffn.C)


def fold_into_next(aff: Aff, layer: nn.Linear) -> nn.Module:
    """Make `layer` compute layer(aff(x)): W (alpha x + beta) + b = (W alpha) x + (W beta + b).

    Returns:
        the remainder of `aff` once alpha is 1 and beta is 0: nothing for an Aff, the normalization for a LayerNorm
    """
    W = layer.weight.double()
    b = W @ aff.beta.double()
    _set_parameters(layer, W * aff.alpha.double(), b if layer.bias is None else b + layer.bias.double())
    return nn.LayerNorm(aff.alpha.numel(), elementwise_affine=False) if isinstance(aff, LayerNorm) else nn.Identity()


def _fold_into_previous(aff: Aff, layer: nn.Linear) -> nn.Module:
    """Make `layer` compute aff(layer(x)): alpha (W x + b) + beta = (alpha W) x + (alpha b + beta). Returns Identity."""
    alpha = aff.alpha.double()
    _set_parameters(layer, alpha[:, None] * layer.weight.double(), alpha * layer.bias.double() + aff.beta.double())
    return nn.Identity()


def _fold_causal_mixing(pre: Aff, mixing: LinearMixing, post: Aff) -> tuple[nn.Module, nn.Module]:
    """Make `mixing` compute post(A pre(x) + b) = A (s x) + b', with b' of N x d. Returns what remains of pre and post.

    A mixes positions and alpha scales channels, so s = alpha_post alpha_pre can move in front of A. The beta of `pre`
    reaches position t multiplied by the sum of row t of A. Padding would change that sum, hence causal mixing only.
    """
    alpha = post.alpha.double()
    rows = mixing.matrix(mixing.N).double().sum(2)  # h x N
    rows = rows.repeat_interleave(alpha.numel() // mixing.heads, 0).t()  # N x d
    b = alpha * (rows * pre.beta.double() + mixing.b.double()[:, None]) + post.beta.double()
    mixing.b = nn.Parameter(b.to(mixing.b.dtype))
    scale = type(pre)(alpha.numel()).to(mixing.b)
    scale.alpha = nn.Parameter((alpha * pre.alpha.double()).to(mixing.b.dtype))
    return scale, nn.Identity()


def _set_parameters(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Replace the parameters of a linear layer, keeping their type. A tied weight keeps its other uses."""
    layer.weight, layer.bias = (nn.Parameter(p.to(layer.weight.dtype)) for p in (weight, bias))
