"""The image task: training, validation, resuming, distillation, bad images, and what it refuses."""

import os
import re

import numpy as np
import pytest
import torch

from support.commands import run
from support.images import TINY_IMAGES, quadrant_images, write_folder, write_idx_split

MODEL = [f"--{name.replace('_', '-')}={value}" for name, value in {**TINY_IMAGES, "image_channels": 1}.items()]


def options(data, save_dir, *more):
    return [
        *(
            data,
            "--user-dir",
            "fairseq_resmlp",
            "--task",
            "image_classification",
            "--arch",
            "resmlp_image_tiny",
            *MODEL,
        ),
        *("--criterion", "label_smoothed_cross_entropy", "--report-accuracy", "--optimizer", "adam", "--lr", "0.01"),
        *("--lr-scheduler", "fixed", "--batch-size", "32", "--cpu", "--num-workers", "0", "--seed", "1"),
        *("--log-format", "simple", "--log-interval", "2", "--save-dir", save_dir, *more),
    ]


def validate(data, checkpoint, *more):
    done = run(
        *("fairseq-validate", data, "--user-dir", "fairseq_resmlp", "--task", "image_classification", "--cpu"),
        *("--path", checkpoint, "--batch-size", "50", "--num-workers", "0", "--log-format", "simple", *more),
    )
    return done.stdout + done.stderr


def accuracy(log):
    return float(re.findall(r"accuracy ([\d.]+)", log)[-1])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Directory of IDX files with images of four classes: 300 for training, 60 for testing."""
    directory = tmp_path_factory.mktemp("images")
    write_idx_split(directory, "train", *quadrant_images(300, seed=0))
    write_idx_split(directory, "t10k", *quadrant_images(60, seed=1))
    return directory


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Directory of a training run of 12 updates, with checkpoints after epochs 1 and 2."""
    save_dir = tmp_path_factory.mktemp("trained")
    run("fairseq-train", *options(data, save_dir, "--held-out", "108", "--max-epoch", "2"))
    return save_dir


def parameters(path):
    return torch.load(path, weights_only=False)["model"]


def test_held_out_images_are_not_trained_on(data, trained):
    log = validate(data, trained / "checkpoint_last.pt")
    assert "valid: 108 images of 4 classes" in log
    log = validate(data, trained / "checkpoint_last.pt", "--valid-subset", "train")
    assert "train: 192 images of 4 classes" in log


def test_the_test_set_is_validated_with_the_classes_of_the_checkpoint(data, trained, tmp_path):
    images, labels = quadrant_images(60, seed=1)
    kept = labels < 2
    write_idx_split(tmp_path / "part", "test", images[kept], labels[kept])
    log = validate(tmp_path / "part", trained / "checkpoint_last.pt", "--valid-subset", "test")
    assert f"test: {kept.sum()} images of 4 classes" in log


