"""Results of `Translator`: translations with scores and word alignments, and the options that they depend on."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference.beam_search import SearchOptions
from fairseq_resmlp.inference.words import Span, Word

MIN_WEIGHT = 0.2  # of an alignment that is not the strongest of its target word


@dataclass(frozen=True)
class TranslationOptions(SearchOptions):
    """Options of the search and of its result.

    Args:
        n_best: number of hypotheses per line, at most the beam size
        alignments: whether to align the words of each hypothesis
        split_sentences: whether to translate every sentence of a line by itself. White space between them, such as
            line breaks and blank lines, is kept.

    Raises:
        InputError: a value is out of range
    """

    n_best: int = 1
    alignments: bool = False
    split_sentences: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.n_best <= self.beam:
            raise InputError(
                f"--n-best {self.n_best} is out of range: use a number from 1 to the beam size {self.beam}"
            )

    @property
    def search(self) -> SearchOptions:
        """The options of the search alone. Lines can share a batch if these are equal."""
        return SearchOptions(**{field.name: getattr(self, field.name) for field in fields(SearchOptions)})


class Alignment(NamedTuple):
    """A link between a source word and a target word.

    Args:
        source: characters [start, end) of `Translation.source`
        target: characters [start, end) of `TranslationHypothesis.text`
        weight: share of the target word's attention that is on the source word, 0 to 1
    """

    source: Span
    target: Span
    weight: float


@dataclass(frozen=True)
class TranslationHypothesis:
    """One translation of a line.

    Args:
        text: the translation
        score: sum of the natural logarithms of the token probabilities, divided by length ** lenpen. The length
            includes the end-of-sentence token. For a line of several sentences: the mean of their scores, weighted by
            their numbers of source tokens.
        tokens: target tokens, without end-of-sentence tokens
        alignments: sorted by target word, strongest first; every target word has at least one. None if not requested.
    """

    text: str
    score: float
    tokens: list[str]
    alignments: list[Alignment] | None

    def strongest_alignments(self) -> list[Alignment]:
        """Return one alignment per target word."""
        found: dict[Span, Alignment] = {}
        for alignment in self.alignments or ():
            found.setdefault(alignment.target, alignment)
        return list(found.values())


@dataclass(frozen=True)
class Translation:
    """The translations of a line.

    Args:
        source: the line, with unpaired surrogates replaced by U+FFFD
        hypotheses: best first; at least one, at most `n_best`. A line without tokens has one, with score 0.
        source_tokens: tokens of the line, without end-of-sentence tokens
        unknown: number of source tokens that are not in the dictionary
    """

    source: str
    hypotheses: list[TranslationHypothesis]
    source_tokens: list[str]
    unknown: int

    @property
    def text(self) -> str:
        """The best translation."""
        return self.hypotheses[0].text

    @property
    def score(self) -> float:
        """The score of the best translation."""
        return self.hypotheses[0].score

    @property
    def alignments(self) -> list[Alignment] | None:
        """The alignments of the best translation."""
        return self.hypotheses[0].alignments


def align(attention: Tensor, source: Sequence[Word], target: Sequence[Word]) -> list[Alignment]:
    """Align words by attention: summed over the tokens of the source word, averaged over those of the target word.

    Args:
        attention: T x S, from `Network.attention`
        source, target: words of the source and the translation

    Returns:
        for each target word its strongest alignment, and further ones of at least `MIN_WEIGHT`
    """
    if not source:
        return []
    attention = attention.float().cpu()
    columns = torch.stack([attention[:, word.tokens.start : word.tokens.stop].sum(1) for word in source], 1)
    found = []
    for word in target:
        weights = columns[word.tokens.start : word.tokens.stop].mean(0).tolist()
        order = sorted(range(len(source)), key=lambda i: -weights[i])
        strongest, *others = (Alignment(source[i].span, word.span, round(weights[i], 4)) for i in order)
        found += [strongest, *(other for other in others if other.weight >= MIN_WEIGHT)]
    return found
