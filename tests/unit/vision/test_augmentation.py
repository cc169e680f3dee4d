"""Augmentation of training images: what each option changes, and labels of mixed images."""

import numpy as np
import pytest
import torch
from PIL import Image

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.vision import augmentation, pixels
from fairseq_resmlp.vision.augmentation import Augmentation
from fairseq_resmlp.vision.dataset import ImageDataset, seeded

RAMP = np.linspace(0, 255, 40 * 20 * 3).reshape(40, 20, 3).astype(np.uint8)  # 20 pixels wide, 40 high


def test_a_center_crop_is_the_middle_of_the_image():
    crop = np.array(pixels.center_crop(Image.fromarray(RAMP), 20, 1.0))
    assert np.array_equal(crop, RAMP[10:30])
    smaller = np.array(pixels.center_crop(Image.fromarray(RAMP), 10, 0.5))
    assert np.array_equal(smaller, RAMP[15:25, 5:15])


def test_random_crops_are_as_large_as_requested():
    image = Image.fromarray(np.indices((64, 64)).astype(np.uint8).transpose(1, 2, 0)[..., [0, 1, 1]] * 4)
    areas = []
    for seed in range(100):
        with seeded(seed):
            crop = np.array(Augmentation(min_crop=0.25).crop(image, 64)).astype(float) / 4
        height, width = (crop[-1, 0, 0] - crop[0, 0, 0]) / 64, (crop[0, -1, 1] - crop[0, 0, 1]) / 64
        areas.append(height * width)
        assert 3 / 4 - 0.1 < width / height < 4 / 3 + 0.1
    assert 0.2 < min(areas) < 0.35 and max(areas) > 0.85


def test_half_of_the_images_are_mirrored():
    image = torch.arange(12.0).view(1, 3, 4) / 12
    results = []
    for seed in range(200):
        with seeded(seed):
            result = Augmentation(flip=True).change(image)
        assert torch.equal(result, image) or torch.equal(result, image.flip(-1))
        results.append(torch.equal(result, image))
    assert 70 < sum(results) < 130


@pytest.mark.parametrize("channels", [1, 3])
def test_rand_augment_changes_images_and_keeps_their_range(channels):
    pytest.importorskip("kornia", reason="kornia not found: pip install 'fairseq-resmlp[vision]'")
    image = pixels.to_tensor(Image.fromarray(RAMP[:20] if channels == 3 else RAMP[:20, :, 0]))
    differences = []
    for seed in range(15):
        with seeded(seed):
            result = Augmentation(rand_augment=27).change(image)
        assert result.shape == image.shape and float(result.min()) >= 0 and float(result.max()) <= 1
        differences.append(float((result - image).abs().max()))
    assert sum(difference > 0.05 for difference in differences) >= 12


def test_random_erasing_removes_one_rectangle():
    pytest.importorskip("kornia", reason="kornia not found: pip install 'fairseq-resmlp[vision]'")
    images, target = torch.ones(20, 1, 16, 16), torch.arange(20)
    with seeded(1):
        erased, same = Augmentation(random_erasing=0.5).change_batch(images, target)
    assert torch.equal(same, target)
    holes = [(image[0] == 0).nonzero() for image in erased if (image == 0).any()]
    assert 4 <= len(holes) <= 16
    for hole in holes:  # as many pixels as its bounding box
        assert len(hole) == (hole.max(0).values - hole.min(0).values + 1).prod()


@pytest.mark.parametrize("option", ["mixup", "cutmix"])
def test_a_mixed_image_keeps_the_label_of_either_with_the_probability_of_its_share(option):
    if option == "cutmix":
        pytest.importorskip("kornia", reason="kornia not found: pip install 'fairseq-resmlp[vision]'")
    count = 500
    target = torch.arange(count) % 2  # images of class 0 are black, those of class 1 white
    images = target.view(-1, 1, 1, 1).float().expand(-1, 1, 8, 8).contiguous()
    shares, labels = [], []
    for seed in range(20):
        with seeded(seed):
            mixed, mixed_target = Augmentation(**{option: 0.8}).change_batch(images, target)
        assert set(mixed_target.tolist()) == {0, 1} and mixed_target.dtype == torch.long
        shares.append(mixed.mean((1, 2, 3)))  # of class 1
        labels.append(mixed_target.float())
    share, label = torch.cat(shares), torch.cat(labels)
    assert ((share > 0.02) & (share < 0.98)).float().mean() > 0.25
    for low, high in ((0.0, 0.2), (0.2, 0.8), (0.8, 1.0)):
        inside = (share > low) & (share < high)
        assert float(label[inside].mean()) == pytest.approx(float(share[inside].mean()), abs=0.06)


def test_mixup_and_cutmix_take_turns():
    pytest.importorskip("kornia", reason="kornia not found: pip install 'fairseq-resmlp[vision]'")
    images, target = torch.rand(8, 1, 8, 8).round(), torch.arange(8)
    is_mixup = []
    for seed in range(30):
        with seeded(seed):
            mixed, _ = Augmentation(mixup=0.8, cutmix=1.0).change_batch(images, target)
        is_mixup.append(not ((mixed == 0) | (mixed == 1)).all())  # CutMix invents no values
    assert 5 < sum(is_mixup) < 25


@pytest.mark.parametrize("option", ["rand_augment", "random_erasing", "cutmix"])
def test_a_missing_kornia_is_reported_with_the_remedy(monkeypatch, option):
    monkeypatch.setattr(augmentation, "missing_modules", list)
    with pytest.raises(InputError, match=r"require kornia: pip install 'fairseq-resmlp\[vision\]'"):
        Augmentation(**{option: 1})
    Augmentation(min_crop=0.5, flip=True, mixup=0.8)  # need none


class Ramps:
    """Three images as files."""

    labels = np.arange(3)

    def read(self, index):
        return Image.fromarray(np.roll(RAMP, index, 0))


def make_batch(epoch=1, seed=1, repeats=1, indices=(0, 1, 1)):
    dataset = ImageDataset(Ramps(), np.arange(3), (3, 16, 16), Augmentation(min_crop=0.3), repeats=repeats, seed=seed)
    dataset.set_epoch(epoch)
    torch.rand(1)  # whatever else has used the generator
    return dataset.collater([dataset[index] for index in indices])["net_input"]["images"]


def test_randomness_depends_on_seed_epoch_and_place_only():
    first = make_batch()
    assert torch.equal(make_batch(), first)
    assert not torch.equal(make_batch(epoch=2)[0], first[0])
    assert not torch.equal(make_batch(seed=2)[0], first[0])
    assert not torch.equal(first[1], first[2])  # a repeated image is changed in another way
    state = torch.random.get_rng_state()
    dataset = ImageDataset(Ramps(), np.arange(3), (3, 16, 16), Augmentation(min_crop=0.3))
    dataset.collater([dataset[0]])
    assert torch.equal(torch.random.get_rng_state(), state)  # the model's dropout is not disturbed


def test_repeated_augmentation_uses_fewer_images_more_often():
    dataset = ImageDataset(Ramps(), np.arange(3), (3, 16, 16), Augmentation(), repeats=3)
    indices = dataset.ordered_indices()
    assert len(indices) == 3 and len(set(indices)) == 1
    assert sorted(ImageDataset(Ramps(), np.arange(3), (3, 16, 16), Augmentation()).ordered_indices()) == [0, 1, 2]
