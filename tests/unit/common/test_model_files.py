"""A run directory, a model directory and a checkpoint lead to the same files."""

import pytest

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.model_files import find_model_files


@pytest.fixture
def runs(tmp_path):
    """A directory like runs/CORPUS of the scripts, with one run, and one of a table."""
    for name in ("data-bin/dict.de.txt", "spm.model", "small/checkpoints/checkpoint_best.pt", "small/average5.pt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "table/linear.1/checkpoints").mkdir(parents=True)
    (tmp_path / "table/linear.1/checkpoints/checkpoint_last.pt").touch()
    return tmp_path


LAST = "table/linear.1/checkpoints/checkpoint_last.pt"


@pytest.mark.parametrize(
    "path, home, checkpoint",
    [
        ("small", "small", "small/average5.pt"),
        ("small/average5.pt", "small", "small/average5.pt"),
        ("small/checkpoints", "small/checkpoints", "small/checkpoints/checkpoint_best.pt"),
        ("small/checkpoints/checkpoint_best.pt", "small", "small/checkpoints/checkpoint_best.pt"),
        ("table/linear.1", "table/linear.1", LAST),
        (LAST, "table/linear.1", LAST),
    ],
)
@pytest.mark.parametrize("start", [".", "small"])
def test_files_are_found_from_each_place_of_a_run(path, home, checkpoint, start, runs, monkeypatch):
    monkeypatch.chdir(runs / start)
    found = find_model_files(path if start == "." else f"../{path}")
    resolved = {name: (runs / start / value).resolve() for name, value in vars(found).items()}
    assert resolved == {
        "home": runs / home,
        "checkpoint": runs / checkpoint,
        "dictionaries": runs / "data-bin",
        "sentencepiece": runs / "spm.model",
    }


def test_files_next_to_the_checkpoint_come_first(runs, monkeypatch):
    for name in ("model.pt", "dict.en.txt", "sentencepiece.bpe.model"):
        (runs / "small/checkpoints" / name).touch()
    monkeypatch.chdir(runs / "small/checkpoints")
    for path in (".", "model.pt"):
        found = find_model_files(path)
        places = [(runs / "small/checkpoints" / (value or ".")).resolve().name for value in vars(found).values()]
        assert places[1:] == ["model.pt", "checkpoints", "sentencepiece.bpe.model"]


def test_the_error_says_what_was_looked_for(tmp_path):
    with pytest.raises(InputError) as error:
        find_model_files(str(tmp_path)).require_checkpoint(also=", and no config.json of an exported model")
    assert str(error.value) == (
        f"no model found in {tmp_path}: there is no average*.pt, model.pt, checkpoint_best.pt, checkpoint_last.pt, "
        "also not in checkpoints/, and no config.json of an exported model; specify a run directory, a model directory "
        "or a checkpoint"
    )
