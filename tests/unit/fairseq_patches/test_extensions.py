"""The Python replacements of fairseq's compiled extensions give the same results."""

import importlib.machinery
import json
import random
import sys

import numpy as np
import pytest
import torch
from fairseq.scoring import bleu

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.fairseq_patches import extensions
from support.paths import GOLDEN

# Results of the compiled extensions, recorded by tests/golden/make_extensions.py
RECORDED = json.loads((GOLDEN / "extensions.json").read_text())


def draw_sizes(rng):
    longest = rng.choice([3, 20, 100])
    sizes = np.array([rng.randint(1, longest) for _ in range(rng.randrange(1, 60))], dtype=np.int64)
    if rng.random() < 0.5:
        sizes.sort()
    max_tokens = rng.choice([-1, longest, 2 * longest, rng.randint(longest, 20 * longest)])
    return sizes, max_tokens, rng.choice([-1, 1, 2, 8, rng.randint(1, 40)]), rng.choice([1, 2, 8, rng.randint(1, 12)])


def test_batches_are_those_of_the_compiled_extension():
    assert len(RECORDED["batches"]) == 1000
    for sizes, *limits, lengths in RECORDED["batches"]:
        indices = np.random.default_rng(len(sizes)).permutation(len(sizes))
        expected = [batch.tolist() for batch in np.split(indices, np.cumsum(lengths)[:-1])]
        found = extensions.batch_by_size_vec(indices, np.array(sizes), *limits)
        assert [batch.tolist() for batch in found] == expected
        of_index = dict(zip(indices.tolist(), sizes))
        found = extensions.batch_by_size_fn(indices, of_index.__getitem__, *limits)
        assert [batch.tolist() for batch in found] == expected


def test_batches_contain_every_sentence_once_within_the_limits():
    rng = random.Random(1)
    for _ in range(500):
        sizes, max_tokens, max_sentences, multiple = draw_sizes(rng)
        batches = extensions.batch_by_size_vec(np.arange(len(sizes)), sizes, max_tokens, max_sentences, multiple)
        assert [i for batch in batches for i in batch.tolist()] == list(range(len(sizes)))
        for batch in batches:
            assert max_tokens == -1 or len(batch) * sizes[batch].max() <= max_tokens
            assert max_sentences == -1 or len(batch) <= max_sentences


def test_no_sentences_give_no_batches_and_a_long_one_is_an_error():
    empty = np.zeros(0, dtype=np.int64)
    assert extensions.batch_by_size_vec(empty, empty, 10, -1, 1) == []
    with pytest.raises(AssertionError, match="should not exceed max_tokens=10"):
        extensions.batch_by_size_vec(np.arange(2), np.array([3, 11]), 10, -1, 1)
    with pytest.raises(InputError, match="fixed shapes require fairseq's compiled extensions"):
        extensions.batch_fixed_shapes_fast()


class PythonScorer(bleu.Scorer):
    __init__ = extensions.init_scorer
    reset = extensions.reset_scorer
    add = extensions.add_to_scorer


def test_bleu_is_that_of_the_compiled_extension():
    assert len(RECORDED["bleu"]) == 200
    for one_init, pairs, stat, result in RECORDED["bleu"]:
        scorer = PythonScorer(bleu.BleuConfig(pad=1, eos=2, unk=3))
        scorer.reset(one_init)
        for reference, translation in pairs:
            scorer.add(torch.IntTensor(reference), torch.IntTensor(translation))
        assert [getattr(scorer.stat, name) for name, _ in scorer.stat._fields_] == stat
        assert scorer.result_string() == result


def test_scores_reject_other_tensors():
    with pytest.raises(TypeError, match="pred must be a torch.IntTensor"):
        PythonScorer(bleu.BleuConfig()).add(torch.IntTensor([4, 2]), torch.LongTensor([4, 2]))


def test_only_missing_extensions_are_replaced(monkeypatch):
    found = {extensions.BATCHING: None, extensions.BLEU: None}
    monkeypatch.setattr(extensions, "find_spec", found.__getitem__)
    monkeypatch.delitem(sys.modules, extensions.BATCHING, raising=False)
    original = {name: getattr(bleu.Scorer, name) for name in ("__init__", "reset", "add")}
    for name, method in original.items():
        monkeypatch.setattr(bleu.Scorer, name, method)
    spec = importlib.machinery.ModuleSpec("present", None)
    found.update({extensions.BATCHING: spec, extensions.BLEU: spec})
    extensions.supply_missing_extensions()
    assert extensions.BATCHING not in sys.modules
    assert {name: getattr(bleu.Scorer, name) for name in original} == original
    found.update({extensions.BATCHING: None, extensions.BLEU: None})
    extensions.supply_missing_extensions()
    assert sys.modules[extensions.BATCHING].batch_by_size_vec is extensions.batch_by_size_vec
    assert bleu.Scorer.add is extensions.add_to_scorer
    monkeypatch.delitem(sys.modules, extensions.BATCHING)
