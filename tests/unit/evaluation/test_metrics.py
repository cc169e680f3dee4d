"""Scores equal those of the sacrebleu command, and each has its own name and description."""

import json
import shutil
import sys

import pytest

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.evaluation.metrics import (
    compare,
    compound_split,
    moses_tokenize,
    paper_remark,
    read_parallel,
    read_text,
    score,
    table,
)
from support.commands import run
from support.files import write_lines
from support.paths import GOLDEN
from support.scored_texts import HYPOTHESES, REFERENCES, WORSE


def run_sacrebleu(directory, hypotheses, references, *options):
    """Run the command `sacrebleu` on two lists of lines. Returns the value and the signature of each score."""
    files = write_lines(directory / "reference", references), "-i", write_lines(directory / "hypothesis", hypotheses)
    output = json.loads(run("sacrebleu", *files, "--format", "json", "--width", "9", *options).stdout)
    return [(s["score"], s["signature"]) for s in (output if isinstance(output, list) else [output])]


def as_printed(*scores):
    return [(round(s.value, 9), s.signature) for s in scores]


def test_sacrebleu_and_chrf_equal_those_of_the_sacrebleu_command(tmp_path):
    bleu, chrf, *_ = score(HYPOTHESES, REFERENCES, "de")
    assert (bleu.name, chrf.name) == ("sacreBLEU", "chrF2")
    expected = run_sacrebleu(tmp_path, HYPOTHESES, REFERENCES, "--metrics", "bleu", "chrf")
    assert as_printed(bleu, chrf) == expected


def test_tokenized_scores_equal_those_of_the_sacrebleu_command_on_tokenized_files(tmp_path):
    _, _, tokenized, split = score(HYPOTHESES, REFERENCES, "de")
    assert (tokenized.name, split.name) == ("tokenized BLEU", "compound-split tokenized BLEU")
    tokens = [moses_tokenize(side, "de") for side in (HYPOTHESES, REFERENCES)]
    assert as_printed(tokenized) == run_sacrebleu(tmp_path, *tokens, "--tokenize", "none")
    parts = [compound_split(side) for side in tokens]
    assert as_printed(split) == run_sacrebleu(tmp_path, *parts, "--tokenize", "none")


def test_all_four_scores_differ():
    scores = score(HYPOTHESES, REFERENCES, "de")
    assert len({round(s.value, 1) for s in scores}) == len({s.note for s in scores}) == 4
    # A partly correct compound counts in part once it is split.
    assert scores[3].value > scores[2].value


def test_tokenization_keeps_hyphenated_words_and_follows_the_rules_of_the_language():
    line = 'Frau Müller-Lüdenscheidt las z.B. "E-Mails" & aß, um 5,30 Uhr.'
    tokens = "Frau Müller-Lüdenscheidt las z.B. &quot; E-Mails &quot; &amp; aß , um 5,30 Uhr ."
    assert moses_tokenize([line], "de") == [tokens]
    assert moses_tokenize(["L'eau, peut-être."], "fr") == ["L&apos; eau , peut-être ."]


def test_compounds_are_split_as_by_perl():
    stored = json.loads((GOLDEN / "compound_split.json").read_text(encoding="utf-8"))
    lines, expected = map(list, zip(*stored))
    assert compound_split(lines) == expected
    if shutil.which("perl"):
        rule = r"s{(\S)-(\S)}{$1 ##AT##-##AT## $2}g"
        done = run("perl", "-ple", rule, stdin="\n".join([*lines, ""]), env={"PERL_UNICODE": "0"})
        assert done.stdout.split("\n") == [*expected, ""]


@pytest.mark.parametrize("split", ["Science ##AT##-##AT## Fiction", "Science @-@ Fiction"])
def test_text_with_split_compounds_is_refused(split, tmp_path):
    message = f"line 2 contains {split.split()[1][:6].rstrip('-')}.* already split"
    with pytest.raises(InputError, match=message):
        compound_split(["Science-Fiction", split])
    # The tokenizer would split the mark, so that later steps could not recognize it.
    with pytest.raises(InputError, match=message):
        score(["Science-Fiction", split], ["Science-Fiction"] * 2, "de")
    with pytest.raises(InputError, match=f"text.de, {message}"):
        read_text(str(write_lines(tmp_path / "text.de", ["Science-Fiction", split])))


def test_only_german_has_a_compound_split_score():
    assert [s.name for s in score(["Peut-être demain."], ["Peut-être ici."], "fr")] == [
        *("sacreBLEU", "chrF2", "tokenized BLEU")
    ]


