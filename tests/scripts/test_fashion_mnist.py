"""The scripts for images: the Fashion-MNIST example, its table, and the recipe for ImageNet."""

import json
import re

import numpy as np
import pytest
import torch

from support.commands import run
from support.images import write_idx_split
from support.paths import ROOT, load_script

EXAMPLE = ROOT / "examples" / "fashion-mnist"


def write_run(out, name, accuracy, options):
    run_directory = out / name
    run_directory.mkdir(parents=True)
    (run_directory / "test.log").write_text(f"valid on 'test' subset | loss 2 | accuracy {accuracy} | wps 1\n")
    (run_directory / "train.log").write_text("num. shared model params: 146,066 (num. trained: 146,066)\n")
    (run_directory / "seconds").write_text("100.25 10.5\n")
    (run_directory / "options").write_text(f"{options}\n")


def test_the_table_contains_accuracy_parameters_and_seconds_of_each_run(tmp_path):
    write_run(tmp_path, "linear-1", 84.9, "--arch resmlp_image_tiny --seed 1")
    write_run(tmp_path, "linear-2", 85.1, "--arch resmlp_image_tiny --seed 2")
    write_run(tmp_path, "patch-7-1", 80.5, f"--teacher {tmp_path}/convnet-1/checkpoint_best.pt --seed 1")
    done = run("python", EXAMPLE / "table.py", tmp_path)
    results = json.loads(done.stdout)
    linear, patch = results["rows"]
    assert linear == {
        "name": "linear",
        "options": "--arch resmlp_image_tiny",
        "parameters": 146066,
        "runs": [
            {"seed": 1, "accuracy": 84.9, "cpu_seconds": 111},
            {"seed": 2, "accuracy": 85.1, "cpu_seconds": 111},
        ],
    }
    assert patch["options"] == "--teacher OUT/convnet-1/checkpoint_best.pt" and str(tmp_path) not in done.stdout
    (tmp_path / "results.json").write_text(done.stdout)
    table = load_script(ROOT / "scripts" / "update_tables.py").images([tmp_path / "results.json"]).splitlines()
    assert re.search(r"\| 85\.0 ± 0\.1 \| 2 \| 146,066 \| 111 \|", table[2])
    assert re.search(r"7 x 7 patches .*\| 80\.5 \| 1 \|", table[3])


@pytest.mark.slow
def test_the_example_goes_from_images_to_a_test_accuracy(tmp_path):
    rng = np.random.RandomState(0)
    for split, count in (("train", 5128), ("t10k", 100)):
        images = rng.randint(0, 256, (count, 28, 28)).astype(np.uint8)
        write_idx_split(tmp_path / "data", split, images, (np.arange(count) % 10).astype(np.uint8))
    command = (EXAMPLE / "demo.sh", "--from", tmp_path / "data", tmp_path / "out", "--", "--max-update", "2")
    done = run(*command)
    assert re.search(r"linear-1: test accuracy [\d.]+%\n$", done.stdout)
    assert "linear-1 exists, skipped" in run(*command).stdout


def test_the_example_refuses_other_options(tmp_path):
    done = run(EXAMPLE / "demo.sh", "--form", tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: --form is not an option: use [--from DIR] [OUT] [-- OPTION...]\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, the recipe would start")
def test_the_recipe_for_imagenet_names_what_is_missing(tmp_path):
    done = run(ROOT / "scripts" / "imagenet.sh", tmp_path, check=False)
    assert done.returncode == 1 and f"{tmp_path}/train not found" in done.stderr
    (tmp_path / "train").mkdir()
    done = run(ROOT / "scripts" / "imagenet.sh", tmp_path, "resmlp_s24", check=False)
    assert done.returncode == 1 and "no GPU found" in done.stderr


def test_fairseq_knows_every_option_of_the_recipe_for_imagenet():
    script = (ROOT / "scripts" / "imagenet.sh").read_text()
    command = script[script.rindex("fairseq-train") :].replace("\\\n", " ")
    done = run(
        *("fairseq-train", "--help", "--user-dir", "fairseq_resmlp", "--task", "image_classification"),
        *("--arch", "resmlp_s12", "--optimizer", "torch_lamb", "--lr-scheduler", "cosine"),
        *("--criterion", "label_smoothed_cross_entropy"),
    )
    assert "default: 12; 24 in resmlp_s24, resmlp_b24, resmlp_b24_8; 36 in" in " ".join(done.stdout.split())
    options = set(re.findall(r"(?<!\S)--[a-z-]+", command))
    assert len(options) > 30 and options <= set(re.findall(r"--[a-z-]+", done.stdout))
