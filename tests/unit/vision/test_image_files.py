"""Images on disk: both formats, the names of splits and classes, and damaged files."""

import gzip
import os
import struct

import numpy as np
import pytest
from PIL import Image

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.vision import pixels
from fairseq_resmlp.vision.image_files import (
    IDX_IMAGES,
    BadImage,
    ImageFolder,
    find_classes,
    find_split,
    open_split,
    read_idx,
)
from support.images import quadrant_images, write_folder, write_idx, write_idx_split


def test_a_folder_and_idx_files_contain_the_same_images(tmp_path):
    images, labels = quadrant_images(9, seed=0)
    write_idx_split(tmp_path / "idx", "train", images, labels)
    write_folder(tmp_path / "folder" / "train", images, labels)
    idx = open_split(str(tmp_path / "idx"), "train", "0123")
    folder = open_split(str(tmp_path / "folder"), "train", find_classes(str(tmp_path / "folder")))
    order = np.argsort(labels, kind="stable")  # folders are grouped by class
    assert idx.labels[order].tolist() == folder.labels.tolist()
    for i, j in enumerate(order):
        assert np.array_equal(np.array(folder.read(i)), images[j])
        assert np.array_equal(np.array(idx.read(j)), images[j])


def test_compressed_idx_files_are_read_and_plain_ones_are_mapped(tmp_path):
    images, _ = quadrant_images(3, seed=1)
    write_idx(tmp_path / "plain", images)
    (tmp_path / "compressed.gz").write_bytes(gzip.compress((tmp_path / "plain").read_bytes()))
    plain, compressed = (read_idx(str(tmp_path / name), IDX_IMAGES) for name in ("plain", "compressed.gz"))
    assert isinstance(plain, np.memmap)
    assert np.array_equal(plain, images) and np.array_equal(compressed, images)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an IDX file"),
        (struct.pack(">I", 0x00000801) + bytes(20), "is not an IDX file of unsigned bytes in 3 dimensions"),
        (struct.pack(">4I", IDX_IMAGES, 2, 3, 3) + bytes(17), "states 18 bytes of data, but has fewer"),
        (struct.pack(">4I", IDX_IMAGES, 2, 3, 3) + bytes(19), "states 18 bytes of data, but has more"),
        (struct.pack(">4I", IDX_IMAGES, 2**32 - 1, 2**32 - 1, 3), "but has fewer"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_damaged_idx_files_are_refused(tmp_path, content, message, suffix):
    path = tmp_path / f"images{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(InputError, match=message):
        read_idx(str(path), IDX_IMAGES)


def test_a_truncated_compressed_file_is_refused(tmp_path):
    write_idx(tmp_path / "plain", quadrant_images(3, seed=1)[0])
    (tmp_path / "cut.gz").write_bytes(gzip.compress((tmp_path / "plain").read_bytes())[:-20])
    with pytest.raises(InputError, match="is damaged"):
        read_idx(str(tmp_path / "cut.gz"), IDX_IMAGES)


def test_images_and_labels_must_match(tmp_path):
    images, labels = quadrant_images(3, seed=1)
    write_idx_split(tmp_path, "train", images, labels[:2])
    with pytest.raises(InputError, match="has 3 images, but .* has 2 labels"):
        open_split(str(tmp_path), "train", "0123")
    write_idx_split(tmp_path, "train", images, np.array([0, 1, 9], dtype=np.uint8))
    with pytest.raises(InputError, match="label 9 of train is not a class of the model, which has 4"):
        open_split(str(tmp_path), "train", "0123")


def test_splits_have_the_names_of_imagenet_and_mnist_too(tmp_path):
    write_folder(tmp_path / "val", *quadrant_images(2, seed=0))
    write_idx_split(tmp_path, "t10k", *quadrant_images(2, seed=0))
    assert [find_split(str(tmp_path), split) for split in ("train", "valid", "test")] == [None, "val", "t10k"]


def test_a_class_that_the_model_does_not_know_is_refused(tmp_path):
    write_folder(tmp_path / "train", *quadrant_images(20, seed=0))
    with pytest.raises(InputError, match="train/class3 is not a class of the model, which has class0, class1, class2"):
        ImageFolder(str(tmp_path / "train"), ["class0", "class1", "class2"])
    assert (ImageFolder(str(tmp_path / "train"), [*find_classes(str(tmp_path)), "absent"]).labels < 4).all()


def test_a_directory_without_images_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no images found in .*: put them into .*/train/CLASS/FILE"):
        find_classes(str(tmp_path))
    (tmp_path / "train" / "class0").mkdir(parents=True)
    with pytest.raises(InputError, match="has no images"):
        open_split(str(tmp_path), "train", ["class0"])


def bad_files(directory):
    """Write one bad image of each kind. Returns their names."""
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(directory / "good.png")
    good = (directory / "good.png").read_bytes()
    (directory / "empty.png").write_bytes(b"")
    (directory / "text.jpg").write_text("not an image")
    (directory / "truncated.png").write_bytes(good[:60])
    (directory / "postscript.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n")
    Image.new("RGB", (4, 4)).save(directory / "other.png", "SGI")  # a format that is not on the list
    Image.new("1", (20_000, 20_000)).save(directory / "huge.png")
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(directory / "deep.png")  # would be clipped
    os.mkfifo(directory / "pipe.png")  # not a file: ignored
    return ["deep.png", "empty.png", "huge.png", "other.png", "postscript.jpg", "text.jpg", "truncated.png"]


def test_bad_images_are_named(tmp_path):
    directory = tmp_path / "train" / "class0"
    directory.mkdir(parents=True)
    names = bad_files(directory)
    folder = ImageFolder(str(tmp_path / "train"), ["class0"])
    assert sorted(os.fsdecode(name) for name in folder.names) == sorted([*names, "good.png"])
    for index, name in enumerate(folder.names):
        if name == b"good.png":
            assert folder.read(index).size == (40, 40)
            continue
        with pytest.raises(BadImage, match=f"class0/{os.fsdecode(name)}: "):
            folder.read(index)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA"])
def test_images_of_every_mode_become_rgb_and_grayscale(mode):
    image = Image.new("RGB", (6, 4), (255, 0, 0)).convert(mode)
    assert pixels.to_tensor(pixels.convert(image, 3)).shape == (3, 4, 6)
    assert pixels.to_tensor(pixels.convert(image, 1)).shape == (1, 4, 6)
