"""Exporting a trained model, which fairseq loads, to a directory that translates without fairseq."""

import copy
import os

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_resmlp.common.activation import geglu
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.model_files import SENTENCEPIECE_NAMES, find_model_files
from fairseq_resmlp.inference.config import NetworkConfig
from fairseq_resmlp.inference.model_format import read_dictionary, save_exported_model
from fairseq_resmlp.inference.shortlist import Shortlist
from fairseq_resmlp.model import hub
from fairseq_resmlp.model.folding import fold_into_next, fold_model_
from fairseq_resmlp.model.mixing_variants import NoMixing, ToeplitzMixing
from fairseq_resmlp.resmlp import LayerNorm, LinearMixing


def export_model(
    model: str,
    out: str,
    data: str | None = None,
    sentencepiece: str | None = None,
    dtype: str = "int8",
    shortlist: str | None = None,
    prune_mixing: float = 0.0,
) -> list[str]:
    """Write the exported model `out` (see `fairseq_resmlp.inference.model_format`) of a trained model.

    Args:
        model: a run directory, a model directory or a checkpoint, see `find_model_files`
        data: directory of the dictionaries; None: found near `model`
        sentencepiece: SentencePiece model; None: found near `model`
        dtype: type to store the matrices in
        shortlist: see `fairseq_resmlp.inference.shortlist`
        prune_mixing: zero the entries of each A smaller than this fraction of its largest

    Returns:
        source and target language

    Raises:
        InputError: a file is missing, not safe to load, or belongs to another model; or `out` exists
    """
    files = find_model_files(model)
    checkpoint = files.require_checkpoint()
    home, file = os.path.split(checkpoint)
    data, sentencepiece = data or files.dictionaries, sentencepiece or files.sentencepiece
    if data is None:
        raise InputError(f"dict.*.txt not found in {files.home}, or in data-bin there or above: specify it as --data")
    if sentencepiece is None:
        raise InputError(f"{' or '.join(SENTENCEPIECE_NAMES)} not found in {files.home} or above: specify it as --spm")
    for path, option in ((checkpoint, "MODEL"), (sentencepiece, "--spm")):
        if not os.path.isfile(path):
            raise InputError(f"{path} not found: specify it as {option}")
    home, data = home or ".", os.path.realpath(data)  # not abspath: ".." after a link to a directory
    loaded = hub.from_pretrained(home, file, data, prune_mixing, bpe="sentencepiece", sentencepiece_model=sentencepiece)
    languages = [loaded.task.cfg.source_lang, loaded.task.cfg.target_lang]
    source, target = (os.path.join(data, f"dict.{language}.txt") for language in languages)
    if shortlist is not None and Shortlist.read(shortlist, read_dictionary(source), read_dictionary(target)).is_empty:
        raise InputError(f"{shortlist} has no subword of this model's dictionary: it belongs to another vocabulary")
    config, weights = to_inference_weights(loaded.models[0])
    save_exported_model(out, config, weights, dtype, languages, (source, target), sentencepiece, shortlist)
    return languages


def to_inference_weights(model: nn.Module) -> tuple[NetworkConfig, dict[str, Tensor]]:
    """Convert a trained model for `fairseq_resmlp.inference.network.Network`.

    Args:
        model (ResMLPModel): in any state; it is not changed

    Returns:
        its sizes, and the weights listed by `NetworkConfig.weight_shapes`, float32, computed in float64

    Raises:
        InputError: a variant of the model that `Network` does not support
    """
    _check_supported(model)
    model = copy.deepcopy(model).double().cpu()
    if not model._is_generation_fast:
        fold_model_(model)
    weights = {**_embedding_weights(model), **_mixing_weights(model)}
    for name, (weight, bias) in _linear_layers(model).items():
        weights.update({f"{name}.weight": weight, f"{name}.bias": bias})
    weights = {name: value.detach().float() for name, value in weights.items()}
    if model.encoder.embed_tokens is model.decoder.embed_tokens:
        weights["decoder.embed"] = weights["encoder.embed"]
    return _network_config(model, weights), weights


