"""Matrices in 8 bits, and linear layers that multiply with them."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fairseq_resmlp.common.environment import cpu_info
from fairseq_resmlp.common.onednn import onednn_linear

ONEDNN_MIN_OUTPUTS = 4096  # outputs of a layer from which oneDNN is faster than fbgemm in int8

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


# fbgemm accumulates products of 8 bits in 16 bits, which overflow if both factors are large, unless the CPU has an
# instruction that accumulates in 32 bits (AVX512-VNNI; fbgemm does not use its short form, AVX-VNNI). Without it,
# activations are rounded to 7 bits.
REDUCE_RANGE = "avx512_vnni" not in cpu_info()[1]


def make_linear(weight: Tensor | QuantizedMatrix, bias: Tensor, dtype: str) -> Linear:
    """Return a function that computes x weight^T + bias.

    In int8, x is quantized on the fly, with a range from its smallest to its largest value, so the other sentences of a
    batch affect the last digits.

    Args:
        weight: o x i
        bias: o
        dtype: int8, or another value to multiply in the type of `weight`
    """
    if dtype == "int8":
        return _make_int8_linear(weight if isinstance(weight, QuantizedMatrix) else quantize(weight), bias)
    assert isinstance(weight, Tensor)
    W = weight
    if W.dtype == torch.float32 and W.device.type == "cpu" and torch.backends.mkldnn.is_available():
        return lambda x: onednn_linear(x, W, bias)
    return lambda x: F.linear(x, W, bias)


def _make_int8_linear(weight: QuantizedMatrix, bias: Tensor) -> Linear:
    rows, scale = weight
    engine = torch.backends.quantized.engine
    try:
        if len(rows) >= ONEDNN_MIN_OUTPUTS and "onednn" in torch.backends.quantized.supported_engines:
            torch.backends.quantized.engine = "onednn"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tensors that contain their scale are deprecated, these products are not
            zeros = torch.zeros(len(rows), dtype=torch.long)
            packed = torch.ops.quantized.linear_prepack(
                torch._make_per_channel_quantized_tensor(rows, scale, zeros, 0), bias
            )
    finally:
        torch.backends.quantized.engine = engine
    run, reduce_range = torch.ops.quantized.linear_dynamic.default, REDUCE_RANGE
    return lambda x: run(x, packed, reduce_range)
