"""Python replacements of fairseq's compiled extensions, for installations without a compiler.

fairseq compiles two functions that translation needs: batching by size, and the n-gram counts of BLEU. If fairseq was
built without them, these functions take their place, with the same results (the tests compare both). Batching a million
sentences takes about half a second. Not replaced: fairseq.data.token_block_utils_fast, which language models use.
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
from fairseq.scoring import bleu

from fairseq_resmlp.common.errors import InputError

BATCHING, BLEU = "fairseq.data.data_utils_fast", "fairseq.libbleu"


def supply_missing_extensions() -> None:
    """Put the functions of this module in the place of extensions that are missing."""
    if find_spec(BATCHING) is None:
        module = ModuleType(BATCHING, __doc__)
        for function in (batch_by_size_vec, batch_by_size_fn, batch_fixed_shapes_fast):
            setattr(module, function.__name__, function)
        sys.modules[BATCHING] = module
    if find_spec(BLEU) is None:
        bleu.Scorer.__init__ = init_scorer
        bleu.Scorer.reset = reset_scorer
        bleu.Scorer.add = add_to_scorer


def batch_by_size_vec(
    indices: np.ndarray, num_tokens_vec: np.ndarray, max_tokens: int, max_sentences: int, bsz_mult: int
) -> list[np.ndarray]:
    """Split indices, in their order, into batches.

    Args:
        indices: numbers of sentences
        num_tokens_vec: the length of each
        max_tokens: maximum of sentences times longest sentence, or -1
        max_sentences: maximum number of sentences, or -1
        bsz_mult: a batch has fewer sentences, or a multiple of this number

    Raises:
        AssertionError: a sentence is longer than max_tokens
    """
    if len(indices) == 0:
        return []
    assert max_tokens <= 0 or num_tokens_vec.max() <= max_tokens, (
        f"Sentences lengths should not exceed max_tokens={max_tokens}"
    )
    splits: list[int] = []
    # The open batch is start:end. The tail, end:i+1, joins it once both together have an allowed size.
    start = end = longest = longest_of_tail = 0
    for i, tokens in enumerate(num_tokens_vec.tolist()):
        longest_of_tail = max(longest_of_tail, tokens)
        size, longest_of_both = i + 1 - start, max(longest, longest_of_tail)
        too_large = size > max_sentences > 0 or size * longest_of_both > max_tokens > 0
        if too_large:
            if longest_of_tail * (i + 1 - end) > max_tokens > 0:  # the tail alone is too large: it becomes a batch, too
                splits.append(end)
                end, longest_of_tail = i, tokens
            splits.append(end)
            start, longest_of_both = end, longest_of_tail
        if too_large or size < bsz_mult or size % bsz_mult == 0:
            end, longest, longest_of_tail = i + 1, longest_of_both, 0
    if end != len(indices):
        splits.append(end)
    return np.split(indices, splits)


def batch_by_size_fn(
    indices: np.ndarray, num_tokens_fn: Callable[[int], int], max_tokens: int, max_sentences: int, bsz_mult: int
) -> list[np.ndarray]:
    """`batch_by_size_vec` with a function that returns the length of a sentence."""
    num_tokens_vec = np.array([num_tokens_fn(i) for i in indices.tolist()], dtype=np.int64)
    return batch_by_size_vec(indices, num_tokens_vec, max_tokens, max_sentences, bsz_mult)


def batch_fixed_shapes_fast(*_: Any) -> list[np.ndarray]:
    """Not available: batches of fixed shapes are for TPUs."""
    raise InputError(
        "batches of fixed shapes require fairseq's compiled extensions: install a C++ compiler and Python's headers, "
        "then fairseq-fixed without READTHEDOCS in the environment"
    )


def init_scorer(self: bleu.Scorer, cfg: bleu.BleuConfig) -> None:
    """Replace Scorer.__init__, which loads the extension."""
    self.stat = bleu.BleuStat()
    self.pad, self.eos, self.unk = cfg.pad, cfg.eos, cfg.unk
    self.reset()


def reset_scorer(self: bleu.Scorer, one_init: bool = False) -> None:
    """Replace Scorer.reset: all counts are 0, or, with `one_init`, those of n > 1 are 1."""
    for name, _ in self.stat._fields_:
        setattr(self.stat, name, int(one_init and name[-1] in "234"))


def add_to_scorer(self: bleu.Scorer, ref: Any, pred: Any) -> None:
    """Replace Scorer.add: count the n-grams of a sentence, and those that also occur in its reference.

    Args:
        ref (IntTensor): the reference; unknown words in it match nothing
        pred (IntTensor): the translation
    """
    for name, tensor in (("ref", ref), ("pred", pred)):
        if str(tensor.type()) != "torch.IntTensor":
            raise TypeError(f"{name} must be a torch.IntTensor (got {type(tensor)})")
    reference = [-999 if token == self.unk else token for token in _strip(ref.view(-1).tolist(), self.pad, self.eos)]
    translation = _strip(pred.view(-1).tolist(), self.pad, self.eos)
    self.stat.reflen += len(reference)
    self.stat.predlen += len(translation)
    for n in range(1, 5):
        expected, found = _ngrams(reference, n), _ngrams(translation, n)
        setattr(self.stat, f"count{n}", getattr(self.stat, f"count{n}") + found.total())
        setattr(self.stat, f"match{n}", getattr(self.stat, f"match{n}") + (expected & found).total())


def _strip(tokens: list[int], pad: int, eos: int) -> list[int]:
    """Remove padding at the beginning, and padding and end-of-sentence tokens at the end, as the extension does."""
    first, last = 0, len(tokens)
    while first < last and tokens[first] == pad:
        first += 1
    while last - first > 1 and tokens[last - 1] in (pad, eos):
        last -= 1
    return tokens[first:last]


def _ngrams(tokens: Sequence[int], n: int) -> Counter[tuple[int, ...]]:
    return Counter(zip(*(tokens[i:] for i in range(n))))
