"""Images of a split as batches for fairseq."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from fairseq.data import FairseqDataset
from PIL import Image
from torch import Tensor

from fairseq_resmlp.vision import pixels
from fairseq_resmlp.vision.augmentation import Augmentation
from fairseq_resmlp.vision.image_files import BadImage, ImageFiles

IGNORED = -100  # target that criterions ignore


class Sample(NamedTuple):
    """An image of the split, or the reason why it cannot be read."""

    number: int  # within the split
    image: Image.Image | None
    error: str


class ImageDataset(FairseqDataset):
    """Reads images when they are needed, in the processes of --num-workers.

    An image that cannot be read is left out of its batch, and named in the entry `bad_images` of the batch. What is
    random depends only on seed, epoch, image and position in the batch, so that resumed training repeats it.

    Args:
        files: the images
        indices: the images of `files` to use
        shape: channels, height and width of the model's images
        augmentation: None in validation
        center_crop: side of the crop in validation, relative to the shorter side of the image
        repeats: number of times that an epoch uses each of its images, of which it has so many fewer
        seed: of shuffling and augmentation
    """

    def __init__(
        self,
        files: ImageFiles,
        indices: np.ndarray,
        shape: tuple[int, int, int],
        augmentation: Augmentation | None = None,
        center_crop: float = 1.0,
        repeats: int = 1,
        seed: int = 1,
    ):
        self.files, self.indices = files, indices
        self.channels, self.size_in_pixels = shape[0], shape[1]
        self.augmentation, self.center_crop, self.repeats = augmentation, center_crop, repeats
        self.seed, self.epoch = seed, 1
        self.mean, self.std = pixels.statistics(self.channels)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        try:
            return Sample(int(index), self.files.read(self.indices[index]), "")
        except BadImage as error:
            return Sample(int(index), None, str(error))

    def collater(self, samples: list[Sample]) -> dict[str, Any]:
        """Return a batch.

        Returns:
            `net_input.images` (B x channels x size x size), `target` (B x 1), `ntokens` and `nsentences` (both the
            number of targets) and `bad_images` (messages). A batch without a readable image is one blank image without
            a target.
        """
        images, targets, bad = [], [], []
        for position, sample in enumerate(samples):
            if sample.image is None:
                bad.append(sample.error)
            else:
                images.append(self._tensor(sample.image, sample.number, position))
                targets.append(self.files.labels[self.indices[sample.number]])
        batch = torch.stack(images or [self.mean.expand(-1, self.size_in_pixels, self.size_in_pixels)])
        batch, target = (batch - self.mean) / self.std, torch.tensor(targets or [IGNORED], dtype=torch.long)
        if self.augmentation is not None and self.augmentation.is_random and targets:
            with seeded(self.seed, self.epoch, samples[0].number, len(samples)):
                batch, target = self.augmentation.change_batch(batch, target)
        return {
            "id": torch.tensor([sample.number for sample in samples]),
            "net_input": {"images": batch},
            "target": target.unsqueeze(1),
            "ntokens": len(targets),
            "nsentences": len(targets),
            "bad_images": bad,
        }

    def _tensor(self, image: Image.Image, number: int, position: int) -> Tensor:
        """Return an image as the model sees it, but not normalized. Shape: channels x size x size."""
        image = pixels.convert(image, self.channels)
        if self.augmentation is None:
            return pixels.to_tensor(pixels.center_crop(image, self.size_in_pixels, self.center_crop))
        if not self.augmentation.is_random:
            return pixels.to_tensor(self.augmentation.crop(image, self.size_in_pixels))
        with seeded(self.seed, self.epoch, number, position):
            return self.augmentation.change(pixels.to_tensor(self.augmentation.crop(image, self.size_in_pixels)))

    def ordered_indices(self) -> np.ndarray:
        """Return the images of an epoch in the order of their batches.

        Training images are shuffled with NumPy's generator, which fairseq seeds for each epoch.
        """
        if self.augmentation is None:
            return np.arange(len(self))
        shuffled = np.random.permutation(len(self))
        if self.repeats > 1:
            shuffled = np.repeat(shuffled[: -(-len(self) // self.repeats)], self.repeats)[: len(self)]
        return shuffled

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """False for training images, which are shuffled for each epoch."""
        return self.augmentation is None

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which the randomness depends on."""
        self.epoch = epoch

    def num_tokens(self, index: int) -> int:
        """Return 1: --max-tokens counts images."""
        return 1

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """Return 1 for each index."""
        return np.ones(len(indices), dtype=np.int64)

    def size(self, index: int) -> int:
        """Return 1, as for `num_tokens`."""
        return 1


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Give torch's generator on the CPU a seed of its own inside the context, made from several numbers."""
    state = torch.random.get_rng_state()
    torch.random.default_generator.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0]))
    try:
        yield
    finally:
        torch.random.set_rng_state(state)
