"""The report on image models: rows of A as images, weights per two-dimensional offset, and accuracy."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from fairseq_resmlp.cli.main import main
from fairseq_resmlp.report import plots, statistics
from fairseq_resmlp.vision.published_weights import convert, to_published
from support.images import make_image_model


def grid_matrix(side, weights):
    """The matrix of patches with one weight per offset: weights[row + side - 1, column + side - 1]."""
    A = np.empty((side * side, side * side))
    for i, j in np.ndindex(A.shape):
        (row, column), (other_row, other_column) = divmod(i, side), divmod(j, side)
        A[i, j] = weights[other_row - row + side - 1, other_column - column + side - 1]
    return A


def test_a_convolution_is_explained_by_one_weight_per_offset():
    A = grid_matrix(4, np.random.RandomState(0).normal(size=(7, 7)))
    assert statistics.grid_convolution_share(A) == pytest.approx(1)
    assert statistics.convolution_share(A) < 0.9  # offsets along the rows do not explain it


def test_the_share_is_that_of_the_least_squares_fit():
    A = np.random.RandomState(1).normal(size=(9, 9)) + grid_matrix(3, np.random.RandomState(2).normal(size=(5, 5)))
    designs = []
    for offset in np.ndindex(5, 5):
        weights = np.zeros((5, 5))
        weights[offset] = 1
        designs.append(grid_matrix(3, weights).ravel())
    design = np.array(designs).T
    fit = design @ np.linalg.lstsq(design, A.ravel())[0]
    assert statistics.grid_convolution_share(A) == pytest.approx((fit**2).sum() / (A**2).sum())


def test_random_entries_have_the_share_of_noise():
    rng = np.random.RandomState(0)
    shares = [statistics.grid_convolution_share(rng.normal(size=(49, 49))) for _ in range(200)]
    assert np.mean(shares) == pytest.approx(statistics.grid_share_of_noise(49), rel=0.02)


def test_one_row_for_all_patches_explains_its_share():
    A = np.random.RandomState(0).normal(size=(9, 9))
    assert statistics.mean_row_share(np.tile(A[0], (9, 1))) == pytest.approx(1)
    left = ((A - A.mean(0)) ** 2).sum() / (A**2).sum()
    assert statistics.mean_row_share(A) == pytest.approx(1 - left)


def test_each_row_is_an_image_at_the_place_of_its_patch():
    A = np.random.RandomState(0).normal(size=(9, 9))
    figure = plots.patch_rows(statistics.Mixing("encoder", 1, 1, 1, False, A))
    mosaic = np.asarray(figure.axes[0].images[0].get_array())
    for patch in range(9):
        row, column = divmod(patch, 3)
        tile = mosaic[3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        assert np.array_equal(tile, A[patch].reshape(3, 3))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report on an image model, and the output of the command."""
    directory = tmp_path_factory.mktemp("run")
    weights = to_published(make_image_model().state_dict(), "timm")
    torch.save(weights, directory / "published.pth")
    convert(str(directory / "published.pth"), str(directory / "model.pt"))
    stats = '{{"{0}loss": "2", "{0}ppl": "3", "{0}accuracy": "{1}", "{0}num_updates": "{2}"}}'
    lines = [
        f"x | INFO | valid | {stats.format('valid_', 41.5, 10)}",
        f"x | INFO | train_inner | {stats.format('', 9, 5)}",
    ]
    (directory / "train.log").write_text("\n".join(lines))
    done = CliRunner().invoke(main, ["report", str(directory), "--out", str(directory / "out")])
    assert done.exit_code == 0, done.output
    return directory, done.output


def test_the_report_shows_the_a_of_each_layer(report):
    directory, _ = report
    model = make_image_model()
    for layer in (1, 2):
        (file,) = (directory / "out").glob(f"*.patches.encoder-layer-{layer}.json")
        expected = model.encoder.layers[layer - 1].mixing.A.detach().double().numpy()
        assert np.allclose(json.loads(file.read_text())["A"], expected, rtol=1e-4, atol=1e-6)
        assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    (table,) = (directory / "out").glob("*.layers.json")
    shares = (statistics.grid_convolution_share(expected), statistics.mean_row_share(expected))
    assert json.loads(table.read_text())["rows"][1] == ["encoder layer 2", *(f"{100 * share:.0f}%" for share in shares)]
    assert len(list((directory / "out").glob("*.sparsity.png"))) == 1
    assert len(list((directory / "out").glob("*.scales.post.png"))) == 1


def test_the_report_shows_accuracy_and_asks_for_nothing_of_translations(report):
    directory, output = report
    summary = json.loads((directory / "out" / "summary.table.json").read_text())
    assert dict(zip(summary["head"], summary["rows"][0]))["best validation accuracy"] == "41.5%"
    curves = json.loads((directory / "out" / "training.accuracy.json").read_text())["lines"]
    assert [curve["values"] for curve in curves] == [[9], [41.5]]
    assert not any(word in output for word in ("BLEU", "scores.json", "dict"))
