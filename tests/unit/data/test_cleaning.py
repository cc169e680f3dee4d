"""Cleaning drops a sentence pair for the documented reasons only."""

from collections import Counter

import pytest

from fairseq_resmlp.data.cleaning import CleaningRules
from fairseq_resmlp.data.sentencepiece_files import SentencePieceEncoder, encode_files
from support.files import read_lines, write_files
from support.paths import GOLDEN

MODEL = GOLDEN / "sentencepiece.bpe.model"
PAIRS = [  # ▁das is one token of the model
    (b"das", b"das", None),
    (b"", b"das", "empty"),
    (b"das", b" \xe2\x80\xa8\t", "empty"),
    (b"das", b"da\xff", "invalid UTF-8"),
    (b"das " * 250, b"das " * 250, None),
    (b"das " * 251, b"das " * 250, "longer than 250 tokens"),
    (b"das " * 2, b"das " * 3, None),
    (b"das " * 3, b"das " * 2, None),
    (b"das " * 4, b"das " * 2, "length ratio above 1.5"),
    (b"das " * 11, b"das " * 17, "length ratio above 1.5"),
]


def test_cleaning_drops_pairs_from_both_sides_and_counts_the_reasons(tmp_path):
    sides = {name: b"".join(pair[i] + b"\n" for pair in PAIRS) for i, name in enumerate("ab")}
    outs = [tmp_path / "a.out", tmp_path / "b.out"]
    kept, dropped, _ = encode_files(
        write_files(tmp_path, **sides), list(map(str, outs)), str(MODEL), workers=1, cleaning=CleaningRules()
    )
    reasons = [reason for _, _, reason in PAIRS if reason]
    assert (kept, dropped) == (4, {reason: reasons.count(reason) for reason in reasons})
    for i, out in enumerate(outs):
        expected = [" ".join(["▁das"] * pair[i].count(b"das")) for pair in PAIRS if pair[2] is None]
        assert read_lines(out) == expected


@pytest.mark.parametrize(
    ("rules", "sides", "reason"),
    [
        ({}, ("a b", "a b c"), None),
        ({"max_length": 2}, ("a b c", "a b"), "longer than 2 tokens"),
        ({"max_length": 3}, ("a b c", "a b"), None),
        ({"max_ratio": 3}, ("a b c", "a"), None),
        ({"max_ratio": 2.5}, ("a b c", "a"), "length ratio above 2.5"),
    ],
    ids=str,
)
def test_the_limits_are_configurable(rules, sides, reason):
    assert CleaningRules(**rules).reason_to_drop(*sides) == reason
    assert CleaningRules(**rules).reason_to_drop(*reversed(sides)) == reason


def test_a_share_of_the_pairs_is_joined_with_neighbours_in_order():
    pairs = [(f"s{i}", f"t{i}") for i in range(9000)]
    rules = CleaningRules(join_share=0.3)
    groups = list(rules.group_neighbours(pairs, seed=1))
    assert [pair for group in groups for pair in group] == pairs
    sizes = Counter(map(len, groups))
    assert set(sizes) == {1, 2, 3, 4}
    assert 1 - sizes[1] / len(pairs) == pytest.approx(0.3, abs=0.03)
    assert sizes[2] == pytest.approx(sizes[4], rel=0.2)
    assert groups == list(rules.group_neighbours(pairs, seed=1)) != list(rules.group_neighbours(pairs, seed=2))
    assert all(len(group) > 1 for group in list(CleaningRules(join_share=1).group_neighbours(pairs, seed=1))[:-1])


def test_joined_lines_are_not_longer_than_the_limit():
    pairs = [("a a", "b"), ("a", "b b b"), ("a a a", "b"), ("a", "b")]
    groups = list(CleaningRules(max_length=4, join_share=1).group_neighbours(pairs, seed=1))
    assert [len(group) for group in groups] == [2, 2]


def test_joined_lines_have_the_subwords_of_their_sentences_on_any_number_of_workers(tmp_path):
    lines = [f"das Haus {i} sieht" for i in range(5500)]  # more than a block
    files = write_files(tmp_path, a="".join(f"{line}\n" for line in lines), b="das alte Haus\n" * 5500)
    found = []
    for workers in (1, 2):
        outs = [str(tmp_path / f"{name}{workers}") for name in "ab"]
        rules = CleaningRules(max_ratio=9, join_share=0.5)
        written, _, joined = encode_files(files, outs, str(MODEL), workers, rules)
        found.append(read_lines(outs[0]))
        assert written == len(found[0]) == len(read_lines(outs[1]))
        assert joined == pytest.approx(2750, abs=200)
    assert found[0] == found[1]
    encoder = SentencePieceEncoder(str(MODEL))
    texts = iter(lines)
    for line in found[0]:
        text = next(texts)
        while encoder([text]) != [line]:
            text += f" {next(texts)}"
    assert next(texts, None) is None
