"""Published image weights: between the names of DeiT and timm, and fairseq checkpoints of this plugin.

The published code of the paper, https://github.com/facebookresearch/deit, and timm's `mlp_mixer.py` have the same
parameters under different names. Their Aff after a sublayer has no beta (LayerScale). Any beta of ours can be moved
into the Affs that follow, so that both directions are exact.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.options import get_training_parser, parse_args_and_arch
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fairseq_resmlp.checkpoints.checkpoint_file import read_checkpoint, replacing, write_checkpoint
from fairseq_resmlp.checkpoints.safe_loading import safe_to_load, weights_only_load
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.regular_files import check_regular_file

# Our names, and those of the published formats. "#" is the number of a layer.
_NAMES = {
    "deit": {
        "encoder.embed_patches.weight": "patch_embed.proj.weight",
        "encoder.embed_patches.bias": "patch_embed.proj.bias",
        "encoder.layers.#.mixing_pre.alpha": "blocks.#.norm1.alpha",
        "encoder.layers.#.mixing_pre.beta": "blocks.#.norm1.beta",
        "encoder.layers.#.mixing.A": "blocks.#.attn.weight",
        "encoder.layers.#.mixing.b": "blocks.#.attn.bias",
        "encoder.layers.#.mixing_post.alpha": "blocks.#.gamma_1",
        "encoder.layers.#.ffn_pre.alpha": "blocks.#.norm2.alpha",
        "encoder.layers.#.ffn_pre.beta": "blocks.#.norm2.beta",
        "encoder.layers.#.ffn.B.weight": "blocks.#.mlp.fc1.weight",
        "encoder.layers.#.ffn.B.bias": "blocks.#.mlp.fc1.bias",
        "encoder.layers.#.ffn.C.weight": "blocks.#.mlp.fc2.weight",
        "encoder.layers.#.ffn.C.bias": "blocks.#.mlp.fc2.bias",
        "encoder.layers.#.ffn_post.alpha": "blocks.#.gamma_2",
        "encoder.final.alpha": "norm.alpha",
        "encoder.final.beta": "norm.beta",
        "classifier.weight": "head.weight",
        "classifier.bias": "head.bias",
    }
}
_TIMM = {"patch_embed.": "stem.", ".attn.": ".linear_tokens.", ".mlp.": ".mlp_channels.", ".gamma_": ".ls"}


def _timm_name(name: str) -> str:
    for deit, timm in _TIMM.items():
        name = name.replace(deit, timm)
    return name


_NAMES["timm"] = {ours: _timm_name(name) for ours, name in _NAMES["deit"].items()}
FORMATS = tuple(_NAMES)
_POST = ("mixing_post", "ffn_post")


def convert(path: str, out: str, to: str | None = None) -> str:
    """Convert published weights to a fairseq checkpoint, or back.

    Args:
        path: published weights, .safetensors or written by torch.save; or a checkpoint of `image_resmlp` if `to` is set
        out: the checkpoint, or the weights, which are safetensors if the name ends in .safetensors
        to: "deit" or "timm", whose names the weights get; None converts to a checkpoint

    Returns:
        a description of the model

    Raises:
        InputError: a file is damaged or unsafe, or has other parameters than the paper's layer
    """
    if to is None:
        model = from_published(_read_weights(path))
        options = model_options(model)
        write_checkpoint(_checkpoint(model, options), out)
    else:
        model = read_checkpoint(path)["model"]
        _write_weights(to_published(model, to), out)
        options = model_options(model)
    return (
        f"{options['layers']} layers, d {options['embed_dim']}, {options['image_size']} x {options['image_size']} "
        f"pixels in patches of {options['patch_size']}, {len(model['classifier.bias']):,} classes"
    )


def from_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters of an `ImageResMLPModel`, given those of the published code or of timm.

    Raises:
        InputError: a parameter is missing, unknown or has an impossible shape
    """
    names = _NAMES["timm" if any(name.startswith("stem.") for name in weights) else "deit"]
    layers = _count(weights, r"blocks\.(\d+)\.")
    model = {}
    for ours, theirs in _numbered(names, layers):
        if theirs not in weights:
            raise InputError(f"the weights are not those of a ResMLP for images: they have no {theirs}")
        weight = weights[theirs]
        model[ours] = weight.flatten() if ours.endswith(("alpha", "beta")) else weight  # timm's have shape 1 x 1 x d
    unknown = sorted(set(weights) - {theirs for _, theirs in _numbered(names, layers)})
    if unknown:
        raise InputError(f"the weights have {len(unknown)} parameters that ResMLP does not have, such as {unknown[0]}")
    for layer in range(layers):
        for post in _POST:
            name = f"encoder.layers.{layer}.{post}"
            model[f"{name}.beta"] = torch.zeros_like(model[f"{name}.alpha"])
    return model


