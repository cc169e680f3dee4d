"""Word alignments of translations, as the tables of the page."""

from dataclasses import dataclass

import torch

from fairseq_resmlp.evaluation.evaluation_set import AlignedTranslation
from fairseq_resmlp.inference.translation import align
from fairseq_resmlp.inference.words import Word, detokenize, target_words
from fairseq_resmlp.report.plots import MAX_ALIGNED


@dataclass
class AlignmentTable:
    """Attention of target words (rows) to source words (columns).

    Args:
        columns: source words
        rows: target words, each with one weight per column, 0 to 1; 0 if there is no link
        is_cut: whether words after the first `MAX_ALIGNED` are omitted
    """

    columns: list[str]
    rows: list[tuple[str, list[float]]]
    is_cut: bool


def alignment_table(translation: AlignedTranslation) -> AlignmentTable:
    """Return the alignment of a translation, with the links that the translator returns (see `align`)."""
    (source, columns), (target, rows) = (_words(tokens[:-1]) for tokens in (translation.source, translation.target))
    links = align(torch.from_numpy(translation.attention), columns, rows)
    weights = {(link.target, link.source): link.weight for link in links}
    shown = columns[:MAX_ALIGNED]
    return AlignmentTable(
        [source[slice(*column.span)] for column in shown],
        [
            (target[slice(*row.span)], [weights.get((row.span, column.span), 0.0) for column in shown])
            for row in rows[:MAX_ALIGNED]
        ],
        is_cut=max(len(columns), len(rows)) > MAX_ALIGNED,
    )


def _words(tokens: list[str]) -> tuple[str, list[Word]]:
    return detokenize(tokens), target_words(tokens)
