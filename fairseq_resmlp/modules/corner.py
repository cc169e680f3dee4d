"""The corner of a square matrix that a batch uses, with fewer operators in the backward pass than autograd records."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Corner(torch.autograd.Function):
    """`A[..., :T, :T]`, or its lower triangle. Autograd would pad the gradient once per dimension."""

    @staticmethod
    def forward(ctx, A: Tensor, T: int, causal: bool) -> Tensor:
        ctx.shape, ctx.causal = A.shape, causal
        part = A[..., :T, :T]
        return part.tril() if causal else part

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        T, padded = grad.size(-1), grad.new_zeros(ctx.shape)
        part = padded[..., :T, :T]
        if ctx.causal:
            torch.tril(grad, out=part)
        else:
            part.copy_(grad)
        return padded, None, None


def corner(A: Tensor, T: int, causal: bool) -> Tensor:
    """Crop matrices to T rows and columns, or to their lower triangle. Shape: (..., N, N) to (..., T, T)."""
    if not torch.jit.is_scripting():  # TorchScript removes this branch
        traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if torch.is_grad_enabled() and not traced:
            return Corner.apply(A, T, causal)
    part = A[..., :T, :T]
    return part.tril() if causal else part
