"""The corner of a matrix that a batch uses: values and gradients are those of the plain formula."""

import pytest
import torch

from fairseq_resmlp.modules.corner import corner


def plain(A, T, causal):
    part = A[..., :T, :T]
    return part.tril() if causal else part


@pytest.mark.parametrize("T", [1, 3, 6])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [(), (2,)])
def test_values_and_gradients_are_those_of_the_plain_formula(heads, causal, T):
    torch.manual_seed(0)
    A, grad = torch.randn(*heads, 6, 6, requires_grad=True), torch.randn(*heads, T, T)
    found, expected = ((y := f(A, T, causal), *torch.autograd.grad(y, A, grad)) for f in (corner, plain))
    assert all(map(torch.equal, found, expected))
    with torch.no_grad():
        assert torch.equal(corner(A, T, causal), expected[0])
