"""Cleaning drops a sentence pair for the documented reasons only."""

import pytest

from fairseq_resmlp.data.cleaning import CleaningRules
from fairseq_resmlp.data.sentencepiece_files import encode_files
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
    kept, dropped = encode_files(
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
