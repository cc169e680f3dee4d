"""The registered model `resmlp`, its options and its named architectures."""

import functools
import hashlib
import logging
import os
from dataclasses import dataclass, field, fields
from typing import Dict, List, Optional, Tuple

import torch
from fairseq import hub_utils
from fairseq.data import Dictionary
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import (
    ARCH_MODEL_REGISTRY,
    FairseqEncoderDecoderModel,
    register_model,
    register_model_architecture,
)
from fairseq.models.transformer import Embedding
from torch import Tensor

from . import checkpoint
from .divergence import LossWatch
from .errors import InputError
from .lines import Translator, cut_long_lines
from .mends import name_long_sentences
from .pruning import mixing_weights, prune
from .resmlp import ACTIVATION, NORMALIZATION, ResMLPDecoder, ResMLPEncoder
from .variants import TOKEN_MIXING

logger = logging.getLogger(__name__)


@dataclass
class ResMLPConfig(FairseqDataclass):
    """Options of the model; the defaults are those of `resmlp_base`.

    One flat dataclass, because fairseq's --arch cannot build nested ones.
    """

    encoder_embed_dim: int = field(default=512, metadata={"help": "channels d of the encoder"})
    encoder_ffn_embed_dim: int = field(
        default=2048, metadata={"help": "hidden size of the encoder's feed-forward layers (rows of B)"}
    )
    encoder_layers: int = field(default=6, metadata={"help": "number of encoder layers"})
    encoder_max_positions: int = field(
        default=256,
        metadata={"help": "N of the encoder: its mixing matrices A are N x N, longer sources do not fit"},
    )
    decoder_embed_dim: int = field(default=512, metadata={"help": "channels d of the decoder"})
    decoder_ffn_embed_dim: int = field(
        default=2048, metadata={"help": "hidden size of the decoder's feed-forward layers (rows of B)"}
    )
    decoder_layers: int = field(default=6, metadata={"help": "number of decoder layers"})
    decoder_max_positions: int = field(
        default=256,
        metadata={"help": "N of the decoder: its lower-triangular A are N x N, longer targets do not fit"},
    )
    decoder_attention_heads: int = field(
        default=8, metadata={"help": "heads of the cross-attention; a divisor of the decoder's channels"}
    )
    token_mixing: ChoiceEnum(list(TOKEN_MIXING)) = field(
        default="linear",
        metadata={
            "help": "how a sentence's tokens see each other: linear is the paper's A; toeplitz has one weight an "
            "offset, toeplitz_linear is A learned as the sum of both; mlp has two layers and a GELU; conv is a "
            "depthwise convolution; none is A = 0"
        },
    )
    mixing_heads: int = field(
        default=1,
        metadata={"help": "matrices A of a layer that has any, each for its share of the channels"},
    )
    mixing_kernel: int = field(default=7, metadata={"help": "width of the conv token mixing, in tokens; an odd number"})
    no_mixing_bias: bool = field(
        default=False, metadata={"help": "leave out b, the bias of a linear or toeplitz_linear token mixing"}
    )
    mixing_init_std: float = field(
        default=0.0,
        metadata={"help": "standard deviation of the initial A of a linear token mixing; at 0 it starts at zero"},
    )
    normalization: ChoiceEnum(list(NORMALIZATION)) = field(
        default="affine",
        metadata={"help": "before each sublayer and after each stack: affine is the paper's Aff, layer is LayerNorm"},
    )
    positional_embeddings: ChoiceEnum(["none", "learned", "sinusoidal"]) = field(
        default="none", metadata={"help": "embeddings of positions, added to those of tokens; the paper has none"}
    )
    activation_fn: ChoiceEnum(list(ACTIVATION)) = field(
        default="gelu", metadata={"help": "between the two layers of a feed-forward"}
    )
    dropout: float = field(
        default=0.1, metadata={"help": "dropout on the embeddings and at the end of each residual branch"}
    )
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout on cross-attention weights"})
    activation_dropout: float = field(
        default=0.0, metadata={"help": "dropout after the activation of the feed-forward layers"}
    )
    share_decoder_input_output_embed: bool = field(
        default=False, metadata={"help": "tie the output layer to the target embeddings"}
    )
    share_all_embeddings: bool = field(
        default=False,
        metadata={"help": "tie source and target embeddings and the output layer; needs a joined dictionary"},
    )


