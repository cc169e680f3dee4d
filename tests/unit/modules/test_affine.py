"""Scale and shift of channels: gradients and data types are those of the plain formula."""

import copy

import pytest
import torch

from fairseq_resmlp.modules.affine import affine
from fairseq_resmlp.resmlp import Aff


def plain(x, alpha, beta):
    return torch.addcmul(beta, alpha, x)


def make_inputs(shape, dtype=torch.float32):
    torch.manual_seed(0)
    return [torch.randn(size, dtype=dtype, requires_grad=True) for size in (shape, shape[-1:], shape[-1:])]


def results(function, inputs, grad, autocast=None):
    """Return the result and the gradients of all inputs."""
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        y = function(*inputs)
    return [y, *torch.autograd.grad(y, inputs, grad.to(y.dtype))]


@pytest.mark.parametrize("shape", [(3, 2, 5), (4, 5), (5,), (0, 5)])
def test_gradients_are_those_of_finite_differences(shape):
    assert torch.autograd.gradcheck(affine, make_inputs(shape, torch.float64))


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_results_are_those_of_the_plain_formula(dtype, strided):
    x, alpha, beta = make_inputs((7, 12, 16), dtype)
    x = x.transpose(0, 1) if strided else x
    grad = torch.randn(16).expand(x.shape)
    found, expected = (results(function, (x, alpha, beta), grad) for function in (affine, plain))
    assert torch.equal(found[0], expected[0])
    assert [part.dtype for part in found] == [dtype] * 4
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
def test_results_in_autocast_are_those_of_the_plain_formula(x_dtype, autocast):
    """Autocast passes float32 parameters, and an x in half precision after a matrix product."""
    x, alpha, beta = make_inputs((7, 12, 16))
    x, grad = x.detach().to(x_dtype).requires_grad_(), torch.randn(7, 12, 16)
    found, expected = (results(function, (x, alpha, beta), grad, autocast) for function in (affine, plain))
    assert [part.dtype for part in found] == [torch.float32, x_dtype, torch.float32, torch.float32]
    torch.testing.assert_close(found, expected)


def test_parameters_may_have_another_type_than_the_input():
    x, alpha, beta = make_inputs((4, 3, 16))
    inputs = [x, *(parameter.detach().bfloat16().requires_grad_() for parameter in (alpha, beta))]
    grad = torch.randn(x.shape)
    found, expected = (results(function, inputs, grad) for function in (affine, plain))
    torch.testing.assert_close(found[:2], expected[:2])
    assert [part.dtype for part in found] == [torch.float32, torch.float32, torch.bfloat16, torch.bfloat16]


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (1, 2)])
def test_inputs_without_gradients_are_supported(frozen):
    inputs = make_inputs((4, 3, 5))
    for i in frozen:
        inputs[i].requires_grad_(False)
    needed = [x for x in inputs if x.requires_grad]
    found, expected = (torch.autograd.grad(f(*inputs).sum(), needed) for f in (affine, plain))
    torch.testing.assert_close(found, expected)


def test_no_graph_is_built_without_gradients():
    aff = Aff(4)
    with torch.no_grad():
        assert aff(torch.randn(2, 4)).grad_fn is None
    assert not copy.deepcopy(aff).requires_grad_(False)(torch.randn(2, 4)).requires_grad


def test_scripted_traced_and_exported_models_use_the_plain_formula():
    aff, x = Aff(4), torch.randn(3, 4)
    graphs = [
        torch.jit.script(aff).inlined_graph,
        torch.jit.trace(aff, x).inlined_graph,
        torch.export.export(aff, (x,)).graph,
    ]
    assert all("addcmul" in str(graph) for graph in graphs)
