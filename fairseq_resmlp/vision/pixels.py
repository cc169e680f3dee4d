"""From images to normalized tensors: cropping, scaling, and the mean and deviation of ImageNet."""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for RGB; grayscale uses their means
MODES = {1: "L", 3: "RGB"}  # Pillow's, by number of channels
CROP_ATTEMPTS = 10


def statistics(channels: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation for values from 0 to 1. Shape of each: channels x 1 x 1."""
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in (MEAN, STD))
    if channels == 1:
        mean, std = mean.mean(0, keepdims=True), std.mean(0, keepdims=True)
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


def center_crop(image: Image.Image, size: int, ratio: float) -> Image.Image:
    """Scale the square in the center of an image.

    Args:
        size: height and width of the result in pixels
        ratio: side of the square relative to the shorter side of the image
    """
    side = min(image.size) * ratio
    return _scaled(image, size, side, side, (image.width - side) / 2, (image.height - side) / 2)


def random_crop(image: Image.Image, size: int, smallest: float) -> Image.Image:
    """Scale a random rectangle of an image to a square (https://arxiv.org/abs/1409.4842, section 6).

    Args:
        size: height and width of the result in pixels
        smallest: smallest area of the rectangle relative to the image
    """
    for _ in range(CROP_ATTEMPTS):
        area = image.width * image.height * float(torch.empty(()).uniform_(smallest, 1))
        ratio = math.exp(float(torch.empty(()).uniform_(math.log(3 / 4), math.log(4 / 3))))
        width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if width <= image.width and height <= image.height:
            left, top = (torch.rand(2) * torch.tensor([image.width - width, image.height - height])).tolist()
            return _scaled(image, size, width, height, left, top)
    return center_crop(image, size, 1.0)


def _scaled(image: Image.Image, size: int, width: float, height: float, left: float, top: float) -> Image.Image:
    box = (left, top, min(left + width, image.width), min(top + height, image.height))
    return image.resize((size, size), Image.Resampling.BICUBIC, box)


def convert(image: Image.Image, channels: int) -> Image.Image:
    """Convert an image to grayscale (1 channel) or RGB (3)."""
    return image.convert(MODES[channels])


def to_tensor(image: Image.Image) -> Tensor:
    """Return the values of an image from 0 to 1. Shape: channels x height x width."""
    values = torch.from_numpy(np.array(image))  # height x width [x channels]
    return values.reshape(*values.shape[:2], -1).permute(2, 0, 1).float() / 255
