"""The interface between fairseq and models that classify images."""

from typing import Any

from fairseq.models import BaseFairseqModel
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from fairseq_resmlp.common.errors import InputError, explain_other_model

CHANNELS = (1, 3)  # grayscale or RGB


class ImageClassifier(BaseFairseqModel):
    """A model whose output has the shape of a translation of one token: B x 1 x classes.

    So fairseq's cross-entropy criterions and distillation fit. A subclass implements `logits`.

    Args:
        size: height and width of the images in pixels
        channels: 1 or 3
    """

    def __init__(self, size: int, channels: int):
        super().__init__()
        self.shape = (channels, size, size)

    @classmethod
    def adapt_task(cls, cfg, task: FairseqTask) -> None:
        """Make the task load images of the size and channels of the model.

        Raises:
            InputError: the task loads no images, or the options of the model are for none
        """
        if not hasattr(task, "image_shape"):
            raise InputError(f"--arch {cfg._name} classifies images: use --task image_classification")
        if cfg.image_channels not in CHANNELS:
            raise InputError(f"--image-channels {cfg.image_channels} is not 1 (grayscale) or 3 (RGB)")
        task.image_shape = (cfg.image_channels, cfg.image_size, cfg.image_size)

    def logits(self, images: Tensor) -> Tensor:
        """Return one logit per class. Shape: B x channels x size x size to B x classes."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Classify images.

        Args:
            images: B x channels x size x size, normalized (see `fairseq_resmlp.vision.pixels`)

        Returns:
            (B x 1 x classes logits, an empty dict)

        Raises:
            InputError: the images have another shape
        """
        if images.shape[1:] != self.shape:
            found, expected = ("x".join(map(str, shape)) for shape in (images.shape[1:], self.shape))
            raise InputError(f"images are {found}, but the model is for {expected} (channels x height x width)")
        return self.logits(images).unsqueeze(1), {}

    def get_normalized_probs(self, net_output, log_probs: bool, sample=None) -> Tensor:
        """Return the (log-)probabilities over the classes for the output of `forward`."""
        return super().get_normalized_probs(net_output[0], log_probs, sample)

    def load_state_dict(self, state_dict: dict[str, Tensor], *args, **kwargs):
        """Load the parameters of a checkpoint.

        Raises:
            InputError: they belong to another model
        """
        with explain_other_model("classes"):
            return super().load_state_dict(state_dict, *args, **kwargs)


def initialize_dense_(model: nn.Module, std: float) -> None:
    """Initialize every dense layer as the published code does: normal weights, zero biases."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)