def _check_supported(model: nn.Module) -> None:
    """Raise InputError, naming the option, if the model has parts that `Network` does not compute."""
    layers = [*model.encoder.layers, *model.decoder.layers]
    unsupported = {
        "--token-mixing other than linear, toeplitz, toeplitz_linear and none": not isinstance(
            layers[0].mixing, (LinearMixing, NoMixing)
        ),
        "--positional-embeddings": model.encoder.positions.P is not None,
        "--activation-fn relu": layers[0].ffn.activation is F.relu,
    }
    for option, present in unsupported.items():
        if present:
            raise InputError(f"a model with {option} cannot be exported: translate with fairseq-generate")


def _embedding_weights(model: nn.Module) -> dict[str, Tensor]:
    return {f"{name}.embed": getattr(model, name).embed_tokens.weight for name in ("encoder", "decoder")}


def _mixing_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return A (or a), scale, bias and shift of all layers of each stack, stacked."""
    weights = {}
    for name in ("encoder", "decoder"):
        stack = getattr(model, name)
        matrix = "a" if isinstance(stack.layers[0].mixing, ToeplitzMixing) else "A"
        layers = [_mixing_sublayer(layer, stack.N) for layer in stack.layers]
        for part, values in zip((matrix, "scale", "bias", "shift"), zip(*layers)):
            weights[f"{name}.{part}"] = torch.stack(values)
    del weights["decoder.shift"]  # zero: included in the bias
    return weights


def _mixing_sublayer(layer: nn.Module, N: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return A, scale, bias (N x d) and shift of a layer, which adds scale * (A x) + bias + rowsum(A) shift to x.

    For a Toeplitz A, return its weights per offset.
    """
    pre, mixing, post = layer.mixing_pre, layer.mixing, layer.mixing_post
    if isinstance(mixing, NoMixing):
        return post.alpha.new_zeros(N, N), post.alpha, post.beta.expand(N, -1), torch.zeros_like(post.beta)
    A = mixing.a if isinstance(mixing, ToeplitzMixing) else mixing.matrix(N).squeeze(0)
    if mixing.causal:  # already folded: b is N x d, and `post` is the identity
        return A, pre.alpha, mixing.b, torch.zeros_like(pre.beta)
    return A, post.alpha * pre.alpha, torch.outer(mixing.b, post.alpha) + post.beta, post.alpha * pre.beta


def _linear_layers(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Return weight and bias of every linear layer, by the names of `NetworkConfig.weight_shapes`."""
    encoder, decoder = model.encoder, model.decoder
    linears, keys_values = {}, []
    for name, stack in (("encoder", encoder), ("decoder", decoder)):
        for i, layer in enumerate(stack.layers):
            for part in ("B", "C"):
                linears[f"{name}.{i}.{part}"] = _parameters(getattr(layer.ffn, part))
    for i, layer in enumerate(decoder.layers):
        attention = layer.attention
        weight, bias = _parameters(attention.q_proj)
        linears[f"decoder.{i}.q"] = (weight * attention.scaling, bias * attention.scaling)
        linears[f"decoder.{i}.out"] = _parameters(attention.out_proj)
        for projection in (attention.k_proj, attention.v_proj):
            fold_into_next(encoder.final, projection)
            keys_values.append(_parameters(projection))
    weights, biases = zip(*keys_values)
    linears["decoder.keys_values"] = (torch.cat(weights), torch.cat(biases))
    linears["output"] = _parameters(decoder.output_projection)
    return linears


def _parameters(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    return layer.weight, layer.bias


def _network_config(model: nn.Module, weights: dict[str, Tensor]) -> NetworkConfig:
    first = model.encoder.layers[0].mixing
    sizes = {}
    for name in ("encoder", "decoder"):
        sizes[f"{name}_vocab_size"], sizes[f"{name}_embed_dim"] = weights[f"{name}.embed"].shape
        sizes[f"{name}_ffn_dim"] = weights[f"{name}.0.C.weight"].size(1)
        sizes[f"{name}_layers"] = len(weights[f"{name}.scale"])
        sizes[f"{name}_max_positions"] = getattr(model, name).N
    return NetworkConfig(
        **sizes,
        attention_heads=model.decoder.layers[0].attention.num_heads,
        mixing_heads=getattr(first, "heads", 1),
        mixing="toeplitz" if isinstance(first, ToeplitzMixing) else "linear",
        normalization="layer" if isinstance(model.encoder.final, LayerNorm) else "affine",
        activation="geglu" if model.encoder.layers[0].ffn.activation is geglu else "gelu",
    )
