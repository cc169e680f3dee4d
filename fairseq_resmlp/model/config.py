"""Options of the model, its named architectures, and the validation of both."""

from dataclasses import dataclass, field, fields

from fairseq.criterions import CRITERION_REGISTRY
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks.denoising import DenoisingTask
from fairseq.tasks.online_backtranslation import OnlineBackTranslationTask
from fairseq.tasks.simultaneous_translation import SimulTextToTextTask
from fairseq.tasks.translation import TranslationTask
from fairseq.tasks.translation_lev import TranslationLevenshteinTask
from fairseq.tasks.translation_multi_simple_epoch import TranslationMultiSimpleEpochTask

from fairseq_resmlp.common.activation import ACTIVATION
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.model import mixing_variants  # noqa: F401  registers the choices of --token-mixing
from fairseq_resmlp.modules.token_mixing import TOKEN_MIXING
from fairseq_resmlp.resmlp import NORMALIZATION


@dataclass
class ResMLPConfig(FairseqDataclass):
    """Options of the model. The defaults are those of `resmlp_base`.

    The dataclass is flat because fairseq's --arch cannot build nested ones.
    """

    encoder_embed_dim: int = field(default=512, metadata={"help": "channels d of the encoder"})
    encoder_ffn_embed_dim: int = field(
        default=2048, metadata={"help": "hidden size of the encoder's feed-forward layers (rows of B)"}
    )
    encoder_layers: int = field(default=6, metadata={"help": "number of encoder layers"})
    encoder_max_positions: int = field(
        default=256,
        metadata={
            "help": "N of the encoder: the size of its mixing matrices A and the maximum source length in tokens"
        },
    )
    decoder_embed_dim: int = field(default=512, metadata={"help": "channels d of the decoder"})
    decoder_ffn_embed_dim: int = field(
        default=2048, metadata={"help": "hidden size of the decoder's feed-forward layers (rows of B)"}
    )
    decoder_layers: int = field(default=6, metadata={"help": "number of decoder layers"})
    decoder_max_positions: int = field(
        default=256,
        metadata={
            "help": "N of the decoder: the size of its lower-triangular A and the maximum target length in tokens"
        },
    )
    decoder_attention_heads: int = field(
        default=8, metadata={"help": "heads of the cross-attention; must divide the decoder's channels"}
    )
    token_mixing: ChoiceEnum(list(TOKEN_MIXING)) = field(
        default="linear",
        metadata={
            "help": "how tokens of a sentence exchange information: linear is the paper's A; toeplitz has one weight "
            "per offset; toeplitz_linear learns A as the sum of both; mlp has two layers and a GELU; conv is a "
            "depthwise convolution; none is A = 0"
        },
    )
    mixing_heads: int = field(
        default=1,
        metadata={"help": "number of matrices A per layer, each for an equal share of the channels"},
    )
    mixing_kernel: int = field(
        default=7, metadata={"help": "kernel size of the conv token mixing in tokens; must be odd"}
    )
    no_mixing_bias: bool = field(
        default=False, metadata={"help": "omit b, the bias of linear or toeplitz_linear token mixing"}
    )
    mixing_init_std: float = field(
        default=0.0,
        metadata={"help": "standard deviation of the initial A of linear token mixing; 0 starts A at zero"},
    )
    normalization: ChoiceEnum(list(NORMALIZATION)) = field(
        default="affine",
        metadata={
            "help": "normalization before each sublayer and after each stack: affine is the paper's Aff, "
            "layer is LayerNorm"
        },
    )
    positional_embeddings: ChoiceEnum(["none", "learned", "sinusoidal"]) = field(
        default="none", metadata={"help": "positional embeddings, added to the token embeddings; the paper has none"}
    )
    activation_fn: ChoiceEnum(list(ACTIVATION)) = field(
        default="gelu",
        metadata={
            "help": "activation between the two layers of a feed-forward layer; geglu is GELU(B x) * (B' x), with a "
            "second matrix B' of the same size"
        },
    )
    dropout: float = field(
        default=0.1, metadata={"help": "dropout on the embeddings and at the end of each residual branch"}
    )
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout on the cross-attention weights"})
    activation_dropout: float = field(
        default=0.0, metadata={"help": "dropout after the activation of the feed-forward layers"}
    )
    share_decoder_input_output_embed: bool = field(
        default=False, metadata={"help": "tie the output layer to the target embeddings"}
    )
    share_all_embeddings: bool = field(
        default=False,
        metadata={"help": "tie source embeddings, target embeddings and output layer; requires a joined dictionary"},
    )
    compile: bool = field(
        default=False,
        metadata={
            "help": "compile training with torch.compile, which requires a C++ compiler on a CPU and Triton on a GPU; "
            "validation and translation are not compiled"
        },
    )


_SMALL: dict[str, object] = {
    "encoder_embed_dim": 256,
    "encoder_ffn_embed_dim": 1024,
    "encoder_layers": 3,
    "decoder_embed_dim": 256,
    "decoder_ffn_embed_dim": 1024,
    "decoder_layers": 3,
    "decoder_attention_heads": 4,
}

