"""A small convolutional network, the teacher of the distillation experiment (section 3.4 of the paper)."""

from dataclasses import dataclass, field

from fairseq.dataclass import FairseqDataclass
from fairseq.models import register_model
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from fairseq_resmlp.model.architectures import register_architectures
from fairseq_resmlp.model.config import check_ranges
from fairseq_resmlp.vision.classifier import ImageClassifier


@dataclass
class ImageConvNetConfig(FairseqDataclass):
    """Options of the convolutional network."""

    image_size: int = field(default=28, metadata={"help": "height and width of the images in pixels"})
    image_channels: int = field(default=1, metadata={"help": "channels of the images: 3 (RGB) or 1 (grayscale)"})
    width: int = field(default=32, metadata={"help": "channels of the first stage; each later stage doubles them"})
    stages: int = field(default=3, metadata={"help": "number of stages, each of which halves the resolution"})


@register_model("image_convnet", dataclass=ImageConvNetConfig)
class ImageConvNetModel(ImageClassifier):
    """Stages of a 3 x 3 convolution, batch normalization, ReLU and 2 x 2 max pooling, then the mean and a classifier.

    Args:
        classes: number of classes
    """

    def __init__(self, cfg: ImageConvNetConfig, classes: int):
        super().__init__(cfg.image_size, cfg.image_channels)
        widths = [cfg.image_channels, *(cfg.width * 2**stage for stage in range(cfg.stages))]
        stages = [
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.MaxPool2d(2, ceil_mode=True),
            )
            for inputs, outputs in zip(widths, widths[1:])
        ]
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(widths[-1], classes)

    @classmethod
    def build_model(cls, cfg: ImageConvNetConfig, task: FairseqTask) -> "ImageConvNetModel":
        """Build the model for an image task.

        Raises:
            InputError: an option is out of range, or the task loads no images
        """
        check_ranges(cfg, ImageConvNetConfig)
        cls.adapt_task(cfg, task)
        return cls(cfg, len(task.classes))

    def logits(self, images: Tensor) -> Tensor:
        return self.classifier(self.stages(images).mean((2, 3)))


register_architectures("image_convnet", ImageConvNetConfig, {"convnet_tiny": {}})
