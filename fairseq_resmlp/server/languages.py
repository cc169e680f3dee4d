"""Names of languages, and detection of the language of a text."""

import re
from collections.abc import Iterable
from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

# Languages of the WMT, IWSLT, OPUS-MT and Multi30k test sets, by ISO 639-1 code
NAMES = {
    "af": "Afrikaans",
    "ar": "Arabic",
    "az": "Azerbaijani",
    "be": "Belarusian",
    "bg": "Bulgarian",
    "bn": "Bengali",
    "ca": "Catalan",
    "cs": "Czech",
    "cy": "Welsh",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "eo": "Esperanto",
    "es": "Spanish",
    "et": "Estonian",
    "eu": "Basque",
    "fa": "Persian",
    "fi": "Finnish",
    "fr": "French",
    "ga": "Irish",
    "gl": "Galician",
    "gu": "Gujarati",
    "ha": "Hausa",
    "he": "Hebrew",
    "hi": "Hindi",
    "hr": "Croatian",
    "hu": "Hungarian",
    "hy": "Armenian",
    "id": "Indonesian",
    "is": "Icelandic",
    "it": "Italian",
    "ja": "Japanese",
    "ka": "Georgian",
    "kk": "Kazakh",
    "km": "Khmer",
    "ko": "Korean",
    "lt": "Lithuanian",
    "lv": "Latvian",
    "mk": "Macedonian",
    "mr": "Marathi",
    "ms": "Malay",
    "mt": "Maltese",
    "nb": "Norwegian Bokm\u00e5l",
    "ne": "Nepali",
    "nl": "Dutch",
    "no": "Norwegian",
    "pl": "Polish",
    "ps": "Pashto",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sk": "Slovak",
    "sl": "Slovenian",
    "sq": "Albanian",
    "sr": "Serbian",
    "sv": "Swedish",
    "sw": "Swahili",
    "ta": "Tamil",
    "th": "Thai",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "ur": "Urdu",
    "vi": "Vietnamese",
    "zh": "Chinese",
}


def base_code(code: str) -> str:
    """Return the ISO 639-1 part of a language code: "en" for "en_XX" or "en-US"."""
    return re.split("[_-]", code)[0].lower()


def language_name(code: str) -> str:
    """Return the English name of a language, or its code if the name is unknown."""
    return NAMES.get(base_code(code), code)


class LanguageDetector:
    """Detects which of several languages a text is in, with py3langid.

    Its model, a naive Bayes classifier over byte n-grams of 140 languages, is read at the first call.

    Args:
        codes: the languages
    """

    def __init__(self, codes: Iterable[str]):
        self.codes = list(codes)

    def rank(self, text: str) -> list[tuple[str, float]]:
        """Return each language with its probability in percent, the most likely first.

        The probabilities are those among all languages that py3langid knows, so all are low if the text is in another
        language. A language that py3langid does not know has 0.
        """
        probabilities = dict(_identifier().rank(text))
        ranked = sorted(((probabilities.get(base_code(code), 0.0), code) for code in self.codes), reverse=True)
        return [(code, round(100 * probability, 1)) for probability, code in ranked]


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