@pytest.mark.parametrize("name", ["tr", "zh", "DE", "german"])
def test_languages_that_moses_does_not_support_have_no_tokenized_bleu(name):
    with pytest.raises(InputError, match=f"Moses tokenizer does not support language {name}, only .*de, "):
        moses_tokenize(HYPOTHESES, name)
    assert [s.name for s in score(HYPOTHESES, REFERENCES, name)] == ["sacreBLEU", "chrF2"]


def test_chinese_is_scored_by_characters():
    """As words separated by spaces, these sentences would have no n-gram in common."""
    own, right = ["我們今天去北京看我的老師和他的朋友。"], ["我們今天去北京看他的老師和我的朋友。"]
    found = score(own, right, "zh")[0]
    assert "tok:zh" in found.signature and 30 < found.value < 100
    assert compare(own, own, right, "zh")[0].value == found.value


def test_a_package_that_sacrebleu_requires_for_a_language_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "sacrebleu.tokenizers.tokenizer_ja_mecab", raising=False)
    monkeypatch.setitem(sys.modules, "MeCab", None)
    with pytest.raises(InputError, match=r"sacreBLEU for ja requires another package: pip install 'sacrebleu\[ja\]'"):
        score(["猫"], ["猫"], "ja")


def test_without_sacremoses_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    with pytest.raises(InputError, match=r"requires sacremoses: pip install 'fairseq-resmlp\[reproduce\]'"):
        score(HYPOTHESES, REFERENCES, "de")


def test_only_a_line_feed_ends_a_line(tmp_path):
    (tmp_path / "text").write_bytes("eins\u2028zwei\x0bdrei\x85\r\n\r\nvier\n\nfünf".encode())
    assert read_text(str(tmp_path / "text")).lines == ["eins\u2028zwei\x0bdrei\x85", "", "vier", "", "fünf"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"eins\nzwei\n", r"text has 2 lines and .*reference has 6"),
        (b"eins\n\xff\n", r"text has invalid UTF-8 in line 2: invalid start byte"),
        (b"", r"text is empty"),
    ],
)
def test_texts_that_cannot_be_scored_are_refused(tmp_path, content, message):
    (tmp_path / "text").write_bytes(content)
    reference = write_lines(tmp_path / "reference", REFERENCES)
    with pytest.raises(InputError, match=message):
        read_parallel(str(tmp_path / "text"), str(reference))


def test_lists_of_different_length_are_refused():
    with pytest.raises(InputError, match="6, 5"):
        score(HYPOTHESES, REFERENCES[:5], "de")
    with pytest.raises(InputError, match="6, 5, 6"):
        compare(HYPOTHESES, WORSE[:5], REFERENCES, "de")


def test_the_bootstrap_test_detects_a_worse_system_and_no_difference_from_itself():
    for c in compare(HYPOTHESES, HYPOTHESES, REFERENCES, "de"):
        assert (c.difference, c.p_value) == (0, 1)
    own, other = (score(system, REFERENCES, "de") for system in (HYPOTHESES, WORSE))
    comparisons = compare(HYPOTHESES, WORSE, REFERENCES, "de")
    assert len(comparisons) == 2
    for c, mine, theirs in zip(comparisons, own, other):
        assert (c.name, c.value, c.baseline) == (mine.name, mine.value, theirs.value)
        assert c.difference == mine.value - theirs.value > 0
        assert c.p_value < 0.05
        assert "bs:1000|seed:12345" in c.signature


def test_the_table_lists_every_score_and_ends_with_a_remark():
    scores = score(HYPOTHESES, REFERENCES, "de")
    lines = table(scores, remark="A remark.").splitlines()
    for s in scores:
        place = next(i for i, line in enumerate(lines) if line.startswith(f"{s.name} ") and s.signature in line)
        assert lines[place].split()[len(s.name.split()) :] == [f"{s.value:.1f}", s.signature]
        assert lines[place + 1] == f"    {s.note}"
    assert lines[-1] == "A remark."
    assert "bootstrap" not in table(scores)


def test_the_bleu_of_the_paper_is_shown_for_its_corpora_only():
    assert "reports 26.4 BLEU with 6 layers and 26.8 with 12, probably tokenized" in paper_remark("wmt14.en-de")
    assert "reports 40.3 BLEU with 6 layers and 40.6 with 12, " in paper_remark("wmt14.en-fr")
    assert [paper_remark(corpus) for corpus in ("multi30k.en-de", "wmt14", None, 1)] == [None] * 4
