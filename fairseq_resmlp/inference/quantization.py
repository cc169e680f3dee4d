"""Matrices in 8 bits, and linear layers that multiply with them."""

import math
import threading
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fairseq_resmlp.common.environment import cpu_info
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.onednn import has_onednn_linear, onednn_linear, pack_onednn_weight

OVERFLOW = "the input of an int8 matrix product is infinite or NaN, because the activations of the model overflow"

Linear = Callable[[Tensor], Tensor]


class QuantizedMatrix(NamedTuple):
    """A matrix in 8 bits: row i is scale[i] times the integers from -127 to 127 in rows[i]."""

    rows: Tensor  # int8, o x i
    scale: Tensor  # float32, o

    def float(self) -> Tensor:
        """Return the represented matrix, o x i."""
        return self.rows * self.scale[:, None]


def quantize(matrix: Tensor) -> QuantizedMatrix:
    """Round a matrix (o x i) to 8 bits with one scale per row, so that a large entry affects only its own row."""
    scale = matrix.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return QuantizedMatrix((matrix / scale[:, None]).round().to(torch.int8), scale)


def is_quantized(matrix: QuantizedMatrix) -> bool:
    """Return whether `quantize` can have returned a matrix: no entry is -128, and no value is out of range."""
    rows, scale = matrix
    return bool(rows.amin() >= -127 and scale.amin() > 0 and scale.amax() <= torch.finfo(torch.float32).max / 127)


# torch's quantized tensors are deprecated. If they are missing, oneDNN's operators on plain int8 tensors take their
# place. If these are missing, too, matrices are stored in 8 bits but multiplied in float32.
HAS_QUANTIZED_TENSORS = (
    hasattr(torch, "_make_per_channel_quantized_tensor")
    and hasattr(torch.ops.quantized, "linear_prepack")
    and hasattr(torch.ops.quantized, "linear_dynamic")
)
HAS_ONEDNN_INT8 = hasattr(torch.ops.onednn, "qlinear_prepack") and hasattr(torch.ops.onednn, "qlinear_pointwise")

# fbgemm accumulates products of 8 bits in 16 bits, which overflow if both factors are large, unless the CPU has an
# instruction that accumulates in 32 bits (AVX512-VNNI; fbgemm does not use its short form, AVX-VNNI). Without it,
# activations are rounded to 7 bits.
REDUCE_RANGE = "avx512_vnni" not in cpu_info()[1]

# With many rows of x, oneDNN is faster than fbgemm in layers with many outputs, with few rows several times slower
# (docs/performance.md).
LARGE, MANY_ROWS = 4096, 64 if REDUCE_RANGE else 16

_PACKING = threading.Lock()  # the engine and the filters of warnings are settings of the whole process


def make_linear(weight: Tensor | QuantizedMatrix, bias: Tensor, dtype: str) -> Linear:
    """Return a function that computes x weight^T + bias.

    In int8, x is quantized on the fly, with a range from its smallest to its largest value, so the other sentences of a
    batch affect the last digits. If that range is infinite or NaN, the function raises InputError.

    Args:
        weight: o x i
        bias: o
        dtype: int8, or another value to multiply in the type of `weight`
    """
    if dtype == "int8":
        quantized = weight if isinstance(weight, QuantizedMatrix) else quantize(weight)
        if HAS_QUANTIZED_TENSORS:
            return _make_quantized_tensor_linear(quantized, bias)
        if HAS_ONEDNN_INT8:
            return _make_onednn_int8_linear(quantized, bias)
        weight = quantized.float()
    assert isinstance(weight, Tensor)
    W = weight
    if W.dtype == torch.float32 and W.device.type == "cpu" and has_onednn_linear():
        packed = pack_onednn_weight(W)
        return lambda x: onednn_linear(x, packed, bias)
    return lambda x: F.linear(x, W, bias)


def _make_quantized_tensor_linear(weight: QuantizedMatrix, bias: Tensor) -> Linear:
    """Return a product of torch's fbgemm engine or, in a large layer with many rows of x, of its oneDNN engine."""
    run, reduce_range = torch.ops.quantized.linear_dynamic.default, REDUCE_RANGE
    with _PACKING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensors that contain their scale are deprecated, these products are not
        zeros = torch.zeros(len(weight.rows), dtype=torch.long)
        matrix = torch._make_per_channel_quantized_tensor(weight.rows, weight.scale, zeros, 0)
    is_large = len(weight.rows) >= LARGE and "onednn" in torch.backends.quantized.supported_engines
    layouts: dict[str, Any] = {}

    def pack(engine: str) -> None:
        with _PACKING:
            if engine not in layouts:  # another thread may have been faster
                layouts[engine] = _pack(matrix, bias, engine)

    if not is_large:
        pack("fbgemm")

    def linear(x: Tensor) -> Tensor:
        engine = "onednn" if is_large and len(x) > MANY_ROWS else "fbgemm"
        if engine not in layouts:  # a program that translates single sentences never needs the other layout
            pack(engine)
        try:
            return run(x, layouts[engine], reduce_range)
        except RuntimeError as error:
            if x.isfinite().all():
                raise
            raise InputError(OVERFLOW) from error

    return linear


def _pack(matrix: Tensor, bias: Tensor, engine: str) -> Any:
    """Return a quantized weight and its bias in the layout of an engine of torch."""
    before = torch.backends.quantized.engine
    try:
        if engine in torch.backends.quantized.supported_engines:
            torch.backends.quantized.engine = engine
        return torch.ops.quantized.linear_prepack(matrix, bias)
    finally:
        torch.backends.quantized.engine = before


def _make_onednn_int8_linear(weight: QuantizedMatrix, bias: Tensor) -> Linear:
    packed = torch.ops.onednn.qlinear_prepack(weight.rows, None)
    zeros = torch.zeros(len(weight.rows), dtype=torch.int32)
    levels = 127 if REDUCE_RANGE else 255
    multiply = torch.ops.onednn.qlinear_pointwise.default

    def linear(x: Tensor) -> Tensor:
        low, high = (float(value) for value in torch.aminmax(x))
        if not math.isfinite(high - low):
            raise InputError(OVERFLOW)
        low, high = min(low, 0.0), max(high, 0.0)  # zero is represented exactly
        scale = max((high - low) / levels, torch.finfo(torch.float32).tiny)
        zero_point = round(-low / scale)
        rounded = (x / scale).round_().add_(zero_point).clamp_(0, levels).to(torch.uint8)
        return multiply(
            rounded, scale, zero_point, packed, weight.scale, zeros, bias, 1.0, 0, torch.float32, "none", [], ""
        )

    return linear
