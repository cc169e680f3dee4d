"""Augmentation of training images: the recipe of DeiT (https://arxiv.org/abs/2012.12877), which the paper uses.

RandAugment, random erasing and CutMix come from kornia, which works without torchvision. It is imported when one of
them is requested.
"""

from dataclasses import dataclass
from functools import cache

import torch
from PIL import Image
from torch import Tensor, nn

from fairseq_resmlp.common.environment import missing_modules
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.vision import pixels

OPERATIONS = 2  # of RandAugment per image, as in DeiT


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images. All randomness comes from torch's generator.

    Args:
        min_crop: smallest area of a random crop relative to the image; 1 for no random crops
        flip: mirror half of the images
        rand_augment: magnitude of RandAugment, 1 to 29; 0 for none
        random_erasing: probability that a rectangle is erased
        mixup, cutmix: parameter alpha of the Beta distribution of mixing ratios; 0 for none. With both, each batch uses
            one of them, at random.
    """

    min_crop: float = 1.0
    flip: bool = False
    rand_augment: int = 0
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        """
        Raises:
            InputError: kornia is needed and not installed
        """
        if (self.rand_augment or self.random_erasing or self.cutmix) and missing_modules(["kornia"]):
            raise InputError(
                "--rand-augment, --random-erasing and --cutmix require kornia: pip install 'fairseq-resmlp[vision]'"
            )

    @property
    def is_random(self) -> bool:
        """Whether anything is changed at all."""
        return self != Augmentation()

    def crop(self, image: Image.Image, size: int) -> Image.Image:
        """Scale an image, or a random part of it, to size x size pixels."""
        if self.min_crop == 1:
            return pixels.center_crop(image, size, 1.0)
        return pixels.random_crop(image, size, self.min_crop)

    def change(self, image: Tensor) -> Tensor:
        """Mirror an image and apply RandAugment. Shape: channels x height x width, with values from 0 to 1."""
        if self.flip and torch.rand(()) < 0.5:
            image = image.flip(-1)
        if self.rand_augment:  # one image at a time, because kornia applies the same operations to a whole batch
            image = _rand_augment(self.rand_augment, len(image))(image.unsqueeze(0))[0].clamp(0, 1)
        return image

    def change_batch(self, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Erase rectangles and mix images.

        A mixed image keeps one label: that of either image, with the probability of its share. The expected loss is
        then that of both labels weighted by their shares, so every criterion can be used.

        Args:
            images: B x channels x height x width, normalized, so that 0 is the mean color
            target (LongTensor): B
        """
        if self.random_erasing:
            from kornia.augmentation import RandomErasing

            images = RandomErasing(value=0.0, p=self.random_erasing)(images)
        if not (self.mixup or self.cutmix):
            return images, target
        if self.mixup and (not self.cutmix or torch.rand(()) < 0.5):
            other = torch.randperm(len(images))
            share = torch.distributions.Beta(self.mixup, self.mixup).sample().expand(len(images))  # of the others
            images, other_target = torch.lerp(images, images[other], share.view(-1, 1, 1, 1)), target[other]
        else:
            from kornia.augmentation import RandomCutMixV2

            keys, beta = ["input", "class"], torch.tensor(self.cutmix)
            cutmix = RandomCutMixV2(beta=beta, p=1.0, data_keys=keys, use_correct_lambda=True)
            images, labels = cutmix(images, target)
            _, other_target, kept = labels[0].unbind(1)  # B each
            share = 1 - kept
        return images, torch.where(torch.rand(len(images)) < share, other_target.long(), target)


@cache
def _rand_augment(magnitude: int, channels: int) -> nn.Module:
    from kornia.augmentation.auto import RandAugment
    from kornia.augmentation.auto.rand_augment.rand_augment import default_policy

    # An operation on colors fails without them.
    policy = [operations for operations in default_policy if channels == 3 or operations[0][0] != "color"]
    return RandAugment(OPERATIONS, magnitude, policy)
