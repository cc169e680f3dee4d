"""Kernels that a training update launches on a GPU, eager and compiled, and the time of the same update on a CPU.

    python scripts/benchmark/kernels.py --out docs/measured/kernels.json

No GPU is needed. Eager kernels are counted on tensors without data, as torch dispatches its operators. Dropout and
attention are replaced by the operators that torch has for them on a GPU. Views and allocations are not counted. An
operator counts as one kernel, except for those of `launches`, and so does an operator on a list of tensors (foreach).

Compiled kernels are what torch's compiler schedules after fusion: loops and calls of other operators. They are counted
for its CPU backend.
"""

import collections
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import click
import torch
from fairseq import optim
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import systems
from bench import Benchmark
from fairseq_resmlp.common.atomic_write import atomic_write
from fairseq_resmlp.common.environment import environment_info
from systems import FAIRSEQ_CRITERION, RESMLP, TRANSFORMER, Settings

MODELS = {
    RESMLP: (RESMLP, ""),
    "resmlp_base, --normalization layer": (RESMLP, "--normalization layer"),
    "fairseq Transformer": (TRANSFORMER, ""),
}
COUNT, LENGTH = 32, 30  # sentences of a batch, and tokens of a sentence
PADDING = 3  # tokens of padding in one sentence, so that fairseq's Transformer uses its padding mask


def launches(name: str, args: tuple) -> int:
    """Return the number of kernels of an operator of torch."""
    if "empty" in name or name in ("_unsafe_view", "detach", "lift_fresh"):  # computes nothing
        return 0
    if name in ("slice_backward", "select_backward", "constant_pad_nd"):  # fill with zeros, then copy
        return 2
    if name == "native_layer_norm_backward":  # gradient of the input; gradients of weight and bias
        mask = args[-1]
        return mask[0] + (mask[1] or mask[2])
    return 1


class KernelCounter(TorchDispatchMode):
    """Counts the kernels of operators on tensors without data, by the name of the operator."""

    def __init__(self):
        super().__init__()
        self.kernels: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if any(isinstance(x, Tensor) and x.is_meta for x in tree_leaves((args, kwargs, result))):
            name = function._schema.name.removeprefix("aten::")
            self.kernels[name] += 0 if function.is_view else launches(name, args)
        return result

    def total(self) -> int:
        return self.kernels.total()


def gpu_dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Compute `torch.nn.functional.dropout` with the operator for GPUs."""
    return torch.native_dropout(x, p, True)[0] if training and p > 0 else x


def gpu_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False
) -> Tensor:
    """Compute `torch.nn.functional.scaled_dot_product_attention` with the operator for GPUs that supports masks."""
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill_(attn_mask, float("-inf"))
        attn_mask = attn_mask.expand(*q.shape[:3], k.size(2))
    attend = torch.ops.aten._scaled_dot_product_efficient_attention
    return attend(q, k, v, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal)[0]


@contextmanager
def like_a_gpu() -> Iterator[None]:
    """Make torch use its operators for GPUs on tensors without data."""
    with (
        mock.patch.object(F, "dropout", gpu_dropout),
        mock.patch.object(F, "scaled_dot_product_attention", gpu_attention),
        mock.patch("torch.optim.optimizer._get_foreach_kernels_supported_devices", lambda: ["meta"]),
        mock.patch("torch.cuda.is_available", lambda: True),
        mock.patch("torch.cuda.current_device", lambda: "meta"),
        # fairseq's Transformer asks whether there is padding.
        mock.patch.object(Tensor, "any", lambda self: torch.tensor(True)),
    ):
        yield


def make_step(arch: str, options: str, settings: Settings):
    """Return the options, the task, the model and the criterion of a training run with Adagrad and clipping."""
    settings = replace(settings, resmlp=options)
    args = systems.training_args(arch, settings, "--optimizer", "adagrad", "--criterion", FAIRSEQ_CRITERION)
    cfg, task, model = systems.make_model(arch, settings, args)
    return cfg, model.train(), task.build_criterion(cfg.criterion)


def count_eager(arch: str, options: str, settings: Settings) -> dict[str, int]:
    """Count the kernels of a batch (forward and backward pass), of its criterion, and of clipping and optimizer."""
    cfg, model, criterion = make_step(arch, options, settings)
    model = model.to("meta")
    if arch == RESMLP:
        model.decoder.output_projection.weight = model.encoder.embed_tokens.weight
    sample = tree_map(lambda x: x.to("meta") if isinstance(x, Tensor) else x, make_batch(settings))
    optimizer = optim.build_optimizer(cfg.optimizer, model.parameters())
    with like_a_gpu():
        for _ in range(2):  # the first batch of a shape fills constants
            optimizer.zero_grad()
            with KernelCounter() as alone:
                logits = model(**sample["net_input"])[0]
                logits.backward(torch.empty_like(logits))
        optimizer.zero_grad()
        with KernelCounter() as batch:
            loss, *_ = criterion(model, sample)
            loss.backward()
        with KernelCounter() as update:
            optimizer.multiply_grads(1 / sample["ntokens"])
            optimizer.clip_grad_norm(cfg.optimization.clip_norm)
            optimizer.step()
    return {
        "batch": batch.total(),
        "criterion": batch.total() - alone.total(),
        "update": update.total(),
        "operators": dict(batch.kernels.most_common()),
    }


def count_compiled(arch: str, options: str, settings: Settings) -> int:
    """Count the kernels of a compiled forward and backward pass, without criterion. They are scheduled, but not built.

    On a CPU, this takes minutes for `resmlp_base`.
    """
    from torch._inductor import config, ir
    from torch._inductor.async_compile import AsyncCompile
    from torch._inductor.scheduler import NopKernelSchedulerNode, Scheduler

    codegen, scheduled = Scheduler.codegen, []

    def count(scheduler):
        for node in scheduler.nodes:
            if not isinstance(node, NopKernelSchedulerNode) and not isinstance(node.node, ir.MultiOutput):
                scheduled.append(node)
        return codegen(scheduler)

    _, model, _ = make_step(arch, options, settings)
    torch._dynamo.reset()
    with (
        mock.patch.object(Scheduler, "codegen", count),
        mock.patch.object(AsyncCompile, "cpp_pybinding", lambda *args: lambda *args: None),
        config.patch(force_disable_caches=True),
    ):
        logits = torch.compile(type(model).forward, dynamic=True)(model, **make_batch(settings)["net_input"])[0]
        logits.backward(torch.empty_like(logits))
    return len(scheduled)


def make_batch(settings: Settings) -> dict[str, Any]:
    """Return a batch with padding."""
    sample = systems.make_batch(COUNT, LENGTH, settings)
    sample["net_input"]["src_tokens"][0, :PADDING] = 1
    return sample


def time_alternately(runs: dict[str, Callable[[], object]], settings: Settings) -> dict[str, list[float]]:
    """Return the CPU seconds per call of each of `runs`, timed in turn `settings.pairs` times after a warm-up round.

    There is one thread. Unlike the time of a clock, its CPU time hardly depends on other processes.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(1 + settings.pairs):
        for name, run in runs.items():
            start, calls = time.process_time(), 0
            while time.process_time() - start < settings.shortest:
                run()
                calls += 1
            if turn > 0:
                seconds[name].append((time.process_time() - start) / calls)
    return seconds


