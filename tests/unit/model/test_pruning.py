"""Small weights are set to zero in memory, at loading and at export."""

import pytest
import torch
from click.testing import CliRunner

from fairseq_resmlp import ResMLPModel
from fairseq_resmlp.checkpoints.checkpoint_file import read_checkpoint, write_checkpoint
from fairseq_resmlp.cli.main import main
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.model.pruning import feed_forward_weights, mixing_weights, prune
from support.models import make_model
from support.paths import GOLDEN


def test_the_removed_fraction_is_relative_to_the_nonzero_entries():
    weight = torch.zeros(6, 6)
    weight[:2, :2] = torch.tensor([[1.0, -0.3], [0.2, -0.04]])
    assert prune([weight.clone()], 0) == 0
    assert prune([weight], 0.25) == 0.5
    assert weight[:2, :2].tolist() == [[1, pytest.approx(-0.3)], [0, 0]]


def test_the_threshold_is_relative_to_the_largest_entry_of_each_head():
    heads = torch.tensor([[[1.0, 0.2]], [[0.1, 0.02]]])
    prune([heads], 0.3)
    assert heads.ne(0).tolist() == [[[True, False]], [[True, False]]]


@pytest.mark.parametrize("threshold", [-0.1, 1.5])
def test_a_threshold_out_of_range_is_rejected(threshold):
    with pytest.raises(InputError, match="use a fraction of the largest entry, 0 to 1"):
        prune([torch.ones(2, 2)], threshold)


def test_a_toeplitz_layer_is_pruned_by_offset():
    model = make_model(token_mixing="toeplitz", mixing_heads=2)
    mixing = model.encoder.layers[0].mixing
    with torch.no_grad():
        mixing.a.copy_(torch.linspace(1, 0.5, mixing.a.size(1)) * torch.tensor([[1.0], [0.1]]))
    prune(mixing_weights(model), 0.9)
    kept = mixing.matrix(24) != 0  # the threshold is relative to the largest entry of each head
    assert torch.equal(kept[0], kept[1])
    offsets = torch.arange(24).unsqueeze(1) - torch.arange(24)
    assert torch.equal(kept[0], offsets <= offsets.min() + 9)


def test_a_toeplitz_linear_layer_is_pruned_by_entry_of_the_whole_matrix():
    model = make_model(token_mixing="toeplitz_linear")
    mixings = [layer.mixing for layer in (*model.encoder.layers, *model.decoder.layers)]
    before = [mixing.matrix(24).detach() for mixing in mixings]
    weights = mixing_weights(model)
    assert all(torch.equal(mixing.matrix(24), A) for mixing, A in zip(mixings, before))
    prune(weights, 0.3)
    for mixing, A in zip(mixings, before):
        small = A.abs() < 0.3 * A.abs().max()
        assert small.any() and torch.equal(mixing.matrix(24), A.masked_fill(small, 0))


def test_feed_forward_weights_are_B_and_C():
    model = make_model()
    shapes = [tuple(weight.shape) for weight in feed_forward_weights(model)]
    assert shapes == [(32, 16), (16, 32)] * 4


def test_a_model_without_A_cannot_be_pruned():
    with pytest.raises(InputError, match="no A to prune: its --token-mixing is not linear"):
        mixing_weights(make_model(token_mixing="none"))


def test_a_pruned_model_equals_one_whose_checkpoint_was_pruned_by_hand(tmp_path):
    state = read_checkpoint(str(GOLDEN / "model.pt"))
    removed = 0
    for name, value in state["model"].items():
        if name.endswith("mixing.A"):
            small = value.abs() < 0.3 * value.abs().max()
            removed += int((small & (value != 0)).sum())
            value[small] = 0
    assert removed > 100
    pruned_by_hand = tmp_path / "pruned_by_hand"
    pruned_by_hand.mkdir()
    for file in ("dict.en.txt", "dict.de.txt", "sentencepiece.bpe.model"):
        (pruned_by_hand / file).write_bytes((GOLDEN / file).read_bytes())
    write_checkpoint(state, str(pruned_by_hand / "model.pt"))
    exported = {}
    for name, model, options in (
        ("by hand", pruned_by_hand, []),
        ("by option", GOLDEN, ["--prune-mixing", "0.3"]),
        ("unpruned", GOLDEN, []),
    ):
        directory = tmp_path / f"{name}.exported"
        done = CliRunner().invoke(main, ["export", str(model), str(directory), *options])
        assert done.exit_code == 0, done.output
        exported[name] = {file.name: file.read_bytes() for file in directory.iterdir()}
    assert exported["by hand"] == exported["by option"] != exported["unpruned"]

    lines = ["Two women said that a child bought the book."]
    by_option = ResMLPModel.from_pretrained(GOLDEN, prune_mixing=0.3)
    by_hand = ResMLPModel.from_pretrained(pruned_by_hand)
    assert all(torch.equal(a, b) for a, b in zip(by_option.parameters(), by_hand.parameters()))
    assert by_option.translate(lines) == by_hand.translate(lines)
