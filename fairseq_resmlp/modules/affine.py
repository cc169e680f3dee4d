"""Scale and shift of channels, with a backward pass of two operators instead of autograd's six."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

native_layer_norm_backward = torch.ops.aten.native_layer_norm_backward


class Affine(torch.autograd.Function):
    """alpha * x + beta, with gradients.

    The gradients of alpha and beta are the sums of grad * x and of grad over all rows. So are those of a layer
    normalization whose rows have mean 0 and variance 1, which torch computes in one pass over grad and x. In half
    precision, they are summed separately, because that operator would sum in half precision on a CPU.
    """

    @staticmethod
    def forward(ctx, x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        ctx.save_for_backward(x, alpha, beta)
        return torch.addcmul(beta, alpha, x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, alpha, beta = ctx.saved_tensors
        needs_x, needs_alpha, needs_beta = ctx.needs_input_grad
        grad_x = grad * alpha if needs_x else None
        if not grad.dtype == alpha.dtype in (torch.float32, torch.float64):
            grad_alpha = (grad * x).sum_to_size(alpha.shape) if needs_alpha else None
            return grad_x, grad_alpha, grad.sum_to_size(beta.shape) if needs_beta else None
        mean, rstd = _unit_statistics(x.shape[:-1], grad.dtype, grad.device)
        needed = [False, needs_alpha, needs_beta]
        x = x.to(grad.dtype)  # it is in half precision in autocast
        _, grad_alpha, grad_beta = native_layer_norm_backward(grad, x, alpha.shape, mean, rstd, alpha, beta, needed)
        return grad_x, grad_alpha, grad_beta


@lru_cache(maxsize=16)  # all Affs of a stack have inputs of the same shape
def _unit_statistics(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the means and inverse standard deviations of rows with mean 0 and variance 1. Shape: `shape` x 1."""
    return torch.zeros(*shape, 1, dtype=dtype, device=device), torch.ones(*shape, 1, dtype=dtype, device=device)


def affine(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Compute alpha * x + beta. Shape: (..., d), (d) and (d) to (..., d).

    A traced, exported or compiled model uses `torch.addcmul`, which torch's compiler fuses with other operators.
    """
    if not torch.jit.is_scripting():  # TorchScript removes this branch
        traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if torch.is_grad_enabled() and not traced:
            return Affine.apply(x, alpha, beta)
    return torch.addcmul(beta, alpha, x)
