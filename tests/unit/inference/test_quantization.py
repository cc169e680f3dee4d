"""Matrices in 8 bits differ from the originals by rounding only."""

import contextlib

import pytest
import torch
from torch.nn import functional as F

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference import network as network_module
from fairseq_resmlp.inference import quantization
from fairseq_resmlp.inference.network import PAD, Network
from fairseq_resmlp.inference.quantization import QuantizedMatrix, is_quantized, make_linear, quantize
from fairseq_resmlp.model.export import to_inference_weights
from support.inference import teacher_forced_log_probs
from support.models import make_batch, make_model, make_sentences, make_task


def test_quantization_error_is_at_most_half_a_step():
    matrix = torch.randn(30, 50, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 3, 30)[:, None]
    matrix[7] = 0
    quantized = quantize(matrix)
    assert quantized.rows.dtype == torch.int8
    assert ((quantized.float() - matrix).abs() <= 0.5001 * quantized.scale[:, None]).all()
    assert (quantized.scale <= matrix.abs().amax(1) / 127 + 1e-30).all()


@torch.inference_mode()
def make_simulated_linear(weight, bias, dtype):
    """Replace `make_linear` in int8 by float32 products of the rounded values."""
    matrix = (weight if isinstance(weight, QuantizedMatrix) else quantize(weight)).float()
    top = 127 if quantization.REDUCE_RANGE else 255

    def linear(x):
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        step = (high - low) / top
        return F.linear(torch.fake_quantize_per_tensor_affine(x, step, round(-low / step), 0, top), matrix, bias)

    return linear


def test_int8_differs_from_float32_by_rounding_only(monkeypatch):
    """Activations are rounded to the number of bits that this CPU supports. Rounding to 8 bits changes little."""
    # large enough that one layer uses oneDNN; the others use fbgemm
    model = make_model(make_task(words=5000), decoder_embed_dim=64, decoder_ffn_embed_dim=128)
    weights = to_inference_weights(model)
    batch = make_batch(make_sentences(5), make_sentences(5, seed=1), left_pad_source=False)["net_input"]
    real = batch["prev_output_tokens"].ne(PAD)

    def log_probs(dtype):
        network = Network(*weights, dtype)
        return teacher_forced_log_probs(network, batch["src_tokens"], batch["prev_output_tokens"])[real]

    exact, quantized = log_probs("float32"), log_probs("int8")
    monkeypatch.setattr(network_module, "make_linear", make_simulated_linear)
    assert (quantized - exact).abs().max() > 0
    assert (quantized - log_probs("int8")).abs().max() < 0.001 * exact.std()
    monkeypatch.setattr(quantization, "REDUCE_RANGE", False)
    assert (exact - log_probs("int8")).abs().max() < 0.045 * exact.std()


def test_each_replacement_of_quantized_tensors_multiplies_alike(monkeypatch):
    torch.manual_seed(0)
    weight, bias, x = 0.1 * torch.randn(300, 64), torch.randn(300), torch.randn(20, 64)
    exact = x @ weight.t() + bias
    usual = make_linear(weight, bias, "int8")(x)
    monkeypatch.setattr(quantization, "HAS_QUANTIZED_TENSORS", False)
    if quantization.HAS_ONEDNN_INT8:
        torch.testing.assert_close(make_linear(weight, bias, "int8")(x), usual, atol=0.02, rtol=0)
    monkeypatch.setattr(quantization, "HAS_ONEDNN_INT8", False)
    in_float = make_linear(weight, bias, "int8")(x)
    torch.testing.assert_close(in_float, x @ quantize(weight).float().t() + bias)
    assert (in_float - exact).abs().max() <= (usual - exact).abs().max()


@pytest.mark.skipif(
    not (quantization.HAS_QUANTIZED_TENSORS and "onednn" in torch.backends.quantized.supported_engines),
    reason="this build of torch has one int8 engine",
)
def test_the_engine_of_a_large_layer_depends_on_the_number_of_rows(monkeypatch):
    packed, pack = [], quantization._pack
    monkeypatch.setattr(quantization, "_pack", lambda *args: packed.append(args[2]) or pack(*args))
    torch.manual_seed(0)
    engine, x = torch.backends.quantized.engine, torch.randn(quantization.MANY_ROWS + 1, 16)
    x[0, :2] = torch.tensor([-3.5, 3.5])  # the range of both inputs
    weight = torch.randn(quantization.LARGE, 16)
    large = make_linear(weight, torch.zeros(len(weight)), "int8")
    assert packed == []
    many, few = large(x), large(x[:-1])
    assert packed == ["onednn", "fbgemm"]
    large(x)
    make_linear(weight[:-1], torch.zeros(len(weight) - 1), "int8")(x)
    assert packed == ["onednn", "fbgemm", "fbgemm"]
    assert torch.backends.quantized.engine == engine
    torch.testing.assert_close(many[:-1], few)
    atol = 0.4 if quantization.REDUCE_RANGE else 0.2  # with 7 bits, the rounding errors are twice as large
    torch.testing.assert_close(few, x[:-1] @ weight.t(), atol=atol, rtol=0)


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_an_infinite_range_of_the_input_is_reported(onednn, value, monkeypatch):
    monkeypatch.setattr(quantization, "HAS_QUANTIZED_TENSORS", not onednn)
    linear = make_linear(quantize(torch.eye(8)), torch.zeros(8), "int8")
    x = torch.zeros(2, 8)
    x[0, 0], x[1, 0] = value, -value
    with contextlib.suppress(InputError):  # some versions of torch compute NaN
        assert not linear(x).isfinite().all()
    assert linear(torch.ones(2, 8)).isfinite().all()


def test_only_matrices_that_quantize_can_return_are_accepted():
    good = quantize(torch.randn(3, 5))
    assert is_quantized(good) and is_quantized(quantize(torch.zeros(3, 5)))
    assert is_quantized(quantize(torch.full((3, 5), 1e38)))
    for scale in (0.0, -1.0, float("nan"), float("inf"), 3e37):
        assert not is_quantized(good._replace(scale=torch.tensor([1.0, scale, 1.0])))
    assert not is_quantized(good._replace(rows=torch.full_like(good.rows, -128)))
