"""Options of the image model, its named architectures, and the validation of both."""

from dataclasses import dataclass, field

from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.model.config import ResMLPConfig, check_ranges
from fairseq_resmlp.resmlp import NORMALIZATION

INIT_STD = 0.02  # of A and of the dense layers in the published code, https://github.com/facebookresearch/deit


@dataclass
class ImageResMLPConfig(FairseqDataclass):
    """Options of the image model. The defaults are those of `resmlp_s12`."""

    image_size: int = field(default=224, metadata={"help": "height and width of the images in pixels"})
    image_channels: int = field(default=3, metadata={"help": "channels of the images: 3 (RGB) or 1 (grayscale)"})
    patch_size: int = field(default=16, metadata={"help": "height and width of a patch in pixels"})
    embed_dim: int = field(default=384, metadata={"help": "channels d"})
    ffn_embed_dim: int = field(default=1536, metadata={"help": "hidden size of the feed-forward layers (rows of B)"})
    layers: int = field(default=12, metadata={"help": "number of layers"})
    token_mixing: ChoiceEnum(["linear", "mlp", "none"]) = field(
        default="linear",
        metadata={"help": "how patches exchange information: the paper's A; two layers and a GELU; or A = 0"},
    )
    normalization: ChoiceEnum(list(NORMALIZATION)) = field(
        default="affine",
        metadata={"help": "before each sublayer and after the last one: the paper's Aff (affine) or LayerNorm (layer)"},
    )
    pooling: ChoiceEnum(["average", "class_mlp"]) = field(
        default="average",
        metadata={"help": "how the patches become one vector: their mean, or two layers of class-MLP (section 2.2)"},
    )
    post_alpha: float = field(
        default=0.1, metadata={"help": "initial alpha after each sublayer; deeper models need a smaller one"}
    )
    stochastic_depth: float = field(
        default=0.0, metadata={"help": "probability in training that a sublayer skips an image"}
    )
    dropout: float = field(default=0.0, metadata={"help": "dropout at the end of each residual branch"})


_B24: dict[str, object] = {"embed_dim": 768, "ffn_embed_dim": 3072, "layers": 24, "post_alpha": 1e-6}

# Differences of each named architecture from ImageResMLPConfig. Sizes are those of section 3 of the paper, the initial
# values of alpha those of the published code.
IMAGE_ARCHITECTURES: dict[str, dict[str, object]] = {
    "resmlp_s12": {},
    "resmlp_s24": {"layers": 24, "post_alpha": 1e-5},
    "resmlp_s36": {"layers": 36, "post_alpha": 1e-6},
    "resmlp_b24": _B24,
    "resmlp_b24_8": {**_B24, "patch_size": 8},
    "resmlp_image_tiny": {  # of Fashion-MNIST
        "image_size": 28,
        "image_channels": 1,
        "patch_size": 4,
        "embed_dim": 64,
        "ffn_embed_dim": 256,
        "layers": 4,
    },
}


def patches(cfg: ImageResMLPConfig) -> int:
    """Return N, the number of patches."""
    return (cfg.image_size // cfg.patch_size) ** 2


def layer_config(cfg: ImageResMLPConfig) -> ResMLPConfig:
    """Return the options of the layers, which are those of the encoder of a translation model."""
    return ResMLPConfig(
        encoder_embed_dim=cfg.embed_dim,
        encoder_ffn_embed_dim=cfg.ffn_embed_dim,
        encoder_max_positions=patches(cfg),
        token_mixing=cfg.token_mixing,
        normalization=cfg.normalization,
        mixing_init_std=INIT_STD,
        dropout=cfg.dropout,
    )


def validate(cfg: ImageResMLPConfig) -> None:
    """Check that the options can work together.

    Raises:
        InputError: an option is out of range or contradicts another one
    """
    check_ranges(cfg, ImageResMLPConfig)
    if cfg.stochastic_depth >= 1:
        raise InputError(f"--stochastic-depth {cfg.stochastic_depth} is not less than 1")
    if cfg.image_size % cfg.patch_size:
        raise InputError(f"--image-size {cfg.image_size} is not a multiple of --patch-size {cfg.patch_size}")
