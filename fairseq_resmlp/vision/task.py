"""The image task: `--task image_classification`, for directories of images and for IDX files."""

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fairseq.dataclass import FairseqDataclass
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.fairseq_patches.divergence import DivergenceDetector
from fairseq_resmlp.vision.classifier import ImageClassifier

logger = logging.getLogger(__name__)

NAME = "image_classification"
CRITERIONS = ("cross_entropy", "label_smoothed_cross_entropy", "label_smoothed_cross_entropy_with_teacher")
HELD_OUT_SEED = 0  # the images held out for validation are the same for every --seed


@dataclass
class ImageClassificationConfig(FairseqDataclass):
    """Options of the task. Without options, training images are not changed."""

    data: str = field(
        default="",
        metadata={"help": "directory of train/CLASS/FILE and valid/CLASS/FILE, or of IDX files (MNIST's format)"},
    )
    held_out: int = field(
        default=0, metadata={"help": "number of training images to use as split valid, if the data has none"}
    )
    center_crop: float = field(
        default=1.0,
        metadata={"help": "side of the crop in validation, relative to the shorter side of the image"},
    )
    skip_bad_images: bool = field(
        default=False, metadata={"help": "skip and count images that cannot be read, instead of stopping"}
    )
    min_crop: float = field(
        default=1.0, metadata={"help": "smallest area of random crops of training images, relative to the image"}
    )
    flip: bool = field(default=False, metadata={"help": "mirror half of the training images"})
    rand_augment: int = field(
        default=0, metadata={"help": "magnitude of RandAugment, 1 to 29; 27 is DeiT's 9 of 10; 0 for none"}
    )
    random_erasing: float = field(
        default=0.0, metadata={"help": "probability that a rectangle of a training image is erased"}
    )
    mixup: float = field(default=0.0, metadata={"help": "alpha of mixup; 0 for none"})
    cutmix: float = field(default=0.0, metadata={"help": "alpha of CutMix; 0 for none"})
    repeated_augmentation: int = field(
        default=1,
        metadata={"help": "use each image of an epoch this many times, and so many fewer images per epoch"},
    )
    seed: int = II("common.seed")


