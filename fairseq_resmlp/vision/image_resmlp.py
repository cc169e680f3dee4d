"""The paper's image model: patches, the encoder layers of the translation model, pooling and a classifier.

Paper: Touvron et al., "ResMLP: Feedforward networks for image classification with data-efficient training",
https://arxiv.org/abs/2105.03404, section 2. Dimensions are those of `resmlp.py`; a token is a patch, so T = N:

    N   patches of an image: (image size / patch size)^2, row by row
    B   images in the batch
    d   channels of the model
    p   height and width of a patch in pixels
"""

import torch
from fairseq.models import register_model
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from fairseq_resmlp.model.architectures import describe_defaults, register_architectures
from fairseq_resmlp.modules.linear import linear
from fairseq_resmlp.resmlp import NORMALIZATION, Aff, FeedForward, ResMLPEncoderLayer
from fairseq_resmlp.vision.classifier import ImageClassifier, initialize_dense_
from fairseq_resmlp.vision.config import (
    IMAGE_ARCHITECTURES,
    INIT_STD,
    ImageResMLPConfig,
    layer_config,
    patches,
    validate,
)


class ImageEncoder(nn.Module):
    """Patch embedding, L encoder layers and a final Aff (or LayerNorm).

    Shape: B x channels x size x size to N x B x d.
    """

    def __init__(self, cfg: ImageResMLPConfig):
        super().__init__()
        self.N, p = patches(cfg), cfg.patch_size
        self.embed_patches = nn.Conv2d(cfg.image_channels, cfg.embed_dim, p, stride=p)
        layers = [
            ResMLPEncoderLayer(layer_config(cfg), cfg.post_alpha, cfg.stochastic_depth) for _ in range(cfg.layers)
        ]
        self.layers = nn.ModuleList(layers)
        self.final = NORMALIZATION[cfg.normalization](cfg.embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed_patches(images)  # B x d x rows x columns
        x = x.flatten(2).permute(2, 0, 1).contiguous()  # N x B x d
        for layer in self.layers:
            x = layer(x)
        return self.final(x)


class ClassMLPLayer(nn.Module):
    """A layer of class-MLP (section 2.2): the class vector reads the patches, which stay as they are.

    Shape: c is 1 x B x d, x is N x B x d; the result is 1 x B x d.
    """

    def __init__(self, cfg: ImageResMLPConfig):
        super().__init__()
        d, norm = cfg.embed_dim, NORMALIZATION[cfg.normalization]
        self.mixing_pre, self.mixing_post = norm(d), Aff(d, cfg.post_alpha)
        self.mixing = nn.Linear(patches(cfg) + 1, 1)
        self.ffn_pre, self.ffn_post = norm(d), Aff(d, cfg.post_alpha)
        self.ffn = FeedForward(d, cfg.ffn_embed_dim, layer_config(cfg))

    def forward(self, c: Tensor, x: Tensor) -> Tensor:
        tokens = self.mixing_pre(torch.cat([c, x])).permute(1, 2, 0)  # B x d x (N + 1)
        c = c + self.mixing_post(linear(tokens, self.mixing.weight, self.mixing.bias).permute(2, 0, 1))  # 1 x B x d
        return c + self.ffn_post(self.ffn(self.ffn_pre(c)))


class ClassMLP(nn.Module):
    """Two layers of class-MLP from a learned class vector. Shape: N x B x d to B x d."""

    def __init__(self, cfg: ImageResMLPConfig):
        super().__init__()
        self.c = nn.Parameter(torch.randn(cfg.embed_dim) * INIT_STD)
        self.layers = nn.ModuleList([ClassMLPLayer(cfg) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        c = self.c.expand(1, x.size(1), -1)  # 1 x B x d
        for layer in self.layers:
            c = layer(c, x)
        return c[0]


class AveragePooling(nn.Module):
    """The mean of the patches. Shape: N x B x d to B x d."""

    def __init__(self, cfg: ImageResMLPConfig):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(0)


POOLING: dict[str, type[nn.Module]] = {"average": AveragePooling, "class_mlp": ClassMLP}  # the choices of --pooling


@register_model("image_resmlp", dataclass=ImageResMLPConfig)
class ImageResMLPModel(ImageClassifier):
    """ResMLP for images, arXiv 2105.03404 section 2.

    Use it with `fairseq-train --user-dir fairseq_resmlp --task image_classification --arch resmlp_s12`.

    Args:
        classes: number of classes
    """

    def __init__(self, cfg: ImageResMLPConfig, classes: int):
        super().__init__(cfg.image_size, cfg.image_channels)
        self.encoder = ImageEncoder(cfg)
        self.pooling = POOLING[cfg.pooling](cfg)
        self.classifier = nn.Linear(cfg.embed_dim, classes)
        initialize_dense_(self, INIT_STD)

    @classmethod
    def add_args(cls, parser) -> None:
        """Add the options to --help, each with its default in every architecture that changes it."""
        super().add_args(parser)
        describe_defaults(parser, ImageResMLPConfig, IMAGE_ARCHITECTURES)

    @classmethod
    def build_model(cls, cfg: ImageResMLPConfig, task: FairseqTask) -> "ImageResMLPModel":
        """Build the model for an image task.

        Raises:
            InputError: options that contradict each other or the task
        """
        validate(cfg)
        cls.adapt_task(cfg, task)
        return cls(cfg, len(task.classes))

    def logits(self, images: Tensor) -> Tensor:
        return self.classifier(self.pooling(self.encoder(images)))


register_architectures("image_resmlp", ImageResMLPConfig, IMAGE_ARCHITECTURES)
