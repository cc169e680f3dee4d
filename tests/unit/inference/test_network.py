"""The inference network: attention, and the selection of candidates.

tests/unit/model/test_export.py compares its output with that of the trained model.
"""

import math
import re

import pytest
import torch

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference import network as network_module
from fairseq_resmlp.inference.network import EOS, PAD, check_device
from support.inference import LAYER_NORM, make_network
from support.models import make_batch, make_model, make_sentences, make_task


@pytest.mark.parametrize(
    "options",
    [{}, {"decoder_layers": 1}, {"token_mixing": "none"}, {"token_mixing": "toeplitz", "mixing_heads": 4}, LAYER_NORM],
    ids=str,
)
def test_attention_of_a_translation_equals_that_of_the_model(options):
    model = make_model(seed=2, **options)
    network = make_network(model)
    for source, target in zip(make_sentences(5), make_sentences(5, seed=1)):
        batch = make_batch([source], [target])["net_input"]
        with torch.no_grad():
            expected = model(**batch)[1]["attn"][0][0]
        found = network.attention(source.tolist(), target.tolist())
        assert found.shape == (len(target), len(source))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("words, logits", [(40, 1 << 22), (996, 1 << 22), (996, 5000), (1000, 5000)])
@pytest.mark.parametrize("k", [1, 4])
@torch.inference_mode()
def test_topk_candidates_equal_those_of_a_complete_sort(words, logits, k, monkeypatch):
    monkeypatch.setattr(network_module, "MAX_LOGITS", logits)
    network = make_network(make_model(make_task(words=words)))
    B, V = 5, words + 4
    x, scores = 3 * torch.randn(B * k, 16), torch.randn(B, k)
    logs = network.output.linear(x)[:, :V].log_softmax(-1)
    logs[:, [PAD, EOS]] = -math.inf
    expected, flat = (logs.view(B, k, V) + scores[:, :, None]).view(B, -1).topk(8)
    found, tokens, beams = network.topk_candidates(x, scores, 8, (PAD, EOS), 0.0, network.output)
    torch.testing.assert_close(found, expected)
    assert torch.equal(tokens, flat % V) and torch.equal(beams, flat // V)


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("float16", "float16 is not supported on device cpu: int8 requires a CPU, float16 a GPU"),
        ("bfloat16", "unknown dtype bfloat16: use float32, int8, float16"),
    ],
)
def test_dtypes_that_the_device_does_not_support_are_refused(dtype, message):
    with pytest.raises(InputError, match=message):
        make_network(make_model(), dtype)


@pytest.mark.parametrize("device", ["meta", "vulkan", "mps", "xla", "hpu", "mkldnn", "cpu:-1", "x", "", "cpu:9" * 30])
def test_a_device_that_cannot_compute_is_refused_in_one_line(device):
    with pytest.raises(InputError) as error:
        check_device(device)
    assert re.fullmatch(rf"--device {device} is not available: .+; use cpu or cuda", str(error.value))


def test_a_device_that_computes_is_accepted():
    check_device("cpu")