def to_published(model: Mapping[str, Tensor], to: str) -> dict[str, Tensor]:
    """Return the parameters of an `ImageResMLPModel` under published names, without the beta after sublayers.

    That beta is a constant that the residual connection carries to every later Aff: Aff(x + s) = Aff(x) + alpha s. It
    is added to their beta instead.

    Args:
        to: "deit" or "timm"

    Raises:
        InputError: the model is a variant that the published code does not have
    """
    layers = _count(model, r"encoder\.layers\.(\d+)\.")
    own = {ours for ours, _ in _numbered(_NAMES[to], layers)}
    own |= {f"encoder.layers.{layer}.{post}.beta" for layer in range(layers) for post in _POST}
    if set(model) != own:
        different = sorted(set(model) ^ own)[0]
        raise InputError(
            f"only models with --token-mixing linear and --pooling average have published counterparts: {different} "
            f"is {'not in them' if different in model else 'missing'}"
        )
    moved = {name: weight.double() for name, weight in model.items()}
    shift = torch.zeros_like(moved["encoder.final.beta"])  # the sum of all earlier beta
    for layer in range(layers):
        for sublayer in ("mixing", "ffn"):
            name = f"encoder.layers.{layer}.{sublayer}"
            moved[f"{name}_pre.beta"] = moved[f"{name}_pre.beta"] + moved[f"{name}_pre.alpha"] * shift
            shift = shift + moved[f"{name}_post.beta"]
    moved["encoder.final.beta"] = moved["encoder.final.beta"] + moved["encoder.final.alpha"] * shift
    published = {}
    for ours, theirs in _numbered(_NAMES[to], layers):
        weight = moved[ours].to(model[ours].dtype)
        is_row = to == "timm" and ".norm" in f".{theirs}"
        published[theirs] = (weight.view(1, 1, -1) if is_row else weight).contiguous()
    return published


def model_options(model: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the options of `ImageResMLPConfig` that the shapes of the parameters show.

    Raises:
        InputError: the shapes contradict each other
    """
    d, channels, patch, width = model["encoder.embed_patches.weight"].shape
    layers = _count(model, r"encoder\.layers\.(\d+)\.")
    if not layers:
        raise InputError("the weights are not those of a ResMLP for images: they have no layer")
    N = len(model["encoder.layers.0.mixing.A"])
    side = math.isqrt(N)
    if side * side != N or patch != width:
        raise InputError(f"the weights are for {N} patches of {patch} x {width} pixels, which form no square")
    return {
        "image_size": side * patch,
        "image_channels": channels,
        "patch_size": patch,
        "embed_dim": d,
        "ffn_embed_dim": len(model["encoder.layers.0.ffn.B.bias"]),
        "layers": layers,
    }


def _count(names: Mapping[str, Any], pattern: str) -> int:
    """Return the number of layers: the largest number that the pattern finds, plus one."""
    found = [re.match(pattern, name) for name in names]
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _numbered(names: Mapping[str, str], layers: int) -> list[tuple[str, str]]:
    """Return the pairs of names for all layers."""
    pairs = []
    for ours, theirs in names.items():
        numbers = range(layers) if "#" in ours else range(1)
        pairs += [(ours.replace("#", str(number)), theirs.replace("#", str(number))) for number in numbers]
    return pairs


def _read_weights(path: str) -> dict[str, Tensor]:
    check_regular_file(path)
    if path.endswith(".safetensors"):
        try:
            weights: Any = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is not a safetensors file: {error}") from error
    else:
        with safe_to_load(path, "a file of weights"):
            weights = weights_only_load()(path, map_location="cpu")
    if isinstance(weights, dict) and isinstance(weights.get("model"), dict):
        weights = weights["model"]  # as DeiT's training script saves them
    if not isinstance(weights, dict) or not all(torch.is_tensor(weight) for weight in weights.values()):
        raise InputError(f"{path} is not a file of weights: it contains something other than named tensors")
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise InputError(f"{path}: {name} has weights that are infinite or NaN")
    return weights


def _write_weights(weights: dict[str, Tensor], path: str) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        if path.endswith(".safetensors"):
            file.write(save(weights))
        else:
            torch.save(weights, file)


def _checkpoint(model: dict[str, Tensor], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint that fairseq's commands load, without a state of training.

    The classes are those of the data that it is used with: published weights do not name them.
    """
    words = [".", "--task", "image_classification", "--arch", "resmlp_s12"]
    words += ["--criterion", "label_smoothed_cross_entropy", "--report-accuracy"]
    words += [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    args = parse_args_and_arch(get_training_parser(), words)
    cfg = OmegaConf.to_container(convert_namespace_to_omegaconf(args), resolve=True, enum_to_str=True)
    history = {
        "criterion_name": "LabelSmoothedCrossEntropyCriterion",
        "optimizer_name": "",
        "lr_scheduler_state": {},
        "num_updates": 0,
    }
    return {"args": None, "cfg": cfg, "model": model, "optimizer_history": [history], "extra_state": {}}