_SMALL: Dict[str, object] = {
    "encoder_embed_dim": 256,
    "encoder_ffn_embed_dim": 1024,
    "encoder_layers": 3,
    "decoder_embed_dim": 256,
    "decoder_ffn_embed_dim": 1024,
    "decoder_layers": 3,
    "decoder_attention_heads": 4,
}

# What each named architecture changes in ResMLPConfig. The paper gives d 512, hidden 2048, 6 or 12
# layers, dropout 0.15 (En-De) and 0.1 (En-Fr); docs/model.md says where the rest comes from, and
# docs/quality.md why the small one has another token mixing.
ARCHITECTURES: Dict[str, Dict[str, object]] = {
    "resmlp_base": {},
    "resmlp_base_12": {"encoder_layers": 12, "decoder_layers": 12},
    "resmlp_wmt_en_de": {"dropout": 0.15},
    "resmlp_wmt_en_de_12": {"dropout": 0.15, "encoder_layers": 12, "decoder_layers": 12},
    "resmlp_wmt_en_fr": {"dropout": 0.1},
    "resmlp_wmt_en_fr_12": {"dropout": 0.1, "encoder_layers": 12, "decoder_layers": 12},
    "resmlp_iwslt_de_en": {
        "encoder_ffn_embed_dim": 1024,
        "decoder_ffn_embed_dim": 1024,
        "decoder_attention_heads": 4,
        "dropout": 0.3,
    },
    "resmlp_small": {**_SMALL, "token_mixing": "toeplitz", "mixing_heads": 16, "normalization": "layer"},
    "resmlp_small_linear": _SMALL,
    "resmlp_tiny": {
        "encoder_embed_dim": 128,
        "encoder_ffn_embed_dim": 512,
        "encoder_layers": 2,
        "decoder_embed_dim": 128,
        "decoder_ffn_embed_dim": 512,
        "decoder_layers": 2,
        "decoder_attention_heads": 4,
        "dropout": 0.0,
    },
}


