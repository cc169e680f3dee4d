"""Matrix products through oneDNN.

In float32 on a CPU, torch's own `linear` uses MKL, whose wide vector units serve Intel CPUs only. oneDNN, which is also
part of torch, uses those of every x86 CPU (measurements: docs/performance.md).
"""

import torch
from torch import Tensor

# The operators are private to torch, which may remove them.
_HAS_OPERATOR = hasattr(torch.ops.mkldnn, "_linear_pointwise")
_HAS_PACKING = hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def has_onednn_linear() -> bool:
    """Return whether this build of torch has `onednn_linear`."""
    return _HAS_OPERATOR and torch.backends.mkldnn.is_available()


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x weight^T + bias, without gradients. Shape: (..., i), (o, i) and (o) to (..., o)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def pack_onednn_weight(weight: Tensor) -> Tensor:
    """Copy a weight to the layout that `onednn_linear` computes with, so that it is not reordered at every call.

    The result can be used for nothing else. Without oneDNN's operator, it is the weight itself.
    """
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight) if _HAS_PACKING else weight
    return packed
