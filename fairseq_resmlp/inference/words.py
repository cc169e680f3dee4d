"""Words of a tokenized text, and where they are in it.

A word is what stands between two spaces. Chinese, Japanese, Thai and other scripts are written without spaces; there,
every SentencePiece token is a word of its own.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sentencepiece

from fairseq_resmlp.common.sentencepiece_model import WORD_BOUNDARY

Span = tuple[int, int]  # characters [start, end) of a text

# Thai, Lao, Tibetan, Myanmar, Khmer, kana, Chinese characters, and their punctuation
_SPACELESS = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3000-\u312f\u31a0-\u9fff\uf900-\ufaff\uff00-\uffef"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)


def is_spaceless(character: str) -> bool:
    """Return whether a character belongs to a script that does not separate words by spaces."""
    return _SPACELESS.match(character) is not None


class Word(NamedTuple):
    """A word: its place in the text, and the numbers of its tokens."""

    span: Span
    tokens: range


class Piece(NamedTuple):
    """A SentencePiece token and the characters of the text that it stands for, before normalization."""

    text: str
    span: Span


def encode_pieces(model: sentencepiece.SentencePieceProcessor, text: str) -> list[Piece]:
    """Tokenize a text. Like fairseq's dictionary, split at unusual spaces within tokens.

    Args:
        model: from `load_sentencepiece`
        text: valid Unicode, without unpaired surrogates
    """
    encode: Any = model.encode  # its types depend on the version
    if hasattr(model, "EncodeAsOffsetMapping"):
        found = encode(text, return_type="offset_mapping")
        pieces = list(zip(found["pieces"], found["offsets"]))
    else:  # SentencePiece before 0.2.2
        found = encode(text, out_type="immutable_proto")
        pieces = [(piece.piece, (piece.begin, piece.end)) for piece in found.pieces]
    return [Piece(part, span) for piece, span in pieces for part in piece.split()]


def source_words(text: str, pieces: Sequence[Piece]) -> list[Word]:
    """Return the words of a text. `pieces` are its tokens, from `encode_pieces`."""
    words = []
    for tokens in _group([piece.text for piece in pieces]):
        start, end = pieces[tokens[0]].span[0], pieces[tokens[-1]].span[1]
        word = text[start:end]
        words.append(Word((end - len(word.lstrip()), start + len(word.rstrip())), tokens))
    return [word for word in words if word.span[0] < word.span[1]]


def target_words(tokens: Sequence[str]) -> list[Word]:
    """Return the words of `detokenize(tokens)`."""
    ends = [0]  # of each token in the text
    for token in tokens:
        ends.append(ends[-1] + len(token.replace(" ", "")))
    text = _join(tokens)
    shift = len(text) - len(text.lstrip())
    words = []
    for group in _group(tokens):
        start, end = ends[group[0]], ends[group[-1] + 1]
        word = text[start:end]
        words.append(Word((end - len(word.lstrip()) - shift, start + len(word.rstrip()) - shift), group))
    return [word for word in words if word.span[0] < word.span[1]]


def detokenize(tokens: Sequence[str]) -> str:
    """Return the text of SentencePiece tokens."""
    return _join(tokens).strip()


def _join(tokens: Sequence[str]) -> str:
    return "".join(tokens).replace(" ", "").replace(WORD_BOUNDARY, " ")


def _group(tokens: Sequence[str]) -> Iterator[range]:
    """Yield the tokens of each word, as numbers."""
    start, last = 0, ""  # the last character of the word so far
    for i, token in enumerate(tokens):
        text = token.strip(WORD_BOUNDARY)
        is_start = token.startswith(WORD_BOUNDARY) or bool(
            last and text and (is_spaceless(last) or is_spaceless(text[0]))
        )
        if is_start and i > start:
            yield range(start, i)
            start, last = i, ""
        last = text[-1:] or last
    if tokens:
        yield range(start, len(tokens))
