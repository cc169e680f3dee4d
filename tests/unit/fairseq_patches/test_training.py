"""Patches of the training loop and the optimizers."""

import functools
import sys

import torch
from fairseq import optim, utils
from fairseq.optim import AMPOptimizer
from omegaconf import OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode

from support.commands import run, train_options
from support.paths import ROOT


def test_amp_gives_the_optimizer_the_same_gradients_as_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", functools.partial(torch.amp.GradScaler, "cpu"))
    steps = []
    for amp in (False, True):
        parameter = torch.nn.Parameter(torch.ones(2))
        cfg = OmegaConf.create(
            {
                "optimizer": {"_name": "adagrad", "lr": [0.1], "weight_decay": 0.0},
                "common": {"fp16_init_scale": 128, "min_loss_scale": 1e-4},
            }
        )
        if amp:
            optimizer = AMPOptimizer.build_optimizer(cfg, [parameter])
        else:
            optimizer = optim.build_optimizer(cfg.optimizer, [parameter])
        for scale in (1.0, 3.0):
            optimizer.zero_grad()
            optimizer.backward((parameter * torch.tensor([scale, -scale])).sum())
            optimizer.clip_grad_norm(100.0)
            optimizer.step()
        steps.append((parameter.detach(), optimizer.optimizer.state[parameter]["sum"]))
    torch.testing.assert_close(steps[1], steps[0])


class Operators(TorchDispatchMode):
    """Records the names of torch's operators."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function._schema.name)
        return function(*args, **(kwargs or {}))


def test_the_norms_of_all_gradients_are_one_operator_with_the_result_of_fairseq(monkeypatch):
    torch.manual_seed(0)
    grads = [torch.randn(n, 7, dtype=(torch.float32, torch.bfloat16)[n % 2]) for n in range(1, 50)]

    def clip():
        parameters = [torch.nn.Parameter(torch.zeros_like(grad)) for grad in grads]
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad.clone()
        with Operators() as operators:
            norm = utils.clip_grad_norm_(parameters, 1.0)
        return [norm, *(parameter.grad for parameter in parameters)], operators.names

    clipped, names = clip()
    assert [name for name in names if "norm" in name] == ["aten::_foreach_norm", "aten::linalg_vector_norm"]
    monkeypatch.setattr(utils, "multi_tensor_l2norm_available", False)  # as without the patch
    expected, names = clip()
    assert len([name for name in names if "norm" in name]) > len(grads)
    assert all(map(torch.equal, clipped, expected))


def test_training_that_ends_while_a_batch_is_being_prepared_exits_cleanly(tmp_path):
    """torch aborts if Python stops a thread inside it (pytorch issues 38228 and 117762)."""
    (tmp_path / "ends.py").write_text(
        "import sys, torch, fairseq_resmlp\n"
        "from fairseq.data.iterators import BufferedIterator\n"
        "class Batches:\n"
        "    def __len__(self):\n"
        "        return 10**9\n"
        "    def __iter__(self):\n"
        "        while True:\n"
        "            for _ in range(500):\n"
        "                batch = torch.zeros(300, 30).clone()\n"
        "            yield batch\n"
        "unlimited, full = BufferedIterator(10**9, Batches()), BufferedIterator(1, Batches())\n"
        "next(unlimited), next(full)\n"
        "sys.exit(3)\n"
    )
    done = run(sys.executable, tmp_path / "ends.py", env={"PYTHONPATH": str(ROOT)}, check=False)
    assert (done.returncode, done.stderr) == (3, "")


def test_memory_efficient_bf16_trains_with_adam_and_is_rejected_with_adagrad(toy, tmp_path):
    command = ["fairseq-train", *train_options(toy / "data-bin", tmp_path), "--max-update", "2"]
    rejected = run(*command, "--memory-efficient-bf16", check=False)
    assert rejected.returncode == 1
    message = (
        "error: --memory-efficient-bf16 does not work with Adagrad: use --bf16 or another --optimizer, such as adam"
    )
    assert message in rejected.stderr
    run(*command, "--memory-efficient-bf16", "--optimizer", "adam", "--lr", "0.001")
