"""Claims about the linear layers: oneDNN's products are torch's own, with their gradients."""

import pytest
import torch
from torch.nn import functional as F

from fairseq_resmlp import linear as module
from fairseq_resmlp.linear import linear, pays


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """oneDNN's products are right on every CPU, whether it is the quicker one there or not."""
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
    for got, expected in zip(*results):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_transposed_inputs_are_taken_as_they_are():
    torch.manual_seed(0)
    A, x = torch.randn(6, 6).requires_grad_(), torch.randn(6, 50).requires_grad_()
    y = linear(A, x.t())
    torch.testing.assert_close(y, A @ x)
    grad = torch.randn(6, 50)
    y.backward(grad)
    torch.testing.assert_close(A.grad, grad @ x.t(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(x.grad, A.t() @ grad, atol=1e-5, rtol=1e-5)


def test_only_float32_on_a_cpu_with_avx512_goes_through_onednn(monkeypatch):
    x = torch.randn(2, 4)
    assert pays(x) == torch.backends.mkldnn.is_available()
    assert not pays(x.double()) and not pays(x.bfloat16()) and not pays(x.to("meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not pays(x)
        assert linear(x, torch.randn(3, 4)).dtype == torch.bfloat16
    with monkeypatch.context() as narrow:
        narrow.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
        assert not pays(x)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not pays(x)
    monkeypatch.setattr(module, "product", None)
    linear(x, torch.randn(3, 4))


def test_no_gradient_is_kept_where_none_is_wanted():
    weight = torch.randn(3, 4).requires_grad_()
    with torch.no_grad():
        assert linear(torch.randn(2, 4), weight).grad_fn is None
    frozen = linear(torch.randn(2, 4), weight.detach())
    assert not frozen.requires_grad
