"""The paper's formulas as explicit loops in float64, for comparison with the model.

Shape: x is T x B x d; `lengths` are the numbers of unpadded positions of the B sentences.
"""

import math

import numpy as np
import torch

LENGTHS = [7, 3, 5]


def keep_mask(lengths, T):
    """Return the mask of unpadded positions, T x B x 1."""
    return (torch.arange(T)[:, None] < torch.tensor(lengths)).unsqueeze(-1)


def numpy_parameters(module):
    """Return the parameters of a module by name, as float64 arrays."""
    return {name: parameter.detach().double().numpy() for name, parameter in module.named_parameters()}


def gelu(x):
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def loop_aff(x, p, name):
    """Equation (1), with the parameters of p whose names start with `name`."""
    y = np.empty_like(x)
    for t, b, c in np.ndindex(x.shape):
        y[t, b, c] = p[f"{name}.alpha"][c] * x[t, b, c] + p[f"{name}.beta"][c]
    return y


def loop_mixing(x, A, b, lengths, causal):
    """y_i = sum_j A_ij x_j + b_i over the unpadded positions j (and j <= i if causal)."""
    y = np.empty_like(x)
    for i, s, c in np.ndindex(x.shape):
        y[i, s, c] = b[i]
        for j in range(i + 1 if causal else x.shape[0]):
            if j < lengths[s]:
                y[i, s, c] += A[i, j] * x[j, s, c]
    return y


def loop_ffn(x, p):
    """C GELU(B x) at each position."""
    y = np.zeros_like(x)
    for t, b in np.ndindex(x.shape[:2]):
        hidden = p["ffn.B.weight"] @ x[t, b] + p["ffn.B.bias"]
        y[t, b] = p["ffn.C.weight"] @ np.array([gelu(h) for h in hidden]) + p["ffn.C.bias"]
    return y


def loop_attention(x, memory, lengths, p, heads):
    """Multi-head attention from x to the unpadded positions of `memory`, S x B x d."""
    T, B, d = x.shape
    y = np.zeros_like(x)
    size = d // heads
    for t, b in np.ndindex(T, B):
        q = p["attention.q_proj.weight"] @ x[t, b] + p["attention.q_proj.bias"]
        context = np.zeros(d)
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            keys = [p["attention.k_proj.weight"] @ m + p["attention.k_proj.bias"] for m in memory[: lengths[b], b]]
            values = [p["attention.v_proj.weight"] @ m + p["attention.v_proj.bias"] for m in memory[: lengths[b], b]]
            scores = np.array([q[part] @ k[part] / math.sqrt(size) for k in keys])
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            context[part] = sum(w * v[part] for w, v in zip(weights, values, strict=True))
        y[t, b] = p["attention.out_proj.weight"] @ context + p["attention.out_proj.bias"]
    return y