@register_task(NAME, dataclass=ImageClassificationConfig)
class ImageClassificationTask(FairseqTask):
    """Classification of images, as if each were the source of a translation of one token.

    Checkpoints store the names of the classes.

    Attributes:
        image_shape: channels, height and width of the model's images; set when the model is built
    """

    def __init__(self, cfg: ImageClassificationConfig):
        """
        Raises:
            InputError: an option is out of range
        """
        super().__init__(cfg)
        _validate(cfg)
        self.image_shape = (0, 0, 0)
        self.bad_images: set[str] = set()
        self.state.add_factory("classes", self._find_classes)

    @classmethod
    def setup_task(cls, cfg: ImageClassificationConfig, **kwargs) -> "ImageClassificationTask":
        """Return the task. Nothing needs to be loaded for it."""
        return cls(cfg)

    @property
    def classes(self) -> list[str]:
        """The names of the classes: those of the checkpoint, or those of the data."""
        return self.state.classes

    def check_state(self, stored: dict[str, Any]) -> None:
        """Check the state of a checkpoint that a model is loaded from, or a teacher.

        Raises:
            InputError: it was trained with other classes
        """
        own, found = self.state.state_dict.get("classes"), stored.get("classes")
        if found is not None and not (isinstance(found, list) and all(isinstance(name, str) for name in found)):
            raise InputError("the checkpoint is damaged: its classes are not names")
        if own is not None and found is not None and own != found:
            different = sorted(set(own) ^ set(found))[:1] or ["their order"]
            raise InputError(
                f"the checkpoint was trained with {len(found)} classes that differ from the {len(own)} in use "
                f"({different[0]}): use the data of that training"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of a checkpoint. Errors as for `check_state`."""
        self.check_state(state_dict)
        super().load_state_dict(state_dict)

    source_dictionary = target_dictionary = None  # classes are no words: criterions then ignore the target -100

    def _find_classes(self) -> list[str]:
        from fairseq_resmlp.vision import image_files  # requires Pillow

        return image_files.find_classes(self.cfg.data)

    def load_dataset(self, split: str, combine: bool = False, **kwargs) -> None:
        """Load a split: train, valid, test or the name of another directory.

        Raises:
            InputError: the split is missing, damaged, or has classes that the model does not know
        """
        from fairseq_resmlp.vision import image_files  # requires Pillow
        from fairseq_resmlp.vision.augmentation import Augmentation
        from fairseq_resmlp.vision.dataset import ImageDataset

        name, augmentation = image_files.find_split(self.cfg.data, split), None
        is_held_out = split == "valid" and name is None and self.cfg.held_out > 0
        if is_held_out:
            name = image_files.find_split(self.cfg.data, "train")
        if name is None:
            remedy = ", or hold out training images with --held-out" if split == "valid" else ""
            raise InputError(f"split {split} not found in {self.cfg.data}: put the images into {split}/CLASS{remedy}")
        files = image_files.open_split(self.cfg.data, name, self.classes)
        indices = np.arange(len(files.labels))
        if is_held_out or (split == "train" and self._holds_out()):
            if self.cfg.held_out >= len(indices):
                raise InputError(f"--held-out {self.cfg.held_out} leaves none of {len(indices)} training images")
            shuffled = np.random.RandomState(HELD_OUT_SEED).permutation(len(indices))
            held_out, rest = np.split(shuffled, [self.cfg.held_out])
            indices = np.sort(held_out if is_held_out else rest)
        if split == "train":
            cfg = self.cfg
            augmentation = Augmentation(
                cfg.min_crop, cfg.flip, cfg.rand_augment, cfg.random_erasing, cfg.mixup, cfg.cutmix
            )
        self.datasets[split] = ImageDataset(
            files,
            indices,
            self.image_shape,
            augmentation,
            self.cfg.center_crop,
            self.cfg.repeated_augmentation,
            self.cfg.seed,
        )
        logger.info(f"{split}: {len(indices):,} images of {len(self.classes):,} classes")

    def _holds_out(self) -> bool:
        from fairseq_resmlp.vision import image_files

        return self.cfg.held_out > 0 and image_files.find_split(self.cfg.data, "valid") is None

    def get_batch_iterator(self, dataset, *args, num_workers=0, data_buffer_size=0, **kwargs):
        """Return fairseq's iterator.

        With --num-workers 0, batches are not prepared in a thread: their randomness would disturb that of the model.
        """
        buffer = data_buffer_size if num_workers else 0
        return super().get_batch_iterator(dataset, *args, num_workers=num_workers, data_buffer_size=buffer, **kwargs)

    def build_model(self, cfg, from_checkpoint=False):
        """Build a model.

        Raises:
            InputError: it does not classify images
        """
        name = getattr(cfg, "_name", None) or getattr(cfg, "arch", None)
        if not issubclass(ARCH_MODEL_REGISTRY.get(name, ImageClassifier), ImageClassifier):
            raise InputError(f"--arch {name} does not classify images: use one such as resmlp_s12")
        model = super().build_model(cfg, from_checkpoint)
        self.divergence_detector = DivergenceDetector(len(self.classes))
        return model

    def build_criterion(self, cfg, from_checkpoint=False):
        """Build a criterion.

        Raises:
            InputError: it is not for classification
        """
        name = getattr(cfg, "_name", None) or getattr(cfg, "criterion", None)
        if name not in CRITERIONS:
            raise InputError(f"--criterion {name} does not fit images: use {' or '.join(CRITERIONS)}")
        return super().build_criterion(cfg, from_checkpoint)

    def train_step(self, sample, *args, **kwargs):
        """Compute loss and gradient of a batch.

        Raises:
            InputError: it has an image that cannot be read
        """
        self._check_images(sample)
        return super().train_step(sample, *args, **kwargs)

    def valid_step(self, sample, *args, **kwargs):
        """Compute the loss of a batch. Errors as for `train_step`."""
        self._check_images(sample)
        return super().valid_step(sample, *args, **kwargs)

    def _check_images(self, sample) -> None:
        for message in sample["bad_images"]:
            if not self.cfg.skip_bad_images:
                raise InputError(f"cannot read {message}: repair or remove the image, or use --skip-bad-images")
            if message not in self.bad_images:
                self.bad_images.add(message)
                logger.warning(f"skipped {len(self.bad_images):,} unreadable images, the latest: {message}")

    def max_positions(self) -> None:
        """Return None: images have no length."""
        return


def _validate(cfg: ImageClassificationConfig) -> None:
    for name, least, most in (
        ("held_out", 0, None),
        ("center_crop", 0.01, 1),
        ("min_crop", 0.01, 1),
        ("rand_augment", 0, 29),
        ("random_erasing", 0, 1),
        ("mixup", 0, None),
        ("cutmix", 0, None),
        ("repeated_augmentation", 1, None),
    ):
        value, option = getattr(cfg, name), f"--{name.replace('_', '-')}"
        if not value >= least:  # also true for NaN
            raise InputError(f"{option} {value} is less than {least}")
        if most is not None and value > most:
            raise InputError(f"{option} {value} is greater than {most}")