def test_resumed_training_equals_uninterrupted_training(data, trained, tmp_path):
    more = ("--held-out", "108", "--stochastic-depth", "0.2", "--min-crop", "0.5", "--flip", "--mixup", "0.8")
    for name, updates in (("whole", ["9"]), ("parts", ["4", "9"])):
        for count in updates:
            run("fairseq-train", *options(data, tmp_path / name, *more, "--max-update", count))
    whole, parts = (parameters(tmp_path / name / "checkpoint_last.pt") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(
        not torch.equal(weight, parameters(trained / "checkpoint_last.pt")[name]) for name, weight in whole.items()
    )


def test_the_number_of_workers_does_not_change_the_model(data, tmp_path):
    for workers in (0, 2):
        more = ("--held-out", "108", "--min-crop", "0.5", "--max-update", "3", "--num-workers", str(workers))
        run("fairseq-train", *options(data, tmp_path / str(workers), *more))
    one, two = (parameters(tmp_path / str(workers) / "checkpoint_last.pt") for workers in (0, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_student_learns_from_a_convolutional_teacher(data, tmp_path):
    sizes = ("--arch", "convnet_tiny", "--image-size", "12", "--width", "8", "--stages", "2")
    common = ("--held-out", "108", "--max-update", "4")
    teacher = [word for word in options(data, tmp_path / "teacher", *common, *sizes) if word not in MODEL]
    run("fairseq-train", *teacher)
    criterion = ("--criterion", "label_smoothed_cross_entropy_with_teacher", "--distillation", "hard")
    checkpoint = ("--teacher", tmp_path / "teacher" / "checkpoint_last.pt")
    done = run("fairseq-train", *options(data, tmp_path / "student", *common, *criterion, *checkpoint))
    assert re.search(r"teacher_loss[ =][\d.]+", done.stdout + done.stderr)


def test_training_does_not_continue_with_other_classes_nor_learn_from_their_teacher(data, trained, tmp_path):
    images, labels = quadrant_images(64, seed=0)
    write_folder(tmp_path / "data" / "train", images, labels)
    write_folder(tmp_path / "data" / "val", images[:8], labels[:8])
    message = r"was trained with 4 classes that differ from the 4 in use \(0\)"
    resumed = ("--restore-file", trained / "checkpoint_last.pt", "--max-epoch", "3")
    distilled = (
        "--criterion",
        "label_smoothed_cross_entropy_with_teacher",
        "--teacher",
        trained / "checkpoint_last.pt",
    )
    for more in (resumed, distilled):
        done = run("fairseq-train", *options(tmp_path / "data", tmp_path / "run", *more), check=False)
        assert done.returncode == 1 and re.search(message, done.stderr.strip().splitlines()[-1])


# Bad images.


@pytest.fixture
def folder(tmp_path):
    """Directory of image folders; two of the training images cannot be read."""
    write_folder(tmp_path / "data" / "train", *quadrant_images(64, seed=0))
    write_folder(tmp_path / "data" / "val", *quadrant_images(16, seed=1))
    for name in ("bad1.png", "bad2.png"):
        (tmp_path / "data" / "train" / "class0" / name).write_bytes(b"no image")
    return tmp_path / "data"


def test_an_image_that_cannot_be_read_stops_training_by_name(folder, tmp_path):
    done = run("fairseq-train", *options(folder, tmp_path / "run", "--max-epoch", "1"), check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(r"cannot read .*/train/class0/bad[12]\.png: .*: repair or remove .*--skip-bad-images", last)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_cannot_be_read_are_skipped_and_counted(folder, tmp_path, workers):
    more = ("--max-epoch", "2", "--skip-bad-images", "--num-workers", str(workers), "--batch-size", "3")
    done = run("fairseq-train", *options(folder, tmp_path / "run", *more))
    log = done.stdout + done.stderr
    assert "skipped 2 unreadable images, the latest: " in log and "skipped 3" not in log
    for name in ("bad1.png", "bad2.png"):
        assert len(re.findall(rf"skipped .*{name}", log)) == 1


def test_skipping_leaves_the_other_images_of_a_batch_unchanged(folder, tmp_path):
    from fairseq_resmlp.vision.augmentation import Augmentation
    from fairseq_resmlp.vision.dataset import IGNORED, ImageDataset
    from fairseq_resmlp.vision.image_files import ImageFolder, find_classes

    files = ImageFolder(str(folder / "train"), find_classes(str(folder)))
    bad = [index for index, name in enumerate(files.names) if name.startswith(b"bad")]
    dataset = ImageDataset(files, np.arange(len(files.labels)), (1, 12, 12), Augmentation())
    with_bad, without = (dataset.collater([dataset[i] for i in indices]) for indices in ([0, *bad, 1], [0, 1]))
    assert len(with_bad["bad_images"]) == 2 and not without["bad_images"]
    assert torch.equal(with_bad["net_input"]["images"], without["net_input"]["images"])
    assert with_bad["ntokens"] == 2
    only_bad = dataset.collater([dataset[index] for index in bad])
    assert only_bad["target"].tolist() == [[IGNORED]] and only_bad["ntokens"] == 0


# What is refused.


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "split valid not found in .*: put the images into valid/CLASS, or hold out training images"),
        (("--held-out", "300"), "--held-out 300 leaves none of 300 training images"),
        (("--held-out", "9", "--min-crop", "0"), "--min-crop 0.0 is less than 0.01"),
        (("--held-out", "9", "--random-erasing", "1.5"), "--random-erasing 1.5 is greater than 1"),
        (("--held-out", "9", "--image-channels", "2"), r"--image-channels 2 is not 1 \(grayscale\) or 3 \(RGB\)"),
        (
            ("--criterion", "fused_label_smoothed_cross_entropy"),
            "fused_label_smoothed_cross_entropy does not fit images",
        ),
    ],
)
def test_options_that_cannot_work_are_refused_in_one_line(data, tmp_path, more, message):
    done = run("fairseq-train", *options(data, tmp_path / "run", "--max-update", "1", *more), check=False)
    assert done.returncode == 1 and re.search(message, done.stderr.strip().splitlines()[-1])
    assert "Traceback" not in done.stderr


def test_a_translation_model_is_refused(data, tmp_path):
    words = [word for word in options(data, tmp_path / "run", "--arch", "resmlp_tiny") if word not in MODEL]
    done = run("fairseq-train", *words, check=False)
    assert "--arch resmlp_tiny does not classify images: use one such as resmlp_s12" in done.stderr


def test_a_missing_pillow_is_reported_with_the_remedy(data, tmp_path):
    (tmp_path / "site" / "PIL").mkdir(parents=True)
    (tmp_path / "site" / "PIL" / "__init__.py").write_text("raise ImportError('no Pillow')")
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])}
    done = run("fairseq-train", *options(data, tmp_path / "run", "--max-update", "1"), check=False, env=env)
    assert done.returncode == 1
    expected = "--task image_classification requires Pillow: pip install 'fairseq-resmlp[vision]'"
    assert done.stderr.strip().splitlines()[-1].endswith(expected)


@pytest.mark.slow
def test_token_mixing_tells_what_single_patches_do_not(tmp_path):
    """The class is whether the two bright squares of an image are in the same row: no patch tells it alone."""
    rng = np.random.RandomState(0)
    for split, count in (("train", 4000), ("valid", 500)):
        images, labels = rng.randint(0, 80, (count, 12, 12)).astype(np.uint8), np.empty(count, np.uint8)
        for n, image in enumerate(images):
            first, second = rng.choice(9, 2, replace=False)
            for place in (first, second):
                image[4 * (place // 3) + 1 : 4 * (place // 3) + 3, 4 * (place % 3) + 1 : 4 * (place % 3) + 3] = 255
            labels[n] = first // 3 == second // 3
        write_idx_split(tmp_path, split, images, labels)
    found = {}
    for mixing in ("linear", "none"):
        more = ("--token-mixing", mixing, "--max-epoch", "12", "--no-epoch-checkpoints")
        run("fairseq-train", *options(tmp_path, tmp_path / mixing, *more))
        found[mixing] = accuracy(validate(tmp_path, tmp_path / mixing / "checkpoint_last.pt"))
    assert found["linear"] > found["none"] + 5
