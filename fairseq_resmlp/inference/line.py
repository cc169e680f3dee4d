"""A line of text and its sentences while they are translated."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fairseq_resmlp.inference.config import UNK
from fairseq_resmlp.inference.sentences import join_translations
from fairseq_resmlp.inference.translation import Alignment, Translation, TranslationHypothesis, TranslationOptions

NOTHING = TranslationHypothesis("", 0.0, [], [])


@dataclass
class Sentence:
    """A part of a line that is translated by itself.

    Args:
        text: the part
        start: its first character in the line
        tokens: its tokens
        ids: its tokens as entries of the source dictionary, ending with EOS
        options: options of the search and of the result
        hypotheses: the result, best first; empty until it is known
        partial: the best translation so far
    """

    text: str
    start: int
    tokens: list[str]
    ids: list[int]
    options: TranslationOptions
    hypotheses: list[TranslationHypothesis] = field(default_factory=list)
    partial: str = ""

    @property
    def is_waiting(self) -> bool:
        """Whether the sentence is to be translated. One without tokens is not."""
        return len(self.ids) > 1 and not self.hypotheses

    def hypothesis(self, rank: int) -> TranslationHypothesis:
        """Return the hypothesis of a rank, or the last one if there are fewer."""
        return self.hypotheses[min(rank, len(self.hypotheses) - 1)] if self.hypotheses else NOTHING


@dataclass
class Line:
    """A line of text, made of sentences."""

    text: str
    sentences: Sequence[Sentence]
    options: TranslationOptions

    @property
    def is_complete(self) -> bool:
        """Whether all sentences are translated."""
        return not any(sentence.is_waiting for sentence in self.sentences)

    @property
    def partial(self) -> str:
        """The translation as far as it is known."""
        return self._join([sentence.partial for sentence in self.sentences])[0]

    def translation(self) -> Translation:
        """Return the result."""
        ranks = range(max((len(sentence.hypotheses) for sentence in self.sentences), default=0) or 1)
        return Translation(
            source=self.text,
            hypotheses=[self._hypothesis(rank) for rank in ranks],
            source_tokens=[token for sentence in self.sentences for token in sentence.tokens],
            unknown=sum(sentence.ids.count(UNK) for sentence in self.sentences),
        )

    def _join(self, texts: Sequence[str]) -> tuple[str, list[int]]:
        spans = [(sentence.start, sentence.start + len(sentence.text)) for sentence in self.sentences]
        return join_translations(self.text, spans, texts, keep_space=self.options.split_sentences)

    def _hypothesis(self, rank: int) -> TranslationHypothesis:
        """Join the hypotheses of one rank."""
        parts = [sentence.hypothesis(rank) for sentence in self.sentences]
        text, starts = self._join([part.text for part in parts])
        alignments = [
            _shift(alignment, sentence.start, start)
            for sentence, start, part in zip(self.sentences, starts, parts)
            for alignment in part.alignments or ()
        ]
        return TranslationHypothesis(
            text=text,
            score=self._score([part.score for part in parts]),
            tokens=[token for part in parts for token in part.tokens],
            alignments=alignments if self.options.alignments else None,
        )

    def _score(self, scores: Sequence[float]) -> float:
        if len(scores) == 1:
            return scores[0]
        lengths = [len(sentence.tokens) for sentence in self.sentences]
        return sum(score * length for score, length in zip(scores, lengths)) / max(1, sum(lengths))


def _shift(alignment: Alignment, source: int, target: int) -> Alignment:
    (start, end), (target_start, target_end), weight = alignment
    return Alignment((start + source, end + source), (target_start + target, target_end + target), weight)