def time_affine(settings: Settings) -> dict[str, list[float]]:
    """Time the forward and backward pass of Aff and of the same formula with autograd, in CPU seconds."""
    from fairseq_resmlp.modules.affine import affine  # not in versions that --before refers to

    torch.manual_seed(1)
    x, grad = (torch.randn(LENGTH, COUNT, settings.d) for _ in range(2))
    leaves = [x.requires_grad_(), *(torch.randn(settings.d, requires_grad=True) for _ in range(2))]
    formulas = {"Aff": affine, "addcmul": lambda x, alpha, beta: torch.addcmul(beta, alpha, x)}
    runs = {name: partial(lambda f: torch.autograd.grad(f(*leaves), leaves, grad), f) for name, f in formulas.items()}
    return time_alternately(runs, settings)


def time_steps(settings: Settings) -> dict[str, Any]:
    """Time a training step of fairseq's trainer, eager and compiled, and the seconds of the first compiled one."""
    from fairseq_resmlp.model.compilation import CompiledForward  # not in versions that --before refers to

    trainers = {name: systems.make_trainer(RESMLP, settings, FAIRSEQ_CRITERION) for name in ("eager", "compiled")}
    model = trainers["compiled"].get_model()
    model.forward = CompiledForward(model)
    steps = {name: partial(trainer.train_step, [make_batch(settings)]) for name, trainer in trainers.items()}
    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=cache):
        start = time.perf_counter()
        steps["compiled"]()
        first = time.perf_counter() - start
        return {**time_alternately(steps, settings), "first": first}


PARTS: dict[str, Callable[[Settings], Any]] = {
    "eager": lambda settings: {name: count_eager(*model, settings) for name, model in MODELS.items()},
    "compiled": lambda settings: {RESMLP: count_compiled(*MODELS[RESMLP], settings)},
    "affine": time_affine,
    "step": time_steps,
}


@click.command(cls=Benchmark)
@click.option("--out", type=click.Path(dir_okay=False), required=True, help="JSON file for the results.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(PARTS)),
    help="Part to measure: eager or compiled (kernels), affine or step (time). Other parts in --out are kept.",
)
@click.option(
    "--before", type=click.Path(exists=True, dir_okay=False), help="Results of an earlier version to include."
)
@click.option("--pairs", type=click.IntRange(1), default=5, show_default=True, help="Number of timings per side.")
def main(out: str, only: tuple[str, ...], before: str | None, pairs: int) -> None:
    """Count the kernels of a training update, eager and compiled, and time Aff and a compiled step on a CPU."""
    torch.set_num_threads(1)
    settings = Settings(pairs=pairs)
    results = environment_info(["torch"])
    del results["command"]
    results |= {"batch": [COUNT, LENGTH], "settings": ["float32", FAIRSEQ_CRITERION, "Adagrad"], "pairs": pairs}
    if os.path.exists(out):
        results = {**read_json(out), **results}
    if before:
        results["before"] = {part: read_json(before)[part] for part in ("eager", "compiled")}
    for part in only or PARTS:
        results[part] = PARTS[part](settings)
        with atomic_write(out) as partial_file, open(partial_file, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
            file.write("\n")


def read_json(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        return json.load(file)


if __name__ == "__main__":
    main()
