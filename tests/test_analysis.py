"""The numbers behind the report: each against its definition, written out."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import ROOT, make_model, run, train_options
from torch import nn

from fairseq_resmlp import ResMLPModel, analysis, checkpoint, curves
from fairseq_resmlp.cli import main
from fairseq_resmlp.errors import InputError
from fairseq_resmlp.pruning import feed_forward_weights, mixing_weights, prune
from fairseq_resmlp.run_folder import find, find_all

STORED = ROOT / "tests" / "stored"


def random_matrix(L, seed=0, causal=False):
    A = np.random.default_rng(seed).normal(size=(L, L))
    return np.tril(A) if causal else A


def embedded(A, N):
    """A in the corner of N x N zeros."""
    return np.pad(A, (0, N - len(A)))


def constant_diagonals(L, seed=0):
    weights = np.random.default_rng(seed).normal(size=2 * L - 1)
    i, j = np.indices((L, L))
    return weights[j - i + L - 1]


def test_the_visited_length_is_that_of_the_longest_sentence_in_training(trained):
    _, task, (model,) = ResMLPModel.load(trained / "checkpoints", "checkpoint_last.pt", str(trained / "data-bin"))
    task.load_dataset("train")
    data = task.dataset("train")
    longest = {"encoder": int(max(data.src_sizes)), "decoder": int(max(data.tgt_sizes))}
    found = analysis.mixings(model)
    assert len(found) == 4
    assert [m.L for m in found] == [longest[m.stack] for m in found]
    assert all(len(m.A) > m.L for m in found)
    assert all(m.visited.shape == (m.L, m.L) for m in found)


def test_the_visited_length_of_weights_by_offset_is_the_longest_distance():
    i, j = np.indices((30, 30))
    band = (np.abs(j - i) <= 8) * 0.5
    assert analysis.visited_length(band) == 9
    assert analysis.visited_length(np.tril(band)) == 9
    assert analysis.visited_length(np.zeros((30, 30))) == 0
    assert analysis.visited_length(embedded(random_matrix(7, causal=True), 30)) == 7
    assert analysis.visited_length(embedded(random_matrix(29), 30)) == 29
    assert analysis.visited_length(random_matrix(30)) == 30


@pytest.mark.parametrize("causal", [False, True])
def test_the_visited_length_of_offsets_and_entries_is_that_of_the_entries(causal):
    i, j = np.indices((30, 30))
    A = (np.abs(j - i) <= 8) * (0.5 + embedded(random_matrix(20), 30))
    assert analysis.visited_length(np.tril(A) if causal else A) == 20


def test_one_weight_an_offset_explains_what_the_best_such_matrix_does():
    A = random_matrix(9) + 2 * constant_diagonals(9)
    i, j = np.indices(A.shape)
    basis = np.stack([(j - i == k).ravel() for k in range(-8, 9)], 1).astype(float)
    best = basis @ np.linalg.lstsq(basis, A.ravel(), rcond=None)[0]
    left = ((A.ravel() - best) ** 2).sum() / (A**2).sum()
    assert 0.1 < left < 0.9
    assert analysis.convolution_share(A) == pytest.approx(1 - left)
    assert analysis.convolution_share(constant_diagonals(9)) == pytest.approx(1)
    assert np.isnan(analysis.convolution_share(np.zeros((4, 4))))
    assert analysis.convolution_by_length(A)[3] == pytest.approx(analysis.convolution_share(A[:5, :5]))
    assert len(analysis.convolution_by_length(A)) == 8


@pytest.mark.parametrize("causal", [False, True])
def test_offsets_count_from_the_position_that_is_written(causal):
    A = random_matrix(6, causal=causal)
    found = analysis.by_offset(A, causal)
    assert list(found.offset) == list(range(-5, 1 if causal else 6))
    for k, mean, deviation in zip(*found):
        weights = [A[i, i + k] for i in range(6) if 0 <= i + k < 6]
        assert mean == pytest.approx(np.mean(weights))
        assert deviation == pytest.approx(np.std(weights))


def test_distance_and_direction_are_those_of_the_energy():
    A = np.zeros((5, 5))
    A[4, 1], A[2, 2], A[0, 1] = 2.0, 1.0, -1.0  # three back, none, one ahead
    assert analysis.mean_distance(A) == pytest.approx((4 * 3 + 0 + 1) / 6)
    assert analysis.directions(A) == pytest.approx({"behind": 4 / 6, "here": 1 / 6, "ahead": 1 / 6})


def test_small_entries_are_those_under_a_share_of_the_largest():
    weight = np.array([[-2.0, 0.09], [0.11, 0.0]])  # 5% of the largest is 0.1
    assert analysis.sparsity(weight) == 0.5
    assert analysis.sparsity(weight, threshold=0.5) == 0.75
    # Of a triangle, what is zero by design does not count.
    assert analysis.sparsity(np.tril(np.ones((4, 4))), causal=True) == 0
    assert analysis.sparsity(np.zeros((3, 3))) == 1


def test_sparsity_tells_what_training_visited_from_all_of_A():
    model = make_model()
    with torch.no_grad():
        for layer in [*model.encoder.layers, *model.decoder.layers]:
            layer.mixing.A.zero_()
            layer.mixing.A[:4, :4] = 1.0
        model.encoder.layers[1].ffn.B.weight.fill_(1.0)[0, :8] = 0.01
    found = {(f.stack, f.layer): f for f in analysis.sparsities(model)}
    N = 24
    assert found["encoder", 1].A_visited == found["decoder", 2].A_visited == 0
    assert found["encoder", 1].A_all == pytest.approx(1 - 16 / N**2)
    assert found["decoder", 2].A_all == pytest.approx(1 - 10 / (N * (N + 1) / 2))
    assert found["encoder", 2].B == 8 / (32 * 16)
    assert list(found) == [(stack, layer) for stack in ("encoder", "decoder") for layer in (1, 2)]


def test_the_decoders_matrix_is_the_triangle_that_it_applies():
    model = make_model()  # randomised above the diagonal, too, where forward cuts it
    for mixing in analysis.mixings(model):
        assert mixing.causal == (mixing.stack == "decoder")
        assert np.triu(mixing.A, 1).any() != mixing.causal


def test_each_head_has_its_matrix():
    class Heads(nn.Module):
        def matrix(self, T):
            return torch.stack([torch.full((T, T), value) for value in (1.0, 2.0)])

    model = make_model(encoder_layers=1)
    model.encoder.layers[0].mixing = Heads()
    first, second, *_ = analysis.mixings(model)
    assert (first.name, second.name) == ("encoder layer 1, head 1", "encoder layer 1, head 2")
    assert (second.A == 2).all() and second.A.shape == (24, 24)


def test_a_model_without_matrices_has_none_but_its_feed_forward_layers():
    model = make_model(token_mixing="none")
    assert analysis.mixings(model) == []
    assert all(f.A_visited is None and f.A_all is None and 0 <= f.B < 1 for f in analysis.sparsities(model))
    with pytest.raises(InputError, match="no A to prune: its --token-mixing is none of"):
        mixing_weights(model)


@pytest.mark.parametrize("normalization", ["affine", "layer"])
def test_every_scale_is_told_with_its_place(normalization):
    model = make_model(normalization=normalization)
    found = analysis.scales(model)
    assert {(s.stack, s.sublayer, s.place) for s in found} == {
        (stack, sublayer, place)
        for stack, sublayers in (("encoder", ("mixing", "ffn")), ("decoder", ("mixing", "attention", "ffn")))
        for sublayer in sublayers
        for place in ("pre", "post")
    }
    one = next(s for s in found if (s.stack, s.layer, s.sublayer, s.place) == ("decoder", 2, "attention", "post"))
    assert np.allclose(one.alpha, model.decoder.layers[1].attention_post.alpha.detach())


def test_of_a_toeplitz_layer_offsets_are_pruned():
    model = make_model(token_mixing="toeplitz", mixing_heads=2)
    mixing = model.encoder.layers[0].mixing
    with torch.no_grad():
        mixing.a.copy_(torch.linspace(1, 0.5, mixing.a.size(1)) * torch.tensor([[1.0], [0.1]]))
    prune(mixing_weights(model), 0.9)
    kept = mixing.matrix(24) != 0  # each head is measured by its own largest
    assert torch.equal(kept[0], kept[1])
    offsets = torch.arange(24).unsqueeze(1) - torch.arange(24)
    assert torch.equal(kept[0], offsets <= offsets.min() + 9)


def test_of_a_toeplitz_linear_layer_entries_of_a_as_a_whole_are_pruned():
    model = make_model(token_mixing="toeplitz_linear")
    mixings = [layer.mixing for layer in (*model.encoder.layers, *model.decoder.layers)]
    before = [mixing.matrix(24).detach() for mixing in mixings]
    weights = mixing_weights(model)
    assert all(torch.equal(mixing.matrix(24), A) for mixing, A in zip(mixings, before))
    prune(weights, 0.3)
    for mixing, A in zip(mixings, before):
        small = A.abs() < 0.3 * A.abs().max()
        assert small.any() and torch.equal(mixing.matrix(24), A.masked_fill(small, 0))


def test_pruning_counts_only_what_was_there():
    weight = torch.zeros(6, 6)
    weight[:2, :2] = torch.tensor([[1.0, -0.3], [0.2, -0.04]])
    assert prune([weight.clone()], 0) == 0
    assert prune([weight], 0.25) == 0.5
    assert weight[:2, :2].tolist() == [[1, pytest.approx(-0.3)], [0, 0]]
    # Each matrix, and each head of one, is measured by its own largest entry.
    heads = torch.tensor([[[1.0, 0.2]], [[0.1, 0.02]]])
    prune([heads], 0.3)
    assert heads.ne(0).tolist() == [[[True, False]], [[True, False]]]
    for threshold in (-0.1, 1.5):
        with pytest.raises(InputError, match="from 0 to 1"):
            prune([weight], threshold)


def test_a_pruned_model_is_the_one_pruned_by_hand(tmp_path):
    """At load and at export: the same entries, and nothing else, are zero."""
    state = checkpoint.read(str(STORED / "model.pt"))
    removed = 0
    for name, value in state["model"].items():
        if name.endswith("mixing.A"):
            small = value.abs() < 0.3 * value.abs().max()
            removed += int((small & (value != 0)).sum())
            value[small] = 0
    assert removed > 100
    hand, folders = tmp_path / "hand", {}
    hand.mkdir()
    for file in ("dict.en.txt", "dict.de.txt", "sentencepiece.bpe.model"):
        (hand / file).write_bytes((STORED / file).read_bytes())
    checkpoint.write(state, str(hand / "model.pt"))
    for name, model, options in (
        ("hand", hand, []),
        ("option", STORED, ["--prune-mixing", "0.3"]),
        ("none", STORED, []),
    ):
        folders[name] = tmp_path / f"{name}.exported"
        done = CliRunner().invoke(main, ["export", str(model), str(folders[name]), *options])
        assert done.exit_code == 0, done.output
    weights = {name: {f.name: f.read_bytes() for f in folder.iterdir()} for name, folder in folders.items()}
    assert weights["hand"] == weights["option"] != weights["none"]

    lines = ["Two women said that a child bought the book."]
    loaded = ResMLPModel.from_pretrained(STORED, prune_mixing=0.3)
    by_hand = ResMLPModel.from_pretrained(hand)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), by_hand.parameters()))
    assert loaded.translate(lines) == by_hand.translate(lines)


def test_feed_forward_weights_are_B_and_C():
    model = make_model()
    shapes = [tuple(weight.shape) for weight in feed_forward_weights(model)]
    assert shapes == [(32, 16), (16, 32)] * 4


@pytest.mark.parametrize("form", ["json", "simple"])
def test_curves_are_the_same_from_lines_and_from_tensorboard(toy, tmp_path, form):
    options = [*train_options(toy / "data-bin", tmp_path / "checkpoints"), "--max-epoch", "2", "--log-interval", "3"]
    logs = ["--log-format", form, "--log-file", tmp_path / "train.log", "--tensorboard-logdir", tmp_path / "events"]
    run("fairseq-train", *options, *logs, "--no-save")
    found = find(str(tmp_path))
    assert found.logs and len(found.events) == 3
    by_events = curves.read(found)
    found.events = []
    by_lines = curves.read(found)
    assert set(by_events) == set(by_lines) == {"train", "valid"}
    assert {"loss", "ppl", "lr", "gnorm", "wps"} <= set(by_lines["train"])
    for split, metrics in by_lines.items():
        for name, (updates, values) in metrics.items():
            assert updates == by_events[split][name][0] == sorted(updates)
            assert values == pytest.approx(by_events[split][name][1], rel=1e-5)
    assert len(by_lines["train"]["loss"][0]) > len(by_lines["valid"]["loss"][0]) == 2


def test_a_log_of_a_resumed_and_killed_training_is_read_as_far_as_it_goes(tmp_path):
    simple = [
        "x | INFO | train_inner | epoch 001:  10 / 500 loss=9, nll_loss=9.402, wps=inf, num_updates=10, wall=4",
        "x | INFO | train_inner | epoch 001:  20 / 500 loss=8, num_updates=20",
        "Traceback | INFO | train_inner | epoch of something else",
        "x | INFO | train_inner | epoch 001:  20 / 500 loss=7, num_updates=20",
        "x | INFO | valid | epoch 001 | valid on 'valid' subset | loss 6.5 | bleu 12.5 | num_updates 20 | best 6.5",
        "x | INFO | train_inner | epoch 001:  30 / 500 lo",
    ]
    lines = [
        'x | INFO | train_inner | {"epoch": 1, "loss": "9", "num_updates": "10", "wps": "inf"}',
        'x | INFO | train_inner | {"epoch": 1, "loss": "8", "num_updates": "20"}',
        "Traceback {of something else",
        'x | INFO | train_inner | {"epoch": 1, "loss": "7", "num_updates": "20"}',
        'x | INFO | valid | {"epoch": 1, "valid_loss": "6.5", "valid_bleu": "12.5", "valid_num_updates": "20"}',
        'x | INFO | train_inner | {"epoch": 1, "lo',
    ]
    for log in (lines, simple):
        (tmp_path / "train.log").write_text("\n".join(log))
        assert curves.read(find(str(tmp_path))) == {
            "train": {"loss": ([10, 20], [9, 7])},
            "valid": {"loss": ([20], [6.5]), "bleu": ([20], [12.5])},
        }
    (tmp_path / "train.log").write_text("nothing of use")
    with pytest.raises(InputError, match="no training log in .*--tensorboard-logdir .*--log-format simple"):
        curves.read(find(str(tmp_path)))


def test_runs_are_named_by_as_much_of_their_paths_as_tells_them_apart(tmp_path):
    paths = [tmp_path / "en-de" / "small", tmp_path / "en-fr" / "small"]
    for path in paths:
        path.mkdir(parents=True)
        (path / "train.log").touch()
    assert [r.name for r in find_all([str(paths[0])])] == ["small"]
    assert [r.name for r in find_all(list(map(str, paths)))] == ["en-de/small", "en-fr/small"]
    with pytest.raises(InputError, match="named twice"):
        find_all([str(paths[0])] * 2)
    with pytest.raises(InputError, match="is no run folder: it has no checkpoint"):
        find(str(tmp_path))
