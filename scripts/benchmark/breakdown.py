"""Profile of a training step and of a beam search, and the time of their matrix products alone.

Dimensions: R tokens in a batch, d channels, H hidden size, V entries of the dictionary, B sentences, T their length.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from fairseq_resmlp.common.onednn import onednn_linear
from systems import BEAM, RESMLP, Settings

# Operators that contain one of these in their name are counted as matrix products
MATRIX = ("mm", "linear", "matmul", "attention")


class MatrixProduct(NamedTuple):
    """`count` times `batch` products of M x K and K x N."""

    M: int
    K: int
    N: int
    batch: int
    count: int


def attention(queries: int, keys: int, batch: int, count: int, settings: Settings) -> list[MatrixProduct]:
    """Return the products of attention: scores and weighted sum. `batch` is the number of sentences times heads."""
    head = settings.d // settings.heads
    return [
        MatrixProduct(queries, head, keys, batch, count),
        MatrixProduct(queries, keys, head, batch, count),
    ]


def feed_forward(R: int, count: int, settings: Settings) -> list[MatrixProduct]:
    """Return the products of feed-forward layers."""
    return [
        MatrixProduct(R, settings.d, settings.hidden, 1, count),
        MatrixProduct(R, settings.hidden, settings.d, 1, count),
    ]


def token_mixing(arch: str, B: int, T: int, count: int, settings: Settings) -> list[MatrixProduct]:
    """Return the products of token mixing (ResMLP) or self-attention (Transformer)."""
    d = settings.d
    if arch == RESMLP:
        return [MatrixProduct(T, T, B * d, 1, count)]
    return [MatrixProduct(B * T, d, d, 1, 4 * count), *attention(T, T, B * settings.heads, count, settings)]


def encoder_products(arch: str, B: int, T: int, settings: Settings) -> list[MatrixProduct]:
    """Return the products of the encoder, including the keys and values of cross-attention."""
    L = settings.layers
    return [
        *token_mixing(arch, B, T, L, settings),
        *feed_forward(B * T, L, settings),
        MatrixProduct(B * T, settings.d, settings.d, 1, 2 * L),
    ]


def train_products(arch: str, B: int, T: int, settings: Settings) -> list[MatrixProduct]:
    """Return the products of a training step on B pairs of sentences with T tokens per side.

    They are those of the forward pass, and those of the gradients of inputs and of weights.
    """
    L, d = settings.layers, settings.d
    forward = [
        *encoder_products(arch, B, T, settings),
        *token_mixing(arch, B, T, L, settings),
        MatrixProduct(B * T, d, d, 1, 2 * L),
        *attention(T, T, B * settings.heads, L, settings),
        *feed_forward(B * T, L, settings),
        MatrixProduct(B * T, d, settings.vocabulary, 1, 1),
    ]
    backward = [
        gradient
        for M, K, N, batch, count in forward
        for gradient in (MatrixProduct(M, N, K, batch, count), MatrixProduct(N, M, K, batch, count))
    ]
    return forward + backward


def search_products(arch: str, B: int, T: int, steps: int, settings: Settings) -> list[MatrixProduct]:
    """Return the products of a beam search over B sources of T tokens, with `steps` steps of the decoder.

    Dimensions that grow with the steps have their mean value.
    """
    L, d, R = settings.layers, settings.d, B * BEAM
    past, count = (steps + 1) // 2, steps * L
    if arch == RESMLP:
        mixing = [MatrixProduct(1, past, R * d, 1, count)]
    else:
        mixing = [MatrixProduct(R, d, d, 1, 4 * count), *attention(1, past, R * settings.heads, count, settings)]
    return [
        *encoder_products(arch, B, T, settings),
        *mixing,
        MatrixProduct(R, d, d, 1, 2 * count),
        *attention(BEAM, T, B * settings.heads, count, settings),
        *feed_forward(R, count, settings),
        MatrixProduct(R, d, settings.vocabulary, 1, steps),
    ]


def time_products(products: list[MatrixProduct], settings: Settings) -> dict[str, float]:
    """Return the seconds of the products alone, by function: a lower bound for models that use this function."""
    functions: dict[str, Callable] = {"torch.nn.functional.linear": F.linear}
    if settings.device == "cpu":
        functions["fairseq_resmlp.common.onednn.onednn_linear"] = onednn_linear
    return {
        name: sum(shape.count * _seconds(shape, multiply, settings) for shape in products)
        for name, multiply in functions.items()
    }


@torch.no_grad()
def _seconds(shape: MatrixProduct, multiply: Callable, settings: Settings, budget: float = 0.02) -> float:
    """Return the minimum time of one product, over at least three runs and about `budget` seconds."""
    dtype = torch.bfloat16 if settings.device == "cuda" else torch.float32
    M, K, N, batch, _ = shape
    if batch > 1:  # neither function accepts a batch of weights
        multiply, size = torch.bmm, ((batch, M, K), (batch, K, N))
    else:
        size = ((M, K), (N, K))
    x, weight = (torch.randn(*s, device=settings.device, dtype=dtype) for s in size)
    multiply(x, weight)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < budget and len(times) < 100):
        settings.wait()
        start = time.perf_counter()
        multiply(x, weight)
        settings.wait()
        times.append(time.perf_counter() - start)
    return min(times)


def profile_run(run: Callable[[], object], settings: Settings, times: int = 2) -> dict[str, Any]:
    """Return the milliseconds of one `run` in matrix products, in other operators and in neither (mean of `times`).

    The last one is Python, dispatch and autograd. The profiler takes time itself, most of it there. `unprofiled_ms` is
    the minimum without the profiler, to be compared with `time_products`: other load only increases both.
    """
    run()
    unprofiled = []
    for _ in range(times):
        settings.wait()
        start = time.perf_counter()
        run()
        settings.wait()
        unprofiled.append(time.perf_counter() - start)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if settings.device == "cuda" else [])
    with profile(activities=activities) as profiler:
        start = time.perf_counter()
        for _ in range(times):
            run()
        settings.wait()
        wall = (time.perf_counter() - start) / times
    spent: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        # GPU kernels are listed as well, but their time is already included in that of their operators.
        operator = "::" in event.key and not event.key.startswith("autograd::")
        if operator and event.device_type == torch.autograd.DeviceType.CPU:
            microseconds = event.self_device_time_total if settings.device == "cuda" else event.self_cpu_time_total
            spent[event.key] += microseconds / 1000 / times
    matrix = sum(ms for name, ms in spent.items() if any(part in name.split("::", 1)[1] for part in MATRIX))
    other = sum(spent.values()) - matrix
    longest = sorted(spent.items(), key=lambda item: -item[1])[:12]
    return {
        "ms": wall * 1000,
        "unprofiled_ms": min(unprofiled) * 1000,
        "matrix_ms": matrix,
        "other_ms": other,
        "python_ms": max(0.0, wall * 1000 - matrix - other),
        "operators_ms": dict(longest),
    }
