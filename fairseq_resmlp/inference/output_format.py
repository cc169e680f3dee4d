"""Translations as text, JSON or tab-separated values."""

import json
import re
from bisect import bisect
from collections.abc import Callable, Iterator
from typing import Any

from fairseq_resmlp.inference.translation import Translation, TranslationHypothesis

Format = Callable[[int, Translation], Iterator[str]]  # number of a line from 0, and its result, to lines of output


def make_format(name: str, n_best: int, alignments: bool, scores: bool) -> Format:
    """Return a function that formats translations.

    - text: the translation. With several per line as in Marian and Moses, `NUMBER ||| TEXT ||| SCORE`. Alignments, and
      scores that are requested, also become fields.
    - tsv: source and translation, then the score and the alignments if requested; one line per hypothesis.
    - jsonl: one object per line of input.

    Alignments are pairs of words separated by spaces as in `0-0 1-2`, in jsonl the values of `Alignment`.

    Args:
        name: text, tsv or jsonl
        n_best: translations per line
        alignments: whether to include alignments. The translations must have them.
        scores: whether to include scores; jsonl and n-best lists as text always have them
    """
    if name == "jsonl":
        return lambda number, translation: iter([json.dumps(_as_dict(translation), ensure_ascii=False)])
    numbered = name == "text" and n_best > 1

    def fields(number: int, translation: Translation, hypothesis: TranslationHypothesis) -> Iterator[str]:
        if numbered:
            yield str(number)
        elif name == "tsv":
            yield translation.source
        yield hypothesis.text
        if name == "text" and alignments:
            yield word_pairs(translation, hypothesis)
        if scores or numbered:
            yield f"{hypothesis.score:.6f}"
        if name == "tsv" and alignments:
            yield word_pairs(translation, hypothesis)

    def format_lines(number: int, translation: Translation) -> Iterator[str]:
        for hypothesis in translation.hypotheses:
            found = fields(number, translation, hypothesis)
            yield " ||| ".join(found) if name == "text" else "\t".join(field.replace("\t", " ") for field in found)

    return format_lines


def word_pairs(translation: Translation, hypothesis: TranslationHypothesis) -> str:
    """Return the strongest alignment of each target word, in the Pharaoh format.

    Words are counted from 0 and separated by spaces.
    """
    source, target = _word_starts(translation.source), _word_starts(hypothesis.text)
    pairs = {
        (bisect(source, alignment.source[0]) - 1, bisect(target, alignment.target[0]) - 1)
        for alignment in hypothesis.strongest_alignments()
    }
    return " ".join(f"{i}-{j}" for i, j in sorted(pairs))


def _word_starts(text: str) -> list[int]:
    return [match.start() for match in re.finditer(r"\S+", text)]


def _as_dict(translation: Translation) -> dict[str, Any]:
    hypotheses = []
    for hypothesis in translation.hypotheses:
        found: dict[str, Any] = {"text": hypothesis.text, "score": hypothesis.score}
        if hypothesis.alignments is not None:
            found["alignments"] = [alignment._asdict() for alignment in hypothesis.alignments]
        hypotheses.append(found)
    return {"source": translation.source, "hypotheses": hypotheses, "unknown": translation.unknown}
