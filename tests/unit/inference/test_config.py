"""Sizes of the inference network are validated before anything is allocated."""

from dataclasses import asdict, replace

import pytest

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference.config import NetworkConfig

CONFIG = NetworkConfig(
    encoder_vocab_size=50,
    encoder_embed_dim=24,
    encoder_ffn_dim=96,
    encoder_layers=3,
    encoder_max_positions=20,
    decoder_vocab_size=60,
    decoder_embed_dim=16,
    decoder_ffn_dim=64,
    decoder_layers=2,
    decoder_max_positions=10,
    attention_heads=4,
)


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "8", None], ids=repr)
def test_sizes_must_be_positive_integers(value):
    sizes = [name for name, size in asdict(CONFIG).items() if type(size) is int]
    assert len(sizes) == 12
    for name in sizes:
        with pytest.raises(InputError, match=f"^{name} is {value!r}, not a positive integer$"):
            replace(CONFIG, **{name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_heads": 3}, "decoder_embed_dim 16 is not a multiple of attention_heads 3"),
        ({"mixing_heads": 3}, "decoder_embed_dim 16 is not a multiple of mixing_heads 3"),
        ({"mixing_heads": 16}, "encoder_embed_dim 24 is not a multiple of mixing_heads 16"),
        ({"mixing": "conv"}, "mixing is 'conv', not linear or toeplitz"),
        ({"normalization": "batch"}, "normalization is 'batch', not affine or layer"),
    ],
    ids=str,
)
def test_inconsistent_or_unknown_values_are_refused(changes, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        replace(CONFIG, **changes)


@pytest.mark.parametrize("mixing", ["linear", "toeplitz"])
@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_mixing_matrices_that_would_exhaust_the_memory_are_refused(mixing, stack):
    """Toeplitz weights are few, but expand to N x N."""
    sizes = {"mixing": mixing, f"{stack}_layers": 1, f"{stack}_max_positions": 1 << 15}
    replace(CONFIG, **sizes)
    message = f"of the {stack} have 2,147,483,648 entries, .*: train with a smaller --{stack}-max-positions"
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **sizes, mixing_heads=2)
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **{**sizes, f"{stack}_layers": 2})


def test_weight_shapes_follow_from_the_sizes():
    """tests/unit/model/test_export.py compares them with those of trained models."""
    shapes = CONFIG.weight_shapes()
    assert shapes["encoder.embed"] == (50, 24) and shapes["decoder.embed"] == (60, 16)
    assert shapes["encoder.A"] == (3, 20, 20) and shapes["decoder.A"] == (2, 10, 10)
    assert shapes["encoder.bias"] == (3, 20, 24) and shapes["decoder.bias"] == (2, 10, 16)
    assert shapes["decoder.keys_values.weight"] == (2 * 2 * 16, 24)
    assert shapes["encoder.2.B.weight"] == (96, 24) and shapes["decoder.1.C.weight"] == (16, 64)
    heads = replace(CONFIG, mixing_heads=4).weight_shapes()
    assert heads["encoder.A"] == (3, 4, 20, 20) and heads["decoder.A"] == (2, 4, 10, 10)
    toeplitz = replace(CONFIG, mixing="toeplitz", mixing_heads=4).weight_shapes()
    assert toeplitz["encoder.a"] == (3, 4, 39) and toeplitz["decoder.a"] == (2, 4, 10)
