"""Shortlists contain the translations of each subword."""

import random

import pytest

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.data.shortlist_learning import learn_shortlist, read_pairs
from support.files import write_files


def make_bitext():
    """Return a bitext with one translation per word, in another order, and articles in every line."""
    rng, pairs = random.Random(1), []
    for _ in range(200):
        words = rng.sample(range(30), rng.randint(2, 6))
        pairs.append((f"the {' '.join(f's{i}' for i in words)}", f"{' '.join(f't{i}' for i in words[::-1])} der"))
    return [*pairs, ("", "Bob"), ("Bob", "Bob")]


def test_a_shortlist_contains_the_translation_of_every_subword():
    found = list(learn_shortlist(make_bitext(), first=1, best=1))
    assert found[0] == ("", ["der"])
    translations = {f"s{i}": [f"t{i}"] for i in range(30)}
    assert dict(found) == {"": ["der"], "the": ["der"], "Bob": ["Bob"], **translations}
    assert len(found) == len(dict(found))


def test_a_subword_of_both_languages_allows_itself():
    pairs = [("Bob", "Robert")] * 9 + [("x", "Bob"), ("Bob x", "Robert y")]
    found = dict(learn_shortlist(pairs, first=0, best=1))
    assert found[""] == [] and found["Bob"] == ["Robert", "Bob"]


def test_pairs_are_read_evenly_spaced_and_invalid_utf8_is_tolerated(tmp_path):
    numbered = "".join(f"{i}\u2028\n" for i in range(10)).encode()
    source, target = write_files(tmp_path, source=numbered, target=numbered.replace(b"9", b"\xff"))
    pairs = read_pairs(source, target, max_lines=100)
    assert len(pairs) == 10 and pairs[3] == ("3\u2028\n", "3\u2028\n") and pairs[9][1] == "\ufffd\u2028\n"
    assert [left[0] for left, _ in read_pairs(source, target, max_lines=5)] == ["0", "2", "4", "6", "8"]
    assert [left[0] for left, _ in read_pairs(source, target, max_lines=4)] == ["0", "3", "6", "9"]


def test_files_that_are_not_parallel_are_refused(tmp_path):
    source, target = write_files(tmp_path, source=b"one line\n", target=b"two\nlines\n")
    with pytest.raises(InputError, match="source has 1 lines and .*target has 2: they are not parallel"):
        read_pairs(source, target, max_lines=100)