@register_model("resmlp", dataclass=ResMLPConfig)
class ResMLPModel(FairseqEncoderDecoderModel):
    """Sequence-to-sequence ResMLP, arXiv 2105.03404 section 3.6.

    Use it by `fairseq-train --user-dir fairseq_resmlp --arch resmlp_base`, or a trained one from Python:

        >>> model = ResMLPModel.from_pretrained("model")  # doctest: +SKIP
        >>> model.translate(["Hello"])  # doctest: +SKIP
    """

    @classmethod
    def add_args(cls, parser) -> None:
        """Add the options, each with its default in every architecture that changes it, to --help."""
        super().add_args(parser)
        names = {f.name for f in fields(ResMLPConfig)}
        for action in parser._actions:
            if action.dest in names:
                action.help = f"{action.help} ({_defaults(action.dest)})"

    @classmethod
    def build_model(cls, cfg: ResMLPConfig, task) -> "ResMLPModel":
        """Build the model for a translation task.

        Raises:
            InputError: options that contradict each other or the task's dictionaries
        """
        _check(cfg, task)
        name_long_sentences(task)
        cut_long_lines(task, cfg.encoder_max_positions)
        task.loss_watch = LossWatch(len(task.target_dictionary))
        decoder_embed = Embedding(len(task.target_dictionary), cfg.decoder_embed_dim, task.target_dictionary.pad())
        if cfg.share_all_embeddings:
            cfg.share_decoder_input_output_embed = True
            encoder_embed = decoder_embed
        else:
            source = task.source_dictionary
            encoder_embed = Embedding(len(source), cfg.encoder_embed_dim, source.pad())
        encoder = ResMLPEncoder(cfg, task.source_dictionary, encoder_embed)
        decoder = ResMLPDecoder(cfg, task.target_dictionary, decoder_embed)
        for stack in (encoder, decoder):
            stack.register_buffer("dictionary_version", _version_of(stack.dictionary))
        return cls(encoder, decoder)

    # Like the base class's forward, without **kwargs, which TorchScript does not take.
    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor],
        prev_output_tokens: Tensor,
        features_only: bool = False,
    ):
        """Logits of every target position given the earlier ones (teacher forcing).

        Args:
            src_tokens (LongTensor): B x S, padded on either side
            src_lengths (LongTensor): B
            prev_output_tokens (LongTensor): B x T, the target shifted right, padded on the right
            features_only (bool): stop before the output layer

        Returns:
            (B x T x V logits, dict with the attention), as `ResMLPDecoder.forward`

        Raises:
            InputError: S or T is larger than N
        """
        encoder_out = self.encoder(src_tokens, src_lengths)
        return self.decoder(prev_output_tokens, encoder_out, features_only=features_only)

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> None:
        """Refuse the parameters of another dictionary, and say so where N is another, to which the mixing fits its A.

        Raises:
            InputError: the checkpoint was trained with another dictionary; one from before this was stored passes
        """
        for side, stack, text in (("encoder", self.encoder, "source"), ("decoder", self.decoder, "target")):
            version = stack.dictionary_version
            # Compared as lists: where a training goes on, the model is on its device already.
            if state_dict.setdefault(f"{side}.dictionary_version", version).tolist() != version.tolist():
                raise InputError(
                    f"the {text} dictionary is not the one that this checkpoint was trained with: take dict.*.txt from "
                    "beside the data or the model of that training"
                )
            N = next((x.mixing.length_in(state_dict, f"{side}.layers.0.mixing") for x in stack.layers), None)
            if N is None and f"{side}.positions.P" in state_dict:
                N = len(state_dict[f"{side}.positions.P"])
            if N not in (None, stack.N):
                logger.warning(
                    f"this checkpoint's {side} has N = {N}, fitted to --{side}-max-positions {stack.N}; "
                    "to train it further pass --reset-optimizer, whose state has the old size"
                )
        super().upgrade_state_dict_named(state_dict, name)

    def load_state_dict(self, state_dict: Dict[str, Tensor], *args, **kwargs):
        """Load a checkpoint's parameters; InputError if they are not this model's."""
        try:
            return super().load_state_dict(state_dict, *args, **kwargs)
        except RuntimeError as error:
            difference = (str(error).splitlines()[1:] or [str(error)])[0].strip()
            raise InputError(
                f"the checkpoint is of another model: {difference[:300]} (its own options and dictionaries fit it)"
            ) from error

    # The base class's method calls super(), which TorchScript does not take.
    @torch.jit.export
    def get_normalized_probs(
        self,
        net_output: Tuple[Tensor, Optional[Dict[str, List[Optional[Tensor]]]]],
        log_probs: bool,
        sample: Optional[Dict[str, Tensor]] = None,
    ):
        """(Log-)probabilities over the dictionary of what `forward` returned."""
        return self.get_normalized_probs_scriptable(net_output, log_probs, sample)

    @classmethod
    def from_pretrained(
        cls, model_name_or_path, checkpoint_file="model.pt", data_name_or_path=".", prune_mixing=0.0, **kwargs
    ):
        """Load a model folder for translation in Python.

        The folder follows fairseq's hub conventions: `model.pt`, `dict.SRC.txt`, `dict.TGT.txt` and, for
        raw text, `sentencepiece.bpe.model`.

        Args:
            model_name_or_path (str): the folder
            checkpoint_file (str): file in it; several joined by ":" make an ensemble
            data_name_or_path (str): where the dictionaries are, relative to the folder if it starts with "."
            prune_mixing (float): zero the entries of each A smaller than this share of its largest
            kwargs: overrides of the training options, such as `encoder_max_positions=512`

        Returns:
            Translator: with `.translate(["Hello"], beam=4)`

        Raises:
            InputError: a file is missing, or the checkpoint is not to be trusted (see `fairseq_resmlp.checkpoint`)
                or not of this model
        """
        cfg, task, models = cls.load(model_name_or_path, checkpoint_file, data_name_or_path, **kwargs)
        if prune_mixing:  # before what comes next folds the Affs, which sums up rows of A
            for model in models:
                prune(mixing_weights(model), prune_mixing)
        return Translator(cfg, task, models)

    @classmethod
    def load(cls, folder, checkpoint_file="model.pt", data=".", **kwargs):
        """Load a model folder as it was trained; arguments and errors as `from_pretrained`.

        Returns:
            (options, task, list of models)
        """
        folder = str(folder)
        if os.path.isfile(folder):
            raise InputError(f"{folder} is a file: give its folder, and the file in it by checkpoint_file=")
        for file in checkpoint_file.split(os.pathsep):
            if not os.path.isfile(os.path.join(folder, file)):
                raise InputError(f"no checkpoint {file} in {folder}: name another with checkpoint_file=")
        place = os.path.join(folder, data) if data.startswith(".") else data
        if not os.path.isdir(place):
            raise InputError(f"there is no folder {place}: {_NAME_THE_DATA}")
        if os.path.isfile(os.path.join(folder, "sentencepiece.bpe.model")):
            kwargs.setdefault("bpe", "sentencepiece")
        elif "bpe" not in kwargs:
            logger.warning(
                f"{folder} has no sentencepiece.bpe.model: text is taken to be pieces with spaces between them, and "
                "so is what it is translated to"
            )
        before = checkpoint.also_check.set(functools.partial(_check_options, kwargs))
        try:
            loaded = hub_utils.from_pretrained(folder, checkpoint_file, data, **kwargs)
        except FileNotFoundError as error:
            raise InputError(f"there is no {error.filename}: {_NAME_THE_DATA}") from error
        finally:
            checkpoint.also_check.reset(before)
        return loaded["args"], loaded["task"], loaded["models"]


