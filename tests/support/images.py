"""Tiny images, image models and image tasks."""

import struct

import numpy as np
import torch
from PIL import Image

from fairseq_resmlp.vision.config import ImageResMLPConfig
from fairseq_resmlp.vision.image_resmlp import ImageResMLPModel

TINY_IMAGES = {
    "image_size": 12,
    "image_channels": 3,
    "patch_size": 4,
    "embed_dim": 16,
    "ffn_embed_dim": 32,
    "layers": 2,
}
CLASSES = 5


def make_image_model(seed=1, **options):
    """Return a tiny model in evaluation mode, with every parameter moved away from its initial value.

    Args:
        options: of `ImageResMLPConfig`, in addition to `TINY_IMAGES`
    """
    torch.manual_seed(seed)
    model = ImageResMLPModel(ImageResMLPConfig(**{**TINY_IMAGES, **options}), CLASSES).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def quadrant_images(count, seed, size=12):
    """Return random gray images and labels: the class is the quadrant with a bright square. uint8, count x size x size.

    The square is at a random place of its quadrant, so no pixel tells the class alone.
    """
    rng = np.random.RandomState(seed)
    images, labels = rng.randint(0, 80, (count, size, size)), rng.randint(0, 4, count)
    half = size // 2
    for image, label in zip(images, labels):
        top, left = half * (label // 2) + rng.randint(half - 2), half * (label % 2) + rng.randint(half - 2)
        image[top : top + 3, left : left + 3] = 255
    return images.astype(np.uint8), labels.astype(np.uint8)


def write_idx(path, array):
    """Write an array of bytes as an IDX file."""
    header = struct.pack(f">{1 + array.ndim}I", 0x00000800 | array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def write_idx_split(directory, split, images, labels):
    """Write the two files of a split."""
    directory.mkdir(exist_ok=True)
    write_idx(directory / f"{split}-images-idx3-ubyte", images)
    write_idx(directory / f"{split}-labels-idx1-ubyte", labels)


def write_folder(directory, images, labels):
    """Write images as DIRECTORY/CLASS/NUMBER.png."""
    for number, (image, label) in enumerate(zip(images, labels)):
        path = directory / f"class{label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
