"""LAMB: the paper's formula, and training with it."""

import sys

import pytest
import torch

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.vision.lamb import TorchLamb, TorchLambConfig
from support.commands import run
from support.images import quadrant_images, write_idx_split

pytest.importorskip("pytorch_optimizer", reason="pytorch-optimizer not found: pip install 'fairseq-resmlp[vision]'")


def test_a_step_is_scaled_to_the_norm_of_the_matrix():
    torch.manual_seed(0)
    weight, lr, decay, eps = torch.nn.Parameter(torch.randn(5, 3, dtype=torch.float64)), 0.1, 0.2, 1e-6
    optimizer = TorchLamb(TorchLambConfig(lr=[lr], weight_decay=decay), [weight])
    expected, m, v = weight.detach().clone(), torch.zeros(5, 3), torch.zeros(5, 3)
    for _ in range(3):
        gradient = torch.randn(5, 3, dtype=torch.float64)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        step = m / (v.sqrt() + eps) + decay * expected
        expected = expected - lr * expected.norm() / step.norm() * step
        weight.grad = gradient.clone()
        optimizer.step()
        assert (weight.detach() - expected).abs().max() < 1e-5


def test_a_missing_library_is_reported_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(InputError, match=r"requires pytorch-optimizer: pip install 'fairseq-resmlp\[vision\]'"):
        TorchLamb(TorchLambConfig(lr=[0.1]), [torch.nn.Parameter(torch.ones(1))])


def test_fairseq_trains_and_resumes_with_it(tmp_path):
    write_idx_split(tmp_path, "train", *quadrant_images(64, seed=0))
    for name, updates in (("whole", ["6"]), ("parts", ["3", "6"])):
        for count in updates:
            run(
                *("fairseq-train", tmp_path, "--user-dir", "fairseq_resmlp", "--task", "image_classification"),
                *("--arch", "resmlp_image_tiny", "--image-size", "12", "--embed-dim", "8", "--held-out", "16"),
                *("--optimizer", "torch_lamb", "--weight-decay", "0.2", "--lr", "0.01", "--lr-scheduler", "cosine"),
                *("--lr-period-updates", "6", "--criterion", "cross_entropy", "--batch-size", "16", "--cpu"),
                *("--num-workers", "0", "--max-update", count, "--save-dir", tmp_path / name),
            )
    whole, parts = (
        torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=False)["model"] for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
