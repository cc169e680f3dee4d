"""Formats of translations: plain text, n-best lists, alignments, tab-separated values and JSON lines."""

import json

import pytest

from fairseq_resmlp.inference import Alignment, Translation, TranslationHypothesis
from fairseq_resmlp.inference.output_format import make_format, word_pairs

ALIGNMENTS = [Alignment((6, 11), (0, 4), 0.7), Alignment((0, 5), (0, 4), 0.25), Alignment((0, 5), (6, 11), 0.9)]
FIRST = TranslationHypothesis("Welt  hallo", -0.25, ["▁Welt", "▁hallo"], ALIGNMENTS)
SECOND = TranslationHypothesis("Hallo", -1.5, ["▁Hallo"], [])
FOUND = Translation("Hello\tworld", [FIRST, SECOND], ["▁Hello", "▁world"], 1)


@pytest.mark.parametrize(
    "name, n_best, alignments, scores, expected",
    [
        ("text", 1, False, False, ["Welt  hallo"]),
        ("text", 1, False, True, ["Welt  hallo ||| -0.250000"]),
        ("text", 1, True, True, ["Welt  hallo ||| 0-1 1-0 ||| -0.250000"]),
        ("text", 2, False, False, ["7 ||| Welt  hallo ||| -0.250000", "7 ||| Hallo ||| -1.500000"]),
        ("text", 2, True, False, ["7 ||| Welt  hallo ||| 0-1 1-0 ||| -0.250000", "7 ||| Hallo |||  ||| -1.500000"]),
        ("tsv", 1, False, False, ["Hello world\tWelt  hallo"]),
        ("tsv", 2, True, True, ["Hello world\tWelt  hallo\t-0.250000\t0-1 1-0", "Hello world\tHallo\t-1.500000\t"]),
    ],
)
def test_every_format_has_the_requested_fields(name, n_best, alignments, scores, expected):
    translation = Translation(FOUND.source, FOUND.hypotheses[:n_best], FOUND.source_tokens, FOUND.unknown)
    assert list(make_format(name, n_best, alignments, scores)(7, translation)) == expected


def test_a_json_line_contains_the_whole_result():
    (line,) = make_format("jsonl", 2, True, False)(7, FOUND)
    found = json.loads(line)
    assert "\n" not in line and found["source"] == "Hello\tworld" and found["unknown"] == 1
    assert [hypothesis["text"] for hypothesis in found["hypotheses"]] == ["Welt  hallo", "Hallo"]
    assert found["hypotheses"][0]["score"] == -0.25
    assert found["hypotheses"][0]["alignments"][1] == {"source": [0, 5], "target": [0, 4], "weight": 0.25}


def test_words_of_scripts_without_spaces_are_counted_by_spaces_like_all_others():
    alignments = [Alignment((0, 1), (0, 1), 0.8), Alignment((1, 2), (1, 3), 0.6), Alignment((3, 5), (1, 3), 0.3)]
    hypothesis = TranslationHypothesis("abc", 0.0, [], alignments)
    assert word_pairs(Translation("你好 ab", [hypothesis], [], 0), hypothesis) == "0-0"