# Differences of each named architecture from ResMLPConfig. The paper gives d 512, hidden size 2048, 6 or 12 layers,
# dropout 0.15 (En-De) and 0.1 (En-Fr). docs/model.md explains the other values, and docs/ablations.md why resmlp_small
# uses another token mixing.
ARCHITECTURES: dict[str, dict[str, object]] = {
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


# The token mixings that an option applies to
_APPLIES_TO = {
    "mixing_heads": ("linear", "toeplitz", "toeplitz_linear"),
    "mixing_kernel": ("conv",),
    "no_mixing_bias": ("linear", "toeplitz_linear"),
    "mixing_init_std": ("linear",),
}


_TEXT_TO_TEXT = (TranslationTask, TranslationMultiSimpleEpochTask, DenoisingTask)
_OF_OTHER_MODELS = (TranslationLevenshteinTask, OnlineBackTranslationTask, SimulTextToTextTask)
# Criterions of fairseq that compare the output of a translation model with the reference
_CRITERIONS = (CrossEntropyCriterion, LabelSmoothedCrossEntropyCriterion)
_OF_OTHER_OUTPUTS = (  # subclasses that need more than that
    "label_smoothed_cross_entropy_with_ctc",
    "latency_augmented_label_smoothed_cross_entropy",
)


def validate(cfg: ResMLPConfig, task) -> None:
    """Check that the options can work together and with the task.

    Raises:
        InputError: an option is out of range, has no effect, or contradicts another one or the dictionaries
    """
    is_other = not isinstance(task, _TEXT_TO_TEXT) or isinstance(task, _OF_OTHER_MODELS)
    if type(task).__module__.startswith("fairseq.tasks.") and is_other:
        raise InputError(
            f"resmlp does not support {type(task).__name__}: it needs text to text; use --task translation"
        )
    check_ranges(cfg, ResMLPConfig)
    _check_token_mixing(cfg)
    if cfg.decoder_embed_dim % cfg.decoder_attention_heads:
        raise InputError(
            f"--decoder-embed-dim {cfg.decoder_embed_dim} is not a multiple of "
            f"--decoder-attention-heads {cfg.decoder_attention_heads}"
        )
    if cfg.share_all_embeddings and task.source_dictionary != task.target_dictionary:
        raise InputError(
            "--share-all-embeddings requires one dictionary for both languages: run fairseq-preprocess with "
            "--joined-dictionary"
        )
    if cfg.share_all_embeddings and cfg.encoder_embed_dim != cfg.decoder_embed_dim:
        raise InputError(
            f"--share-all-embeddings requires --encoder-embed-dim {cfg.encoder_embed_dim} to equal "
            f"--decoder-embed-dim {cfg.decoder_embed_dim}"
        )
    if getattr(task.cfg, "left_pad_target", False):
        raise InputError(
            "--left-pad-target is not supported, because row t of A belongs to target position t: omit the option"
        )


def check_criterion(name: str) -> None:
    """Check that a criterion of fairseq is for translation models.

    Raises:
        InputError: it needs another output than theirs
    """
    criterion = CRITERION_REGISTRY.get(name, CrossEntropyCriterion)
    fits = issubclass(criterion, _CRITERIONS) and name not in _OF_OTHER_OUTPUTS
    if not fits and criterion.__module__.startswith("fairseq.criterions."):
        raise InputError(
            f"--criterion {name} does not fit resmlp: use fused_label_smoothed_cross_entropy or another cross-entropy"
        )


def check_ranges(cfg: FairseqDataclass, kind: type[FairseqDataclass]) -> None:
    """Check the numbers among the options of a model: sizes, probabilities named *dropout, and so on.

    Args:
        cfg: options
        kind: the dataclass that declares them

    Raises:
        InputError: one is out of range
    """
    for option in fields(kind):
        if option.type in (int, float):
            # Sizes are at least 1, except that a stack may have no layers.
            value, least = getattr(cfg, option.name), int(option.type is int and not option.name.endswith("layers"))
            most = 1 if option.name.endswith("dropout") else float("inf")
            if not isinstance(value, (int, float)):
                raise InputError(f"--{option.name.replace('_', '-')} {value!r} is not a number")
            if not least <= value <= most:  # also false for NaN
                if value > most:
                    problem = f"greater than {most}"
                elif value < least:
                    problem = f"less than {least}"
                else:
                    problem = "not a number"
                raise InputError(f"--{option.name.replace('_', '-')} {value} is {problem}")


def _check_token_mixing(cfg: ResMLPConfig) -> None:
    for name, kinds in _APPLIES_TO.items():
        value, default, option = getattr(cfg, name), getattr(ResMLPConfig, name), f"--{name.replace('_', '-')}"
        if value != default and cfg.token_mixing not in kinds:
            given, remedy = f"{option} {value}", f"pass {option} {default}"
            if default is False:
                given, remedy = option, "omit it"
            raise InputError(f"{given} has no effect with --token-mixing {cfg.token_mixing}: {remedy}")
    for side in ("encoder", "decoder"):
        d = getattr(cfg, f"{side}_embed_dim")
        if d % cfg.mixing_heads:
            raise InputError(f"--{side}-embed-dim {d} is not a multiple of --mixing-heads {cfg.mixing_heads}")
    if cfg.mixing_kernel % 2 == 0:
        raise InputError(f"--mixing-kernel {cfg.mixing_kernel} is even: use an odd number")
