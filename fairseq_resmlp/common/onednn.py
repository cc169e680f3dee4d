"""Matrix products through oneDNN.

In float32 on a CPU, torch's own `linear` uses MKL, whose wide vector units serve Intel CPUs only. oneDNN, which is also
part of torch, uses those of every x86 CPU (measurements: docs/performance.md).
"""

import torch
from torch import Tensor

# The operator is private to torch, which may remove it.
_HAS_OPERATOR = hasattr(torch.ops.mkldnn, "_linear_pointwise")


def has_onednn_linear() -> bool:
    """Return whether this build of torch has `onednn_linear`."""
    return _HAS_OPERATOR and torch.backends.mkldnn.is_available()


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x weight^T + bias, without gradients. Shape: (..., i), (o, i) and (o) to (..., o)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
