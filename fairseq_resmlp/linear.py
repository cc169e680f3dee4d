"""Linear layers through oneDNN, on CPUs with AVX512: torch's own `linear` in float32 on a CPU goes through MKL, which
uses the wide vector units of Intel's CPUs only. oneDNN is part of torch, too, and uses those of every x86 CPU. Without
AVX512 MKL is the quicker one for a training batch (docs/performance.md)."""

from typing import Optional

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def product(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """x weight^T + bias by oneDNN, without gradients. Shape: (..., i), (o, i) and (o) to (..., o)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def pays(x: Tensor) -> bool:
    """Whether oneDNN is the better choice: float32 on a CPU with AVX512, and no autocast that would change the type."""
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and not torch.is_autocast_enabled("cpu")
        and x.numel() > 0
    )


class OneDNNLinear(torch.autograd.Function):
    """`product` with its gradients, which are matrix products of the same kind."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        left, right = grad.reshape(-1, weight.size(0)), x.reshape(-1, weight.size(1))  # rows x o, rows x i
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        grad_weight = None
        if wants_weight:  # oneDNN is quicker where the longer side of its result is the inner one
            longer = weight.size(0) > weight.size(1)
            grad_weight = product(right.t(), left.t()).t() if longer else product(left.t(), right.t())
        return product(grad, weight.t()) if wants_x else None, grad_weight, left.sum(0) if wants_bias else None


def linear(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """x weight^T + bias, as `torch.nn.functional.linear`. Shape: (..., i), (o, i) and (o) to (..., o)."""
    if not torch.jit.is_scripting():  # TorchScript leaves this branch out
        grad = torch.is_grad_enabled()
        if pays(x):
            return OneDNNLinear.apply(x, weight, bias) if grad else product(x, weight, bias)
    return F.linear(x, weight, bias)
