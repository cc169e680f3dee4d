"""Run directories are found and named."""

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


def test_a_directory_without_checkpoint_logs_and_scores_is_rejected(tmp_path):
    with pytest.raises(InputError, match="is not a run directory: it has no checkpoint"):
        find_run(str(tmp_path))
