"""Tracing and exporting the model with torch's own tools, on every kind of CPU."""

import io
import warnings
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.export import Dim, export

from support.models import make_batch, make_model, make_sentences
from support.variants import VARIANTS


@pytest.fixture(autouse=True)
def avx512(monkeypatch):
    """A CPU on which the model uses operators of oneDNN unless it is traced."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


class Logits(nn.Module):
    """The model without its second result, a dict of lists, which torch.jit.trace does not support."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *inputs):
        return self.model(*inputs)[0]


def batch(count, longest, seed):
    sample = make_batch(make_sentences(count, longest, seed=seed), make_sentences(count, longest, seed=seed + 1))
    return tuple(sample["net_input"][name] for name in ("src_tokens", "src_lengths", "prev_output_tokens"))


BATCHES = [batch(5, 12, seed=3), batch(3, 7, seed=5)]  # padded on the left, of different sizes


def check(traced, model, batches=BATCHES):
    with torch.no_grad():
        for inputs in batches:
            torch.testing.assert_close(traced(*inputs), model(*inputs)[0], atol=1e-5, rtol=1e-5)


def trace(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the check of N is not part of the trace
        return torch.jit.trace(Logits(model), BATCHES[0], check_trace=False)


def test_a_traced_model_accepts_other_batches():
    model = make_model()
    traced = trace(model)
    check(traced, model)
    assert "mkldnn" not in str(traced.inlined_graph)


def test_every_operator_of_the_model_is_in_onnx():
    """TorchScript's exporter converts the model before it needs the package onnx."""
    names = ["src_tokens", "src_lengths", "prev_output_tokens"]
    sizes = {name: {0: "B", 1: name[0]} if "tokens" in name else {0: "B"} for name in names}
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(make_model(), BATCHES[0], out, input_names=names, dynamic_axes=sizes, dynamo=False)
        except torch.onnx.OnnxExporterError as error:
            assert str(error) == "Module onnx is not installed!" and find_spec("onnx") is None


def test_an_exported_program_gives_the_same_logits():
    model = make_model()
    with torch.no_grad():
        program = export(Logits(model), BATCHES[0], strict=False)
    check(program.module(), model, BATCHES[:1])
    assert not any("mkldnn" in str(node.target) for node in program.graph.nodes)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_batch_and_lengths_of_an_exported_program_can_be_dynamic(strict):
    model = make_model()
    B, S, T = Dim("B", min=2, max=64), Dim("S", min=2, max=23), Dim("T", min=2, max=23)  # below N
    with torch.no_grad():
        shapes = {"src_tokens": {0: B, 1: S}, "src_lengths": {0: B}, "prev_output_tokens": {0: B, 1: T}}
        program = export(model, BATCHES[0], dynamic_shapes=shapes, strict=strict)
    check(lambda *inputs: program.module()(*inputs)[0], model)


@pytest.mark.slow
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_variant_can_be_traced(options):
    model = make_model(**options)
    check(trace(model), model)


@pytest.mark.slow
def test_a_model_can_be_traced_on_a_cpu_without_avx512(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    model = make_model()
    check(trace(model), model)
