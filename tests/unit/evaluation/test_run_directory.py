"""Run directories are found and named."""

import os

import pytest

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.evaluation.run_directory import find_run, find_runs


def test_runs_are_named_by_the_shortest_distinct_ends_of_their_paths(tmp_path):
    paths = [tmp_path / "en-de" / "small", tmp_path / "en-fr" / "small"]
    for path in paths:
        path.mkdir(parents=True)
        (path / "train.log").touch()
    assert [r.name for r in find_runs([str(paths[0])])] == ["small"]
    assert [r.name for r in find_runs(list(map(str, paths)))] == ["en-de/small", "en-fr/small"]
    with pytest.raises(InputError, match="given twice"):
        find_runs([str(paths[0])] * 2)


def test_a_checkpoint_stands_for_its_run_with_the_scores_of_the_averaged_one_only(tmp_path):
    for name in ("average5.pt", "checkpoints/checkpoint_best.pt", "train.log", "test/scores.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    scores = [str(tmp_path / "test" / "scores.json")]
    for path, expected in (("", scores), ("average5.pt", scores), ("checkpoints/checkpoint_best.pt", [])):
        run = find_run(str(tmp_path / path))
        assert [os.path.realpath(file) for file in run.scores] == expected
        assert len(run.logs) == 1 and run.checkpoint.endswith(path or "average5.pt")


def test_a_directory_without_checkpoint_logs_and_scores_is_rejected(tmp_path):
    with pytest.raises(InputError, match="is not a run directory: it has no checkpoint"):
        find_run(str(tmp_path))


@pytest.mark.parametrize("name", ["model.pt", "dict.en.txt", "sentencepiece.bpe.model"])
@pytest.mark.parametrize("kind", ["pipe", "directory", "dangling link"])
def test_files_that_cannot_be_read_are_named_without_opening_them(name, kind, tmp_path):
    for file in ("model.pt", "dict.en.txt", "dict.de.txt", "sentencepiece.bpe.model"):
        (tmp_path / file).touch()
    (tmp_path / name).unlink()
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    elif kind == "directory":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).symlink_to("nowhere")
    expected = "cannot read .*: No such file" if kind == "dangling link" else f"is a {kind}: specify a regular file"
    with pytest.raises(InputError, match=f"{name} {expected}" if kind != "dangling link" else expected):
        find_run(str(tmp_path)).load()


def test_an_invalid_sentencepiece_model_is_named(tmp_path):
    for file in ("model.pt", "dict.en.txt", "dict.de.txt", "sentencepiece.bpe.model"):
        (tmp_path / file).touch()
    with pytest.raises(InputError, match="sentencepiece.bpe.model is not a SentencePiece model"):
        find_run(str(tmp_path)).load()


def test_raw_text_that_is_a_pipe_is_refused_without_opening_it(tmp_path):
    for file in ("train.log", "spm.model", "test.de"):
        (tmp_path / file).touch()
    os.mkfifo(tmp_path / "test.en")
    with pytest.raises(InputError, match="test.en is a pipe: specify a regular file"):
        find_run(str(tmp_path)).text("test", ("en", "de"))
