"""Names and detection of languages."""

import pytest

from fairseq_resmlp.server.languages import LanguageDetector, language_name

SENTENCES = {
    "en": ["The old king sees a small dog.", "I would like to translate this sentence."],
    "de": ["Der alte König sieht einen kleinen Hund.", "Ich möchte diesen Satz übersetzen."],
    "fr": ["Le vieux roi voit un petit chien.", "Je voudrais traduire cette phrase."],
}


@pytest.fixture(scope="module")
def detector():
    return LanguageDetector(["fr", "xx", "en", "de_DE"])


@pytest.mark.parametrize("language", SENTENCES)
def test_the_language_of_a_sentence_is_first(detector, language):
    for sentence in SENTENCES[language]:
        (first, confidence), *others = detector.rank(sentence)
        assert first[:2] == language and confidence > 50
        assert {code for code, _ in others} | {first} == {"fr", "xx", "en", "de_DE"}
        assert all(0 <= other <= confidence for _, other in others)


def test_text_in_another_language_has_a_low_confidence(detector):
    assert all(confidence < 5 for _, confidence in detector.rank("Это предложение на русском языке."))


@pytest.mark.parametrize("text", ["", " ", "12 34", "\ud800", "\0", "a" * 5000])
def test_any_text_has_an_answer(detector, text):
    assert len(detector.rank(text)) == 4


@pytest.mark.parametrize(
    "code, name", [("de", "German"), ("en_XX", "English"), ("pt-BR", "Portuguese"), ("src", "src")]
)
def test_names_of_languages(code, name):
    assert language_name(code) == name
