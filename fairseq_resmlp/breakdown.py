"""Where the time of a training step and of a beam search goes, and the matrix products that either cannot do without.

Dimensions: R tokens in a batch, d channels, H hidden size, V entries of the dictionary, B sentences, T their length.
"""

import time
from collections import defaultdict
from typing import Callable, Dict, List, NamedTuple

import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from .linear import product
from .systems import BEAM, RESMLP, Settings

# Parts of the names of operators whose time is that of a matrix product.
MATRIX = ("mm", "linear", "matmul", "attention")


class MatrixProduct(NamedTuple):
    """`count` times `batch` products of M x K and K x N."""

    M: int
    K: int
    N: int
    batch: int
    count: int


def attention(queries: int, keys: int, batch: int, count: int, settings: Settings) -> List[MatrixProduct]:
    """Scores and weighted sum; `batch` is sentences times heads."""
    head = settings.d // settings.heads
    return [
        MatrixProduct(queries, head, keys, batch, count),
        MatrixProduct(queries, keys, head, batch, count),
    ]


def feed_forward(R: int, count: int, settings: Settings) -> List[MatrixProduct]:
    return [
        MatrixProduct(R, settings.d, settings.hidden, 1, count),
        MatrixProduct(R, settings.hidden, settings.d, 1, count),
    ]


def token_mixing(arch: str, B: int, T: int, count: int, settings: Settings) -> List[MatrixProduct]:
    """What stands between the tokens of one side: the linear layer across them, or self-attention."""
    d = settings.d
    if arch == RESMLP:
        return [MatrixProduct(T, T, B * d, 1, count)]
    return [MatrixProduct(B * T, d, d, 1, 4 * count), *attention(T, T, B * settings.heads, count, settings)]


def encoder_products(arch: str, B: int, T: int, settings: Settings) -> List[MatrixProduct]:
    """Those of the encoder, with the keys and values that the decoder makes of its output."""
    L = settings.layers
    return [
        *token_mixing(arch, B, T, L, settings),
        *feed_forward(B * T, L, settings),
        MatrixProduct(B * T, settings.d, settings.d, 1, 2 * L),
    ]


def train_products(arch: str, B: int, T: int, settings: Settings) -> List[MatrixProduct]:
    """Those of a training step on B pairs of T and T tokens: forward, gradients of inputs, gradients of weights."""
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


def search_products(arch: str, B: int, T: int, steps: int, settings: Settings) -> List[MatrixProduct]:
    """Those of a beam search over B sources of T tokens: the encoder once, and `steps` steps of the decoder.

    What grows with the steps is taken at its mean.
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


def floor(products: List[MatrixProduct], settings: Settings) -> Dict[str, float]:
    """Seconds of the products alone, by each function that could do them: no model of these shapes takes less by it."""
    functions: Dict[str, Callable] = {"torch.nn.functional.linear": F.linear}
    if settings.device == "cpu":
        functions["fairseq_resmlp.linear.product"] = product
    return {
        name: sum(shape.count * _seconds(shape, multiply, settings) for shape in products)
        for name, multiply in functions.items()
    }


@torch.no_grad()
def _seconds(shape: MatrixProduct, multiply: Callable, settings: Settings, budget: float = 0.02) -> float:
    """The least of one product's times, over as many as fit into `budget` seconds, three at least."""
    dtype = torch.bfloat16 if settings.device == "cuda" else torch.float32
    M, K, N, batch, _ = shape
    if batch > 1:  # neither function takes several matrices of weights
        multiply, size = torch.bmm, ((batch, M, K), (batch, K, N))
    else:
        size = ((M, K), (N, K))
    x, weight = (torch.randn(*s, device=settings.device, dtype=dtype) for s in size)
    multiply(x, weight)
    times: List[float] = []
    while len(times) < 3 or (sum(times) < budget and len(times) < 100):
        settings.wait()
        start = time.perf_counter()
        multiply(x, weight)
        settings.wait()
        times.append(time.perf_counter() - start)
    return min(times)


def breakdown(run: Callable[[], object], settings: Settings, times: int = 3) -> Dict[str, object]:
    """Milliseconds of one `run`, as a mean of `times`: in matrix products, in other operators, in neither.

    Neither is Python, the dispatch of operators and autograd, during which no core computes. The profiler takes
    time of its own, most of it there; `unprofiled_ms` is the least that a run takes without it, to be compared with
    `floor`: what else the machine does only adds to either.
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
    spent: Dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        # A GPU's kernels stand beside the operators that they belong to.
        operator = "::" in event.key and not event.key.startswith("autograd::")
        if operator and event.device_type == torch.autograd.DeviceType.CPU:
            micro = event.self_device_time_total if settings.device == "cuda" else event.self_cpu_time_total
            spent[event.key] += micro / 1000 / times
    matrix = sum(ms for name, ms in spent.items() if any(part in name.split("::", 1)[1] for part in MATRIX))
    other = sum(spent.values()) - matrix
    most = sorted(spent.items(), key=lambda item: -item[1])[:12]
    return {
        "ms": wall * 1000,
        "unprofiled_ms": min(unprofiled) * 1000,
        "matrix_ms": matrix,
        "other_ms": other,
        "python_ms": max(0.0, wall * 1000 - matrix - other),
        "operators_ms": dict(most),
    }
