"""The first table of the report."""

import pytest

from fairseq_resmlp.evaluation.run_directory import find_run
from fairseq_resmlp.report.summary import HEAD, summary_row

CURVES = {
    "train": {"loss": ([100, 200], [3.0, 2.0]), "wps": ([300], [900.0])},
    "valid": {"ppl": ([100, 200, 250], [9.0, 7.125, 8.0])},
}


def make_run(directory, dictionaries):
    """A run directory, and dict.en.txt in another directory."""
    directory.mkdir(parents=True)
    (directory / "train.log").touch()
    place = directory / dictionaries
    place.mkdir(exist_ok=True)
    (place / "dict.en.txt").touch()
    return find_run(str(directory))


@pytest.mark.parametrize(
    ("dictionaries", "corpus"),
    [("../data-bin", "multi30k.en-de"), ("..", "multi30k.en-de"), (".", ""), ("data-bin", "")],
)
def test_the_corpus_is_the_directory_of_the_data(tmp_path, dictionaries, corpus):
    run = make_run(tmp_path / "multi30k.en-de" / "linear", dictionaries)
    assert dict(zip(HEAD, summary_row(run, {}, None, []))) == dict.fromkeys(HEAD, "") | {
        "run": "linear",
        "corpus": corpus,
    }


def test_the_lowest_perplexity_the_last_update_and_the_first_sacrebleu_are_shown(tmp_path):
    run = make_run(tmp_path / "linear", ".")
    scores = [
        ["linear", "test2016 (1,000 lines)", "tokenized BLEU", "38.0", ""],
        ["linear", "test2016 (1,000 lines)", "sacreBLEU", "36.7", ""],
        ["linear", "test2016, first 200 lines", "sacreBLEU", "35.1", ""],
    ]
    *_, perplexity, bleu, updates = summary_row(run, CURVES, None, scores)
    assert (perplexity, bleu, updates) == ("7.12", "36.7, test2016 (1,000 lines)", "300")
    assert summary_row(run, CURVES, None, scores[2:])[-2] == "35.1, test2016, first 200 lines"