_NAME_THE_DATA = "name the folder of dict.*.txt, such as data-bin, as data_name_or_path=, or in a command as --data"


def _version_of(dictionary: Dictionary) -> Tensor:
    """The SHA-256 of a dictionary's entries in their order, 32 bytes.

    Another dictionary of the same size fits the shapes of a model and gives wrong words. The name of the buffer has
    "version" in it because fairseq's moving average of weights (--store-ema) leaves such buffers as they are.
    """
    digest = hashlib.sha256("\n".join(dictionary.symbols).encode("utf-8", "surrogatepass")).digest()
    return torch.tensor(list(digest), dtype=torch.uint8)


def _check_options(asked: Dict[str, object], state: Dict[str, object], file: str) -> None:
    """Raise InputError if a checkpoint is not of this model, or chooses pieces that were not asked for.

    fairseq builds whatever model the options in a checkpoint name, and fetches the files of its pieces from wherever
    they say.
    """
    options = {} if state.get("args") is not None else state.get("cfg") or {}  # fairseq prefers args, ours have none
    names = {part: getattr(options.get(part), "_name", options.get(part)) for part in ("model", "bpe", "tokenizer")}
    arch = names.pop("model")
    if not isinstance(arch, str) or ARCH_MODEL_REGISTRY.get(arch) is not ResMLPModel:
        raise InputError(f"{file} is a checkpoint of another model than resmlp")
    for part, name in names.items():
        if name is not None and name != asked.get(part):
            raise InputError(f"{file} wants {part}={name!r}: name it, if you trust that checkpoint")


