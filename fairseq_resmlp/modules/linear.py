"""Linear layers that use oneDNN where it is faster: on CPUs with AVX512, in training and in inference.

On CPUs without AVX512, torch's default, MKL, is the faster one for a training batch (docs/performance.md).
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fairseq_resmlp.common.onednn import has_onednn_linear, onednn_linear


def use_onednn(x: Tensor) -> bool:
    """Return whether oneDNN is the better choice: float32 on a CPU with AVX512, outside autocast.

    A traced, exported or compiled model uses torch's own `linear`, because it may run elsewhere, and because ONNX has
    no operator for oneDNN's.
    """
    return (
        not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and has_onednn_linear()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and not torch.is_autocast_enabled("cpu")
        and x.numel() > 0
    )


class OneDNNLinear(torch.autograd.Function):
    """`onednn_linear` with gradients, which are matrix products of the same kind."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn_linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        left, right = grad.reshape(-1, weight.size(0)), x.reshape(-1, weight.size(1))  # rows x o, rows x i
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        grad_weight = None
        if needs_weight:  # oneDNN is faster if the longer side of its result is the inner one
            longer = weight.size(0) > weight.size(1)
            grad_weight = onednn_linear(right.t(), left.t()).t() if longer else onednn_linear(left.t(), right.t())
        return onednn_linear(grad, weight.t()) if needs_x else None, grad_weight, left.sum(0) if needs_bias else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x weight^T + bias, like `torch.nn.functional.linear`. Shape: (..., i), (o, i) and (o) to (..., o)."""
    if not torch.jit.is_scripting():  # TorchScript removes this branch
        grad = torch.is_grad_enabled()
        if use_onednn(x):
            return OneDNNLinear.apply(x, weight, bias) if grad else onednn_linear(x, weight, bias)
    return F.linear(x, weight, bias)
