"""Splitting of text into parts that a model can translate, and joining of their translations.

splitter = SentenceSplitter("en", limit=255, count=lambda text: len(translator.tokenize(text)))
splitter.split("It rains. We stay.", sentences=True)     # [(0, 9), (10, 18)]
"""

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import sentencex

from fairseq_resmlp.inference.words import Span, is_spaceless

logger = logging.getLogger(__name__)

# White space, possibly none, at which a sentence can be divided
_CLAUSES = re.compile("(?<=[,;:\u2013\u2014])\\s+|(?<=[\u3001\uff0c\uff1b\uff1a\u060c\u061b])\\s*")
_WORDS = re.compile(r"\s+")


class SentenceSplitter:
    """Splits text of one language into parts of limited length.

    Args:
        language: ISO 639 code; sentences of unknown languages are split at the usual punctuation
        limit: maximum number of tokens of a part
        count: function that returns the number of tokens of a text
    """

    def __init__(self, language: str, limit: int, count: Callable[[str], int]):
        self.language, self.limit, self.count = language, limit, count

    def split(self, text: str, sentences: bool) -> list[Span]:
        """Return the parts of a text: spans without surrounding white space, with nothing but white space in between.

        Text of more than `limit` tokens is split into sentences. Longer sentences are divided between clauses, and if
        that is not enough, between or within words, with a warning.

        Args:
            text: any text
            sentences: whether to split every line of the text into sentences, however short
        """
        whole = list(_strip(text, [(0, len(text))]))
        if not whole or (not sentences and self.count(text) <= self.limit):
            return whole
        parts, is_cut = [], False
        for sentence in self._sentences(text):
            for part, cut in self._fit(text, sentence, (_CLAUSES, _WORDS)):
                parts.append(part)
                is_cut |= cut
        if is_cut:
            logger.warning(
                f"a line of {self.count(text):,} tokens was cut between words, because it has no sentence or clause "
                f"boundary within {self.limit} tokens, the limit of this model: {' '.join(text[:300].split())[:60]} ..."
            )
        return parts

    def _sentences(self, text: str) -> Iterator[Span]:
        start = 0
        for line in text.splitlines(keepends=True):
            for sentence in sentencex.segment(self.language, line):
                yield from _strip(text, [(start, start + len(sentence))])
                start += len(sentence)

    def _fit(self, text: str, span: Span, boundaries: Sequence[re.Pattern[str]]) -> Iterator[tuple[Span, bool]]:
        """Yield parts of a span that do not exceed the limit, each with whether it was cut out of a clause."""
        start, end = span
        fits = self.count(text[start:end]) <= self.limit
        if fits or end - start == 1:
            yield span, not (fits and boundaries)
        elif boundaries:
            for part in self._pack(text, list(_strip(text, _between(text, span, boundaries[0])))):
                yield from self._fit(text, part, boundaries[1:])
        else:
            middle = (start + end) // 2
            for half in _strip(text, [(start, middle), (middle, end)]):
                yield from self._fit(text, half, ())

    def _pack(self, text: str, parts: Sequence[Span]) -> Iterator[Span]:
        """Join neighboring parts up to the limit, into spans of similar numbers of tokens."""
        counts = [self.count(text[start:end]) for start, end in parts]
        aim = sum(counts) / max(1, math.ceil(sum(counts) / self.limit))
        (start, end), total = parts[0], counts[0]
        for (next_start, next_end), count in zip(parts[1:], counts[1:]):
            if total >= aim or total + count > self.limit:
                yield start, end
                start, total = next_start, 0
            end, total = next_end, total + count
        yield start, end


def _between(text: str, span: Span, boundary: re.Pattern[str]) -> Iterator[Span]:
    start, end = span
    for match in boundary.finditer(text, start, end):
        yield start, match.end()
        start = match.end()
    yield start, end


def _strip(text: str, spans: Iterable[Span]) -> Iterator[Span]:
    """Yield the spans without surrounding white space, except empty ones."""
    for start, end in spans:
        part = text[start:end]
        first, last = end - len(part.lstrip()), start + len(part.rstrip())
        if first < last:
            yield first, last


def join_translations(
    source: str, spans: Sequence[Span], translations: Sequence[str], keep_space: bool
) -> tuple[str, list[int]]:
    """Join the translations of the parts of a text.

    Parts without a space in between are joined by one, and a single space is removed, as the script of the translations
    requires.

    Args:
        source: the text
        spans: its parts, from `SentenceSplitter.split`
        translations: of each part
        keep_space: whether to keep all white space around the parts, such as line breaks, instead of single spaces
            between them

    Returns:
        the text, and the place in it where each translation begins
    """
    text, end = "", 0
    starts: list[int] = []
    for (start, next_end), translation in zip(spans, translations, strict=True):
        if keep_space:
            space = source[end:start]
            text += _separator(space, text, translation) if starts else space
        elif text and translation:
            text += _separator(" ", text, translation)
        starts.append(len(text))
        text += translation
        end = next_end
    return text + (source[end:] if keep_space else ""), starts


def _separator(space: str, before: str, after: str) -> str:
    if space not in ("", " "):
        return space
    return "" if is_spaceless(before[-1:]) and is_spaceless(after[:1]) else " "
