"""Comparison of a SentencePiece model with the dictionaries of a model."""

import io
import random

import pytest
import sentencepiece

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.sentencepiece_model import check_fits_dictionaries
from fairseq_resmlp.inference.config import SPECIAL_SYMBOLS

SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]


def text(seed, lines=1500, syllables=SYLLABLES):
    """Return sentences of an artificial language with frequent and rare words."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(600)]
    return [" ".join(words[int(600 * rng.random() ** 3)] for _ in range(rng.randint(3, 9))) for _ in range(lines)]


def train(lines, vocab_size, kind="bpe"):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, vocab_size=vocab_size, model_type=kind, minloglevel=2
    )
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def dictionary(model, lines, size=None):
    """Return the entries that fairseq-preprocess would write for a text, most frequent first."""
    counts = {}
    for token in (token for line in lines for token in model.encode(line, out_type=str)):
        counts[token] = counts.get(token, 0) + 1
    entries = sorted(counts, key=lambda entry: -counts[entry])[:size]
    return [*SPECIAL_SYMBOLS, *entries, *(f"madeupword{i:04d}" for i in range(4))]


SOURCE, TARGET, OTHER = text(1), text(2), text(3)


@pytest.fixture(scope="module")
def models():
    """Models of both languages together, by number of pieces."""
    return {size: train(SOURCE + TARGET, size) for size in (250, 500)}


@pytest.mark.parametrize(
    "lines, size",
    [(1500, None), (100, None), (1500, 250)],
    ids=["whole training text", "small part of the text", "frequent entries only"],
)
def test_the_model_of_the_training_text_fits(models, lines, size):
    source, target = (dictionary(models[500], side[:lines], size) for side in (SOURCE, TARGET))
    check_fits_dictionaries(models[500], "spm.model", source, target)


def test_words_of_unknown_characters_in_the_dictionary_fit(models):
    source = dictionary(models[500], [*SOURCE, *(f"{chr(0x4E00 + i)}{chr(0x5E00 + i)}" for i in range(400))])
    assert sum(entry[0] >= "\u4e00" for entry in source) > 0.2 * len(source)
    check_fits_dictionaries(models[500], "spm.model", source, dictionary(models[500], TARGET))


def test_a_model_per_language_fits(models):
    own = train(SOURCE, 300)
    check_fits_dictionaries(own, "spm.model", dictionary(own, SOURCE), dictionary(models[250], TARGET))


@pytest.mark.parametrize("size", [250, 500])
def test_a_model_of_another_size_or_kind_is_refused_with_the_unknown_share(models, size):
    source, target = (dictionary(models[750 - size], side) for side in (SOURCE, TARGET))
    with pytest.raises(InputError, match=r"^spm\.model does not fit the dictionaries: \d+% of its pieces are unknown"):
        check_fits_dictionaries(models[size], "spm.model", source, target)
    with pytest.raises(InputError, match="does not fit"):
        check_fits_dictionaries(train(SOURCE + TARGET, 400, "unigram"), "spm.model", source, target)


def test_a_model_of_another_text_or_of_the_other_side_is_refused(models):
    source, target = (dictionary(models[500], side) for side in (SOURCE, TARGET))
    with pytest.raises(InputError, match="does not fit"):
        check_fits_dictionaries(train(OTHER, 500), "spm.model", source, target)
    one, two = train(SOURCE, 400), train(TARGET, 400)
    with pytest.raises(InputError, match="does not fit"):
        check_fits_dictionaries(two, "spm.model", dictionary(one, SOURCE), dictionary(two, TARGET))
