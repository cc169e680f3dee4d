"""Each statistic equals its definition, written out."""

import numpy as np
import pytest
import torch
from torch import nn

from fairseq_resmlp import ResMLPModel
from fairseq_resmlp.report import statistics
from support.models import make_model


def random_matrix(L, seed=0, causal=False):
    A = np.random.default_rng(seed).normal(size=(L, L))
    return np.tril(A) if causal else A


def pad_to(A, N):
    """Put A in the corner of N x N zeros."""
    return np.pad(A, (0, N - len(A)))


def constant_diagonals(L, seed=0):
    weights = np.random.default_rng(seed).normal(size=2 * L - 1)
    i, j = np.indices((L, L))
    return weights[j - i + L - 1]


def test_the_visited_length_is_that_of_the_longest_training_sentence(trained):
    _, task, (model,) = ResMLPModel.load(trained / "checkpoints", "checkpoint_last.pt", str(trained / "data-bin"))
    task.load_dataset("train")
    data = task.dataset("train")
    longest = {"encoder": int(max(data.src_sizes)), "decoder": int(max(data.tgt_sizes))}
    mixings = statistics.mixings(model)
    assert len(mixings) == 4
    assert [m.L for m in mixings] == [longest[m.stack] for m in mixings]
    assert all(len(m.A) > m.L for m in mixings)
    assert all(m.visited.shape == (m.L, m.L) for m in mixings)


def test_the_visited_length_of_weights_by_offset_is_the_longest_distance():
    i, j = np.indices((30, 30))
    band = (np.abs(j - i) <= 8) * 0.5
    assert statistics.visited_length(band) == 9
    assert statistics.visited_length(np.tril(band)) == 9
    assert statistics.visited_length(np.zeros((30, 30))) == 0
    assert statistics.visited_length(pad_to(random_matrix(7, causal=True), 30)) == 7
    assert statistics.visited_length(pad_to(random_matrix(29), 30)) == 29
    assert statistics.visited_length(random_matrix(30)) == 30


@pytest.mark.parametrize("causal", [False, True])
def test_the_visited_length_of_offsets_plus_entries_is_that_of_the_entries(causal):
    i, j = np.indices((30, 30))
    A = (np.abs(j - i) <= 8) * (0.5 + pad_to(random_matrix(20), 30))
    assert statistics.visited_length(np.tril(A) if causal else A) == 20


def test_the_convolution_share_is_that_of_the_least_squares_fit():
    A = random_matrix(9) + 2 * constant_diagonals(9)
    i, j = np.indices(A.shape)
    basis = np.stack([(j - i == k).ravel() for k in range(-8, 9)], 1).astype(float)
    best = basis @ np.linalg.lstsq(basis, A.ravel(), rcond=None)[0]
    unexplained = ((A.ravel() - best) ** 2).sum() / (A**2).sum()
    assert 0.1 < unexplained < 0.9
    assert statistics.convolution_share(A) == pytest.approx(1 - unexplained)
    assert statistics.convolution_share(constant_diagonals(9)) == pytest.approx(1)
    assert np.isnan(statistics.convolution_share(np.zeros((4, 4))))
    assert statistics.convolution_by_length(A)[3] == pytest.approx(statistics.convolution_share(A[:5, :5]))
    assert len(statistics.convolution_by_length(A)) == 8


@pytest.mark.parametrize("causal", [False, True])
def test_offsets_are_relative_to_the_output_position(causal):
    A = random_matrix(6, causal=causal)
    offsets = statistics.by_offset(A, causal)
    assert list(offsets.offset) == list(range(-5, 1 if causal else 6))
    for k, mean, deviation in zip(*offsets):
        weights = [A[i, i + k] for i in range(6) if 0 <= i + k < 6]
        assert mean == pytest.approx(np.mean(weights))
        assert deviation == pytest.approx(np.std(weights))


def test_distance_and_direction_are_weighted_by_energy():
    A = np.zeros((5, 5))
    A[4, 1], A[2, 2], A[0, 1] = 2.0, 1.0, -1.0  # three positions behind, none, one ahead
    assert statistics.mean_distance(A) == pytest.approx((4 * 3 + 0 + 1) / 6)
    assert statistics.directions(A) == pytest.approx({"behind": 4 / 6, "here": 1 / 6, "ahead": 1 / 6})


def test_small_entries_are_below_a_fraction_of_the_largest():
    weight = np.array([[-2.0, 0.09], [0.11, 0.0]])  # 5% of the largest is 0.1
    assert statistics.sparsity(weight) == 0.5
    assert statistics.sparsity(weight, threshold=0.5) == 0.75
    assert statistics.sparsity(np.tril(np.ones((4, 4))), causal=True) == 0  # the zeros above the diagonal do not count
    assert statistics.sparsity(np.zeros((3, 3))) == 1


def test_sparsity_of_the_visited_positions_differs_from_that_of_all_of_A():
    model = make_model()
    with torch.no_grad():
        for layer in [*model.encoder.layers, *model.decoder.layers]:
            layer.mixing.A.zero_()
            layer.mixing.A[:4, :4] = 1.0
        model.encoder.layers[1].ffn.B.weight.fill_(1.0)[0, :8] = 0.01
    layers = {(s.stack, s.layer): s for s in statistics.sparsities(model)}
    N = 24
    assert layers["encoder", 1].A_visited == layers["decoder", 2].A_visited == 0
    assert layers["encoder", 1].A_all == pytest.approx(1 - 16 / N**2)
    assert layers["decoder", 2].A_all == pytest.approx(1 - 10 / (N * (N + 1) / 2))
    assert layers["encoder", 2].B == 8 / (32 * 16)
    assert list(layers) == [(stack, layer) for stack in ("encoder", "decoder") for layer in (1, 2)]


def test_the_decoders_matrix_is_lower_triangular():
    model = make_model()  # its parameters are random above the diagonal, too
    for mixing in statistics.mixings(model):
        assert mixing.causal == (mixing.stack == "decoder")
        assert np.triu(mixing.A, 1).any() != mixing.causal


def test_each_head_has_its_own_matrix():
    class Heads(nn.Module):
        def matrix(self, T):
            return torch.stack([torch.full((T, T), value) for value in (1.0, 2.0)])

    model = make_model(encoder_layers=1)
    model.encoder.layers[0].mixing = Heads()
    first, second, *_ = statistics.mixings(model)
    assert (first.name, second.name) == ("encoder layer 1, head 1", "encoder layer 1, head 2")
    assert (second.A == 2).all() and second.A.shape == (24, 24)


def test_without_A_only_the_feed_forward_layers_have_a_sparsity():
    model = make_model(token_mixing="none")
    assert statistics.mixings(model) == []
    assert all(s.A_visited is None and s.A_all is None and 0 <= s.B < 1 for s in statistics.sparsities(model))


@pytest.mark.parametrize("normalization", ["affine", "layer"])
def test_scales_cover_every_place_around_the_sublayers(normalization):
    model = make_model(normalization=normalization)
    scales = statistics.scales(model)
    assert {(s.stack, s.sublayer, s.place) for s in scales} == {
        (stack, sublayer, place)
        for stack, sublayers in (("encoder", ("mixing", "ffn")), ("decoder", ("mixing", "attention", "ffn")))
        for sublayer in sublayers
        for place in ("pre", "post")
    }
    one = next(s for s in scales if (s.stack, s.layer, s.sublayer, s.place) == ("decoder", 2, "attention", "post"))
    assert np.allclose(one.alpha, model.decoder.layers[1].attention_post.alpha.detach())
