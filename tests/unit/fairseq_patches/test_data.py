"""Patches of batching and of sentence lengths."""

import pytest
import torch
from fairseq.data import LanguagePairDataset, data_utils

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.fairseq_patches.data import explain_long_sentences, fix_dropped_last_batch
from support.models import make_dictionary, make_sentences, make_task


@pytest.mark.parametrize("size", range(1, 21))
def test_batching_keeps_every_sentence_of_a_set_of_any_size(size):
    sentences = make_sentences(size)
    dictionary = make_dictionary()
    task = make_task()
    lengths = [len(s) for s in sentences]
    dataset = LanguagePairDataset(sentences, lengths, dictionary, sentences, lengths, dictionary)
    for limits in ({"max_tokens": 40}, {"max_sentences": 16}, {"max_tokens": 60, "max_sentences": 5}):
        batches = task.get_batch_iterator(dataset, required_batch_size_multiple=8, **limits)
        ids = [i for batch in batches.next_epoch_itr(shuffle=False) for i in batch["id"].tolist()]
        assert sorted(ids) == list(range(size))


def test_an_empty_set_gives_no_batches():
    assert data_utils.batch_by_size(iter([]), lambda i: 1, max_sentences=4, required_batch_size_multiple=8) == []


def test_batching_is_unchanged_if_fairseq_drops_nothing(monkeypatch):
    def fixed_in_fairseq(indices, *args, **kwargs):
        return [indices]

    monkeypatch.setattr(data_utils, "batch_by_size", fixed_in_fairseq)
    fix_dropped_last_batch()
    assert data_utils.batch_by_size is fixed_in_fairseq


def test_a_long_sentence_is_reported_with_its_length_n_and_the_option():
    dictionary = make_dictionary()
    short, long = torch.tensor([5, 2]), torch.tensor([5] * 11 + [2])
    task = make_task()
    explain_long_sentences(task)
    for source, target, message in (
        (
            *(long, short),
            r"sentence 1 of valid: a source sentence of 12 .* N = 10.*--encoder-max-positions 12.* --skip-invalid-size",
        ),
        (short, long, r"sentence 1 of valid: a target sentence of 12 .* N = 9.*--decoder-max-positions 12"),
    ):
        dataset = LanguagePairDataset(
            [short, source], [2, len(source)], dictionary, [short, target], [2, len(target)], dictionary
        )
        task.datasets["valid"] = dataset
        with pytest.raises(InputError, match=message):
            task.get_batch_iterator(dataset, max_sentences=4, max_positions=(10, 9))
        kept = task.get_batch_iterator(dataset, max_sentences=4, max_positions=(10, 9), ignore_invalid_inputs=True)
        assert [b["id"].tolist() for b in kept.next_epoch_itr(shuffle=False)] == [[0]]


def test_the_limit_of_the_task_is_reported_if_it_is_smaller_than_n():
    dictionary, long = make_dictionary(), torch.tensor([5] * 11 + [2])
    task = make_task(max_source_positions=10)
    explain_long_sentences(task)
    dataset = LanguagePairDataset([long], [12], dictionary, [long], [12], dictionary)
    with pytest.raises(InputError, match="a source sentence of 12 tokens exceeds 10: raise --max-source-positions"):
        task.get_batch_iterator(dataset, max_sentences=4, max_positions=(10, 24))
