"""Learning lexical shortlists from a bitext with IBM Model 1 (Brown et al., 1993, section 4.1)."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.data.plain_text import check_training_text

EM_ITERATIONS = 4
BATCH_SIZE = 500  # sentence pairs at a time

Pair = tuple[str, str]
Batch = tuple[Tensor, Tensor]  # n x S source and n x T target ids, padded with -1


def read_pairs(source: str, target: str, max_lines: int) -> list[Pair]:
    """Read parallel tokenized files; from longer ones, at most `max_lines` evenly spaced pairs.

    Raises:
        InputError: a file is not text, or the numbers of lines differ
    """
    for file in (source, target):
        check_training_text(file)
    # Invalid UTF-8 becomes subwords that are in no dictionary, and so in no shortlist.
    with (
        open(source, encoding="utf-8", errors="replace", newline="\n") as left,
        open(target, encoding="utf-8", errors="replace", newline="\n") as right,
    ):
        lengths = [sum(1 for _ in file) for file in (left, right)]
        if lengths[0] != lengths[1]:
            raise InputError(
                f"{source} has {lengths[0]:,} lines and {target} has {lengths[1]:,}: they are not parallel"
            )
        left.seek(0)
        right.seek(0)
        return list(itertools.islice(zip(left, right), 0, None, max(1, -(-lengths[0] // max_lines))))


def learn_shortlist(pairs: Sequence[Pair], first: int = 200, best: int = 50) -> Iterator[tuple[str, list[str]]]:
    """Learn a shortlist (see `fairseq_resmlp.inference.shortlist`) from a tokenized bitext.

    Args:
        pairs: source and target lines, subwords separated by spaces
        first: number of frequent target subwords that are always allowed
        best: number of target subwords per source subword, those with the largest p(target | source)

    Yields:
        lines of the file: a source subword ("" first) and the target subwords that it allows. A source subword that is
        also a target subword, for example of a name, allows itself.
    """
    source, target = (_by_frequency(pair[side] for pair in pairs) for side in (0, 1))
    batches = _make_batches(pairs, source, target)
    table = _cooccurring_pairs(batches, len(target))
    p = _estimate(batches, table, len(source), len(target))
    yield "", target[:first]
    targets = set(target)
    ends = torch.searchsorted(table, torch.arange(1, len(source) + 1) * len(target)).tolist()
    for subword, start, end in zip(source, [0, *ends], ends):
        top = table[start:end][p[start:end].topk(min(best, end - start))[1]] % len(target)
        allowed = [target[i] for i in top.tolist()]
        yield subword, allowed if subword in allowed or subword not in targets else [*allowed, subword]


def _by_frequency(lines: Iterator[str]) -> list[str]:
    """Return the subwords, the most frequent first."""
    return [subword for subword, _ in Counter(subword for line in lines for subword in line.split()).most_common()]


def _make_batches(pairs: Sequence[Pair], source: Sequence[str], target: Sequence[str]) -> list[Batch]:
    """Group pairs of similar length, because batches are padded. Pairs with an empty side are skipped."""
    ids = [{subword: i for i, subword in enumerate(side)} for side in (source, target)]
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    batches = []
    for start in range(0, len(order), BATCH_SIZE):
        chosen = [pairs[i] for i in order[start : start + BATCH_SIZE] if all(map(str.split, pairs[i]))]
        if chosen:
            left, right = (
                pad_sequence([torch.tensor([of[x] for x in line.split()]) for line in side], True, -1)
                for of, side in zip(ids, zip(*chosen))
            )
            batches.append((left, right))
    return batches


def _links(batch: Batch, V: int) -> tuple[Tensor, Tensor]:
    """Return the number s V + t of each pair of subwords in a sentence pair, and a mask of real pairs, n x T x S."""
    source, target = batch[0][:, None], batch[1][:, :, None]
    return source * V + target, (source >= 0) & (target >= 0)


def _cooccurring_pairs(batches: Sequence[Batch], V: int) -> Tensor:
    """Return the sorted numbers of all pairs of subwords that occur in a sentence pair."""
    table = torch.zeros(0, dtype=torch.long)
    for batch in batches:
        numbers, real = _links(batch, V)
        table = torch.cat([table, numbers[real].unique()]).unique()
    return table


def _estimate(batches: Sequence[Batch], table: Tensor, source_size: int, V: int) -> Tensor:
    """Estimate p(target | source) of each pair in `table` by expectation maximization."""
    p = torch.ones(len(table), dtype=torch.float64)
    source = table // V
    for _ in range(EM_ITERATIONS):
        expected = torch.zeros_like(p)
        for batch in batches:
            numbers, real = _links(batch, V)
            places = torch.searchsorted(table, numbers).clamp_max(len(table) - 1)
            share = p[places] * real
            share /= share.sum(-1, keepdim=True).clamp_min(1e-300)
            expected.index_add_(0, places[real], share[real])
        p = expected / torch.zeros(source_size, dtype=p.dtype).index_add_(0, source, expected)[source]
    return p
