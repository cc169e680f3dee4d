"""Images on disk: directories of image files, one per class, and IDX files, the format of MNIST.

Nothing is read before it is needed, except labels and the names of files.
"""

import gzip
import math
import os
import struct
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from fairseq_resmlp.common.errors import InputError

try:
    from PIL import Image
except ImportError as error:
    raise InputError("--task image_classification requires Pillow: pip install 'fairseq-resmlp[vision]'") from error

# The names of a split on disk, in the order in which they are tried: fairseq's own, and those of ImageNet and MNIST
ALIASES = {"valid": ("valid", "val"), "test": ("test", "t10k")}
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no others of Pillow's, some of which start programs
DEEP = ("I", "F")  # how Pillow's modes with more than 8 bits per channel begin; converting them would clip the values
IDX_IMAGES, IDX_LABELS = 0x00000803, 0x00000801  # unsigned bytes in 3 dimensions and in 1
CHUNK = 1 << 20


class BadImage(Exception):
    """An image that cannot be read. The message names it and the reason."""


class ImageFiles(ABC):
    """The images of a split with their labels.

    Attributes:
        labels (np.ndarray): one class number per image
    """

    labels: np.ndarray

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """Return an image.

        Raises:
            BadImage: it cannot be read
        """


class ImageFolder(ImageFiles):
    """A directory DIR/CLASS/FILE for each class. Hidden files are ignored.

    Args:
        directory: DIR
        classes: names of the classes; their order numbers them

    Raises:
        InputError: a directory belongs to no class
    """

    def __init__(self, directory: str, classes: Sequence[str]):
        self.directory, self.classes = directory, list(classes)
        unknown = sorted(set(class_directories(directory)) - set(classes))
        if unknown:
            raise InputError(
                f"{os.path.join(directory, unknown[0])} is not a class of the model, which has "
                f"{', '.join(self.classes[:5])}{', ...' if len(classes) > 5 else ''}: remove it, or train with it"
            )
        # An array, because processes that load images share its memory.
        names = [_file_names(os.path.join(directory, name)) for name in self.classes]
        self.labels = np.repeat(np.arange(len(self.classes)), [len(files) for files in names])
        self.names = np.array([os.fsencode(name) for files in names for name in files], dtype=bytes)

    def read(self, index: int) -> Image.Image:
        path = os.path.join(self.directory, self.classes[self.labels[index]], os.fsdecode(self.names[index]))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path, formats=FORMATS) as image:
                    image.load()
        except Exception as error:  # Pillow raises unrelated exceptions for damaged files
            raise BadImage(f"{path}: {error}") from error
        if image.mode.startswith(DEEP):
            raise BadImage(f"{path}: more than 8 bits per channel (Pillow mode {image.mode})")
        return image


class IDXFiles(ImageFiles):
    """A pair of IDX files, DIR/SPLIT-images-idx3-ubyte and DIR/SPLIT-labels-idx1-ubyte, each possibly with .gz.

    Uncompressed images are mapped into memory; compressed ones are decompressed into it.

    Raises:
        InputError: a file is not in this format, or damaged; or the numbers of images and labels differ
    """

    def __init__(self, directory: str, split: str):
        images, labels = (_existing(os.path.join(directory, f"{split}-{kind}")) for kind in _IDX_NAMES)
        self.images, self.labels = read_idx(images, IDX_IMAGES), read_idx(labels, IDX_LABELS)
        if len(self.images) != len(self.labels):
            raise InputError(f"{images} has {len(self.images)} images, but {labels} has {len(self.labels)} labels")

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(np.asarray(self.images[index]))


_IDX_NAMES = ("images-idx3-ubyte", "labels-idx1-ubyte")


def _existing(path: str) -> str:
    return path if os.path.exists(path) else f"{path}.gz"


def _file_names(directory: str) -> list[str]:
    if not os.path.isdir(directory):
        return []
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries if entry.is_file() and not entry.name.startswith("."))


def class_directories(directory: str) -> list[str]:
    """Return the names of the directories in a directory, sorted. Hidden ones are ignored."""
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def read_idx(path: str, magic: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes.

    Args:
        path: ends in .gz if it is compressed
        magic: the first four bytes, which give type and number of dimensions

    Raises:
        InputError: the file has another format, or another size than it states
    """
    if not os.path.isfile(path):
        raise InputError(f"{path} not found: put it there")
    dimensions, is_compressed = magic & 0xFF, path.endswith(".gz")
    try:
        with gzip.open(path) if is_compressed else open(path, "rb") as file:
            header = file.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions or struct.unpack_from(">i", header)[0] != magic:
                raise InputError(f"{path} is not an IDX file of unsigned bytes in {dimensions} dimensions")
            shape = struct.unpack_from(f">{dimensions}I", header, 4)
            size = math.prod(shape)
            content = bytearray()
            while is_compressed and len(content) <= size and (chunk := file.read(CHUNK)):  # as much as there is
                content += chunk
    except (OSError, EOFError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    found = len(content) if is_compressed else os.path.getsize(path) - len(header)
    if found != size:
        raise InputError(
            f"{path} is damaged: it states {size:,} bytes of data, but has {'fewer' if found < size else 'more'}"
        )
    if is_compressed or size == 0:
        return np.frombuffer(content, np.uint8).reshape(shape)
    return np.memmap(path, np.uint8, "r", len(header), shape)


def has_idx(directory: str, split: str) -> bool:
    """Return whether a directory contains the images of a split as an IDX file."""
    return os.path.exists(_existing(os.path.join(directory, f"{split}-{_IDX_NAMES[0]}")))


def find_split(directory: str, split: str) -> str | None:
    """Return the name that a split has on disk, such as t10k for test, or None if it is missing."""
    names = ALIASES.get(split, (split,))
    return next((n for n in names if os.path.isdir(os.path.join(directory, n)) or has_idx(directory, n)), None)


def open_split(directory: str, name: str, classes: Sequence[str]) -> ImageFiles:
    """Open a split that `find_split` has found.

    Raises:
        InputError: see `IDXFiles` and `ImageFolder`; or a label belongs to no class, or there is no image
    """
    idx = has_idx(directory, name)
    files: ImageFiles = IDXFiles(directory, name) if idx else ImageFolder(os.path.join(directory, name), classes)
    if not len(files.labels):
        raise InputError(f"{os.path.join(directory, name)} has no images: put them into {name}/CLASS/FILE")
    if idx and files.labels.max() >= len(classes):
        raise InputError(
            f"{directory}: label {files.labels.max()} of {name} is not a class of the model, which has {len(classes)}"
        )
    return files


def find_classes(directory: str) -> list[str]:
    """Return the names of the classes: those of directories, or the numbers up to the largest label of IDX files.

    Those of the training images count, or if there are none, those of another split.

    Raises:
        InputError: there are no images
    """
    for split in ("train", "valid", "test"):
        name = find_split(directory, split)
        if name is not None and has_idx(directory, name):
            labels = read_idx(_existing(os.path.join(directory, f"{name}-{_IDX_NAMES[1]}")), IDX_LABELS)
            return [str(number) for number in range(int(labels.max(initial=0)) + 1)]
        if name is not None:
            return class_directories(os.path.join(directory, name))
    raise InputError(
        f"no images found in {directory}: put them into {os.path.join(directory, 'train', 'CLASS', 'FILE')}, or use "
        f"IDX files such as {os.path.join(directory, f'train-{_IDX_NAMES[0]}.gz')}"
    )
