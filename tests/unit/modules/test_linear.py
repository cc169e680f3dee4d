"""Linear layers through oneDNN: results and gradients equal those of torch."""

import pytest
import torch
from torch.nn import functional as F

from fairseq_resmlp.modules import linear as linear_module
from fairseq_resmlp.modules.linear import linear, use_onednn


@pytest.fixture(autouse=True)
def avx512(monkeypatch):
    """Use oneDNN on every CPU: its results are correct everywhere, although it is not faster everywhere."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 7, 24), (1, 24), (3, 0, 24)])
@pytest.mark.parametrize("outputs", [8, 40])
def test_result_and_gradients_are_those_of_torch(shape, outputs, bias):
    torch.manual_seed(0)
    inputs = [torch.randn(shape), torch.randn(outputs, 24), torch.randn(outputs) if bias else None]
    grad = torch.randn(*shape[:-1], outputs)
    results = []
    for function in (linear, F.linear):
        leaves = [x if x is None else x.clone().requires_grad_() for x in inputs]
        y = function(*leaves)
        y.backward(grad)
        results.append([y] + [x.grad for x in leaves if x is not None])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_transposed_inputs_are_supported():
    torch.manual_seed(0)
    A, x = torch.randn(6, 6).requires_grad_(), torch.randn(6, 50).requires_grad_()
    y = linear(A, x.t())
    torch.testing.assert_close(y, A @ x)
    grad = torch.randn(6, 50)
    y.backward(grad)
    torch.testing.assert_close(A.grad, grad @ x.t(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(x.grad, A.t() @ grad, atol=1e-5, rtol=1e-5)


def test_onednn_is_used_only_for_float32_on_a_cpu_with_avx512(monkeypatch):
    x = torch.randn(2, 4)
    assert use_onednn(x) == torch.backends.mkldnn.is_available()
    assert not use_onednn(x.double()) and not use_onednn(x.bfloat16()) and not use_onednn(x.to("meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not use_onednn(x)
        assert linear(x, torch.randn(3, 4)).dtype == torch.bfloat16
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
        assert not use_onednn(x)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not use_onednn(x)
    monkeypatch.setattr(linear_module, "onednn_linear", None)
    linear(x, torch.randn(3, 4))


def test_no_graph_is_built_without_gradients():
    weight = torch.randn(3, 4).requires_grad_()
    with torch.no_grad():
        assert linear(torch.randn(2, 4), weight).grad_fn is None
    frozen = linear(torch.randn(2, 4), weight.detach())
    assert not frozen.requires_grad