# The token mixings that know an option.
_OF_TOKEN_MIXING = {
    "mixing_heads": ("linear", "toeplitz", "toeplitz_linear"),
    "mixing_kernel": ("conv",),
    "no_mixing_bias": ("linear", "toeplitz_linear"),
    "mixing_init_std": ("linear",),
}


def _check(cfg: ResMLPConfig, task) -> None:
    """Raise InputError for options that cannot work, naming them."""
    for option in fields(ResMLPConfig):
        if option.type in (int, float):
            # A size is at least 1, but a stack of no layers is a model, too.
            value, least = getattr(cfg, option.name), int(option.type is int and not option.name.endswith("layers"))
            most = 1 if option.name.endswith("dropout") else float("inf")
            if not least <= value <= most:  # nor is NaN
                bound = f"more than {most}" if value > most else f"less than {least}" if value < least else "no number"
                raise InputError(f"--{option.name.replace('_', '-')} {value} is {bound}")
    if cfg.decoder_embed_dim % cfg.decoder_attention_heads:
        raise InputError(
            f"--decoder-embed-dim {cfg.decoder_embed_dim} is not a multiple of "
            f"--decoder-attention-heads {cfg.decoder_attention_heads}"
        )
    for name, kinds in _OF_TOKEN_MIXING.items():
        value, default, option = getattr(cfg, name), getattr(ResMLPConfig, name), f"--{name.replace('_', '-')}"
        if value != default and cfg.token_mixing not in kinds:
            given, remedy = f"{option} {value}", f"pass {option} {default}"
            if default is False:
                given, remedy = option, "leave it out"
            raise InputError(f"{given} does nothing for --token-mixing {cfg.token_mixing}: {remedy}")
    for side in ("encoder", "decoder"):
        d = getattr(cfg, f"{side}_embed_dim")
        if d % cfg.mixing_heads:
            raise InputError(f"--{side}-embed-dim {d} is not a multiple of --mixing-heads {cfg.mixing_heads}")
    if cfg.mixing_kernel % 2 == 0:
        raise InputError(f"--mixing-kernel {cfg.mixing_kernel} has no middle: take an odd number")
    if cfg.share_all_embeddings and task.source_dictionary != task.target_dictionary:
        raise InputError(
            "--share-all-embeddings needs one dictionary for both languages: run fairseq-preprocess with "
            "--joined-dictionary"
        )
    if cfg.share_all_embeddings and cfg.encoder_embed_dim != cfg.decoder_embed_dim:
        raise InputError(
            f"--share-all-embeddings needs --encoder-embed-dim {cfg.encoder_embed_dim} equal to "
            f"--decoder-embed-dim {cfg.decoder_embed_dim}"
        )
    if getattr(task.cfg, "left_pad_target", False):
        raise InputError(
            "--left-pad-target is not supported: row t of A belongs to the t-th target position, so leave it out"
        )


def _defaults(name: str) -> str:
    """'default: 6; 12 in resmlp_base_12, ...' for one option."""
    base = getattr(ResMLPConfig, name)
    others: Dict[object, List[str]] = {}
    for arch, changes in ARCHITECTURES.items():
        if changes.get(name, base) != base:
            others.setdefault(changes[name], []).append(arch)
    return "; ".join([f"default: {base}"] + [f"{value} in {', '.join(archs)}" for value, archs in others.items()])


def _register(arch: str, changes: Dict[str, object]) -> None:
    options = {option.name: getattr(ResMLPConfig, option.name) for option in fields(ResMLPConfig)}
    options.update(changes)

    @register_model_architecture("resmlp", arch)
    def apply(args) -> None:
        for name, value in options.items():
            if getattr(args, name, None) is None:  # what is missing is None to the omegaconf of fairseq 0.12.2
                setattr(args, name, value)


for _arch, _changes in ARCHITECTURES.items():
    _register(_arch, _changes)
