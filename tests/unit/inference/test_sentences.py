"""Splitting of text into sentences and shorter parts, and joining of their translations."""

import random
import re

import pytest

from fairseq_resmlp.inference.sentences import SentenceSplitter, join_translations
from support.inference import SHORT, translate
from support.texts import EDGE_CASES, PLAIN


def make_splitter(limit, language="en"):
    """Return a splitter that counts words, and four characters as a word if they are in a longer one."""
    return SentenceSplitter(language, limit, lambda text: sum(-(-len(word) // 4) for word in text.split()))


def split(text, limit=1000, sentences=True, language="en"):
    return [text[start:end] for start, end in make_splitter(limit, language).split(text, sentences)]


@pytest.mark.parametrize(
    "language, text, expected",
    [
        ("en", "Dr. Wu is here. He left!  Why?", ["Dr. Wu is here.", "He left!", "Why?"]),
        ("de", "Am 3. Mai kam z.B. Hr. Meier. Er ging.", ["Am 3. Mai kam z.B. Hr. Meier.", "Er ging."]),
        ("zh", "你好。我是学生。", ["你好。", "我是学生。"]),
        ("en", "\n a.\r\n\r\nB c\u2028d", ["a.", "B c", "d"]),
        ("src", "One is. Two is.", ["One is.", "Two is."]),
        ("", "One is. Two is.", ["One is.", "Two is."]),
        ("en", " \n", []),
    ],
)
def test_text_is_split_into_the_sentences_of_its_lines(language, text, expected):
    assert split(text, language=language) == expected


def test_a_text_within_the_limit_is_only_split_on_request():
    assert split(" It is. We go.\n", limit=4, sentences=False) == ["It is. We go."]
    assert split(" It is. We go.\n", limit=3, sentences=False) == ["It is.", "We go."]


@pytest.mark.parametrize(
    "text, limit, expected",
    [
        ("So we go, as he says, to it; or not.", 4, ["So we go,", "as he says,", "to it; or not."]),
        ("It is: so we go, as he, or she, says.", 9, ["It is: so we go, as he,", "or she, says."]),
        ("一，二三，四五六七，八", 2, ["一，二三，", "四五六七，", "八"]),
    ],
)
def test_long_sentences_are_split_between_clauses_without_a_warning(text, limit, expected, caplog):
    assert split(text, limit) == expected
    assert not caplog.records


@pytest.mark.parametrize(
    "text, limit, expected",
    [
        ("One two, six is as he or I go.", 4, ["One two,", "six is as he", "or I go."]),
        ("a" * 40, 4, ["a" * 10] * 4),
        ("a" * 5, 1, ["aa", "aaa"]),
    ],
)
def test_text_is_cut_with_a_warning_only_if_it_has_no_boundary(text, limit, expected, caplog):
    assert split(text, limit) == expected
    (record,) = caplog.records
    assert "was cut between words, because it has no sentence or clause boundary" in record.getMessage()


def random_texts(count):
    rng = random.Random(11)
    alphabet = [
        *"abcÄß  ,;:.!?\n\r\t\u2028\x85\u3000。，„“\u200b\u0301\ufeff0漢שم",
        ". ",
        ", ",
        "Dr. ",
        "word " * 9,
        "x" * 30,
    ]
    return [*EDGE_CASES, *("".join(rng.choices(alphabet, k=rng.randrange(60))) for _ in range(count))]


def test_nothing_but_white_space_is_lost_and_no_part_exceeds_the_limit():
    for number, text in enumerate(random_texts(250)):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        for sentences in (True, False):
            splitter = make_splitter(limit := 1 + number % 9, "en")
            spans, end = splitter.split(text, sentences), 0
            for start, next_end in spans:
                assert not text[end:start].strip() and text[start:next_end].strip() == text[start:next_end] != ""
                assert splitter.count(text[start:next_end]) <= limit
                end = next_end
            assert not text[end:].strip()


def test_the_work_for_long_text_without_boundaries_is_linear():
    counted = 0

    def count(text):
        nonlocal counted
        counted += len(text)
        return len(text)

    for text in ("a" * 30_000, "a " * 15_000, ", " * 15_000, "." * 30_000):
        counted = 0
        SentenceSplitter("en", 255, count).split(text, True)
        assert counted < 30 * len(text)


# Joining


def test_translations_are_joined_with_the_white_space_of_the_source():
    text = "\n  It is.  We go.\r\n\r\n\tWhy?\n"
    spans = make_splitter(9).split(text, True)
    joined, starts = join_translations(text, spans, ["Ja.", "Wir.", "Warum?"], keep_space=True)
    assert joined == "\n  Ja.  Wir.\r\n\r\n\tWarum?\n"
    assert [joined[start:][:2] for start in starts] == ["Ja", "Wi", "Wa"]
    assert join_translations(text, spans, ["Ja.", "Wir.", "Warum?"], keep_space=False) == ("Ja. Wir. Warum?", [0, 4, 9])
    assert join_translations(text, spans, ["", "Wir.", ""], keep_space=False)[0] == "Wir."
    assert join_translations(" \n", [], [], keep_space=True) == (" \n", [])


@pytest.mark.parametrize(
    "source, translations, expected",
    [
        ("你好。我是学生。", ["Hello.", "I am."], "Hello. I am."),
        ("It is. We go.", ["是。", "走。"], "是。走。"),
        ("It is.  We go.", ["是。", "走。"], "是。  走。"),
        ("It is. We go.", ["是。", "We go."], "是。 We go."),
    ],
)
def test_spaces_between_sentences_are_those_of_the_target_script(source, translations, expected):
    language = "zh" if source[0] == "你" else "en"
    spans = make_splitter(9, language).split(source, True)
    assert join_translations(source, spans, translations, keep_space=True)[0] == expected


# Translation of text with several sentences


def test_sentences_are_translated_one_by_one_and_joined(translator):
    sentences = [PLAIN, "Two dogs.", "A boy hopes."]
    one_by_one = translate(translator, sentences)
    text = "{}  {}\n\n {}\n".format(*sentences)
    assert translate(translator, [text], split_sentences=True) == ["{}  {}\n\n {}\n".format(*one_by_one)]
    assert translate(translator, [text]) != [" ".join(one_by_one)]


def test_hypotheses_and_alignments_of_sentences_are_joined_by_rank(translator):
    sentences = [PLAIN, "A boy hopes."]
    options = {**SHORT, "n_best": 2, "alignments": True}
    first, second = translator.translate_batch(sentences, **options)
    (found,) = translator.translate_batch(["\t  ".join(sentences)], **options, split_sentences=True)
    assert len(found.hypotheses) == 2
    for joined, *parts in zip(found.hypotheses, first.hypotheses, second.hypotheses, strict=True):
        assert joined.text == "\t  ".join(part.text for part in parts)
        assert joined.tokens == [token for part in parts for token in part.tokens]
        lengths = [len(first.source_tokens), len(second.source_tokens)]
        mean = sum(part.score * length for part, length in zip(parts, lengths)) / sum(lengths)
        assert joined.score == pytest.approx(mean, abs=1e-5)
        words = [
            (text[slice(*alignment.source)], part.text[slice(*alignment.target)])
            for text, part in zip(sentences, parts)
            for alignment in part.alignments
        ]
        assert words == [
            (found.source[slice(*alignment.source)], joined.text[slice(*alignment.target)])
            for alignment in joined.alignments
        ]
    assert found.source_tokens == first.source_tokens + second.source_tokens


def test_a_line_above_the_limit_is_translated_completely(translator, caplog):
    limit = translator.network.config.encoder_max_positions - 1
    line = "The old king sees a small dog. " * 100
    found, neighbor = translator.translate_batch([line, PLAIN], **SHORT)
    assert found.text == " ".join(translate(translator, ["The old king sees a small dog."]) * 100)
    assert [neighbor.text] == translate(translator, [PLAIN])
    assert not caplog.records
    word = "漢b" * (3 * limit)
    found, *_ = translator.translate_batch([word, PLAIN], **SHORT)
    assert "".join(found.source_tokens).replace("▁", "") == word
    assert re.search(rf"a line of [\d,]+ tokens was cut between words.* within {limit} tokens", caplog.text)


def test_sentences_without_tokens_are_empty(translator):
    (found,) = translator.translate_batch([f"\u200b\n{PLAIN}\n\u200b"], **SHORT, split_sentences=True, alignments=True)
    assert found.text == f"\n{translate(translator, [PLAIN])[0]}\n"
    assert all(found.source[slice(*alignment.source)] in PLAIN for alignment in found.alignments)
