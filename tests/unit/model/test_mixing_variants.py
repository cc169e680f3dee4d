"""Token mixings other than the paper's, compared with explicit formulas.

The tests in tests/unit/test_resmlp.py cover their causality, padding, caches and sizes.
"""

import numpy as np
import pytest
import torch

from fairseq_resmlp.model.config import ResMLPConfig
from fairseq_resmlp.modules.token_mixing import TOKEN_MIXING
from support.models import make_model
from support.reference import LENGTHS, gelu, keep_mask, loop_mixing, numpy_parameters


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["linear", "toeplitz", "toeplitz_linear"])
def test_each_head_mixes_its_channels_with_its_own_matrix(name, causal):
    torch.manual_seed(0)
    mixing = TOKEN_MIXING[name](6, 9, causal, ResMLPConfig(mixing_heads=3)).double()
    with torch.no_grad():
        for parameter in mixing.parameters():
            parameter.normal_()
    x, keep = torch.randn(7, 3, 6, dtype=torch.float64), keep_mask(LENGTHS, 7)
    got, A = mixing(x, keep).detach().numpy(), mixing.matrix(9).detach().numpy()
    for h in range(3):
        channels = slice(2 * h, 2 * h + 2)
        expected = loop_mixing(x.numpy()[..., channels], A[h], mixing.b.detach().numpy(), LENGTHS, causal)
        np.testing.assert_allclose(got[..., channels], expected, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_a_toeplitz_matrix_has_one_weight_per_offset(causal):
    mixing = TOKEN_MIXING["toeplitz"](4, 9, causal, ResMLPConfig())
    with torch.no_grad():
        mixing.a.normal_()
    A = mixing.matrix(6)[0]
    for i, j in np.ndindex(6, 6):
        offset = i - j
        assert A[i, j] == (0 if causal and offset < 0 else mixing.a[0, offset + (0 if causal else 8)])


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("causal", [False, True])
def test_toeplitz_linear_mixing_is_linear_mixing_with_the_summed_matrix(causal, heads):
    torch.manual_seed(0)
    toeplitz_linear, linear = (
        TOKEN_MIXING[name](4, 9, causal, ResMLPConfig(mixing_heads=heads)) for name in ("toeplitz_linear", "linear")
    )
    with torch.no_grad():
        for parameter in toeplitz_linear.parameters():
            parameter.normal_()
        offsets = TOKEN_MIXING["toeplitz"](4, 9, causal, ResMLPConfig(mixing_heads=heads))
        offsets.a.copy_(toeplitz_linear.a)
        linear.A.copy_((offsets.matrix(9) + toeplitz_linear.A / 8).view_as(linear.A))
        linear.b.copy_(toeplitz_linear.b)
    x, keep = torch.randn(7, 3, 4), keep_mask(LENGTHS, 7)
    torch.testing.assert_close(toeplitz_linear(x, keep), linear(x, keep))


@pytest.mark.parametrize("causal", [False, True])
def test_conv_mixing_is_a_depthwise_convolution(causal):
    torch.manual_seed(0)
    mixing = TOKEN_MIXING["conv"](4, 9, causal, ResMLPConfig(mixing_kernel=3)).double()
    with torch.no_grad():
        mixing.weight.normal_()
    x, keep = torch.randn(7, 3, 4, dtype=torch.float64), keep_mask(LENGTHS, 7)
    got, weight = mixing(x, keep).detach().numpy(), mixing.weight.detach().numpy()
    for t, s, c in np.ndindex(*x.shape):
        positions = [t + k - (2 if causal else 1) for k in range(3)]
        terms = [weight[c, 0, k] * x.numpy()[j, s, c] for k, j in enumerate(positions) if 0 <= j < LENGTHS[s]]
        assert got[t, s, c] == pytest.approx(sum(terms), abs=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_mlp_mixing_is_two_layers_whose_units_belong_to_positions(causal):
    torch.manual_seed(0)
    mixing = TOKEN_MIXING["mlp"](4, 9, causal, ResMLPConfig()).double()
    with torch.no_grad():
        for parameter in mixing.parameters():
            parameter.normal_()
    x, keep = torch.randn(7, 3, 4, dtype=torch.float64), keep_mask(LENGTHS, 7)
    got, p = mixing(x, keep).detach().numpy(), numpy_parameters(mixing)
    for t, s, c in np.ndindex(*x.shape):
        y = p["b"][t]
        for unit in range(4 * LENGTHS[s]):
            seen = [j for j in range(LENGTHS[s]) if not causal or j <= unit // 4]
            z = p["b1"][unit] + sum(p["A1"][unit, j] * x.numpy()[j, s, c] for j in seen)
            if not causal or unit // 4 <= t:
                y += p["A2"][t, unit] * gelu(z)
        if t < LENGTHS[s]:
            assert got[t, s, c] == pytest.approx(y, abs=1e-9)


def test_padding_an_mlp_adds_trainable_units_and_keeps_the_old_ones():
    small = make_model(encoder_max_positions=14, token_mixing="mlp")
    with torch.no_grad():
        small.encoder.layers[0].mixing.A1[3] = 0.0
    large = make_model(seed=2, token_mixing="mlp")
    large.load_state_dict(small.state_dict())
    A1 = large.encoder.layers[0].mixing.A1.detach()
    assert torch.equal(A1[: 4 * 14, :14], small.encoder.layers[0].mixing.A1)
    assert (A1[4 * 14 :].view(10, 4, 24).diagonal(14, 0, 2) != 0).all()
