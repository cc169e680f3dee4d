"""Patches of batching and of sentence lengths."""

import os

import pytest
import torch
from fairseq.data import Dictionary, LanguagePairDataset, data_utils
from fairseq.tasks.translation import TranslationConfig, TranslationTask

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


def test_a_long_source_is_reported_with_the_limit_that_truncates_it():
    dictionary, long = make_dictionary(), torch.tensor([5] * 11 + [2])
    task = make_task(truncate_source=True)
    explain_long_sentences(task)
    dataset = LanguagePairDataset([long], [12], dictionary, [long], [12], dictionary)
    with pytest.raises(InputError, match="or truncate it with --truncate-source --max-source-positions 10; or skip"):
        task.get_batch_iterator(dataset, max_sentences=4, max_positions=(10, 24))


def test_a_sentence_that_exceeds_max_tokens_is_reported_with_its_length():
    task, dictionary = make_task(), make_dictionary()
    pairs = [(3, 2), (4, 9), (30, 1), (5, 5)]
    source, target = ([torch.tensor([5] * (pair[side] - 1) + [2]) for pair in pairs] for side in (0, 1))
    sizes = [[pair[side] for pair in pairs] for side in (0, 1)]
    dataset = LanguagePairDataset(source, sizes[0], dictionary, target, sizes[1], dictionary)
    task.datasets["valid"] = dataset
    with pytest.raises(InputError, match=r"sentence 2 of valid has 30 tokens .* --max-tokens 8: .* --max-tokens 30 or"):
        task.get_batch_iterator(dataset, max_tokens=8)
    with pytest.raises(InputError, match=r"sentence 1 of valid has 9 tokens"):  # sentence 2 is skipped
        task.get_batch_iterator(dataset, max_tokens=8, max_positions=(10, 10), ignore_invalid_inputs=True)
    assert [len(batch) for batch in task.get_batch_iterator(dataset, max_tokens=30).frozen_batches] == [3, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_positions": (1, 1), "ignore_invalid_inputs": True}, "test has no sentences to use: it is empty, or"),
        ({"num_shards": 3, "shard_id": 2}, "shard 2 of 3 has no batch, because test has only 2: use fewer shards"),
    ],
)
def test_an_empty_set_or_shard_is_reported(options, message):
    task, dictionary, sentences = make_task(), make_dictionary(), make_sentences(6)
    lengths = [len(s) for s in sentences]
    dataset = LanguagePairDataset(sentences, lengths, dictionary, sentences, lengths, dictionary)
    task.datasets["test"] = dataset
    with pytest.raises(InputError, match=message):
        task.get_batch_iterator(dataset, max_sentences=4, **options)


def test_shards_are_disjoint_and_complete():
    task, dictionary, sentences = make_task(), make_dictionary(), make_sentences(23)
    lengths = [len(s) for s in sentences]
    parts = []
    for shard in range(3):
        dataset = LanguagePairDataset(sentences, lengths, dictionary, sentences, lengths, dictionary)
        batches = task.get_batch_iterator(dataset, max_sentences=4, num_shards=3, shard_id=shard)
        parts += [i for batch in batches.next_epoch_itr(shuffle=False) if batch for i in batch["id"].tolist()]
    assert sorted(parts) == list(range(23))


def test_different_numbers_of_source_and_target_sentences_are_reported():
    dictionary, sentences = make_dictionary(), make_sentences(3)
    with pytest.raises(InputError, match="a set has 3 source and 2 target sentences"):
        LanguagePairDataset(sentences, [3] * 3, dictionary, sentences[:2], [3] * 2, dictionary)


def test_a_file_that_is_not_a_dictionary_is_named(tmp_path):
    for text in ("a b c\n", "w1 1\nw1 1\n"):
        (tmp_path / "dict.txt").write_text(text)
        with pytest.raises(InputError, match=r"dict\.txt is not a dictionary of fairseq: "):
            Dictionary.load(str(tmp_path / "dict.txt"))


@pytest.mark.parametrize(
    ("specified", "expected"),
    [
        ({}, ("src", "tgt")),
        ({"source_lang": "src"}, ("src", "tgt")),
        ({"source_lang": "tgt"}, ("tgt", "src")),
        ({"target_lang": "tgt"}, ("src", "tgt")),
        ({"target_lang": "src"}, ("tgt", "src")),
    ],
)
def test_a_single_specified_language_is_respected(tmp_path, specified, expected):
    for name in ("dict.src.txt", "dict.tgt.txt", "train.src-tgt.src.idx"):
        (tmp_path / name).write_text("w1 1\n")
    cfg = TranslationConfig(data=str(tmp_path), **specified)
    TranslationTask.setup_task(cfg)
    assert (cfg.source_lang, cfg.target_lang) == expected


def test_a_language_that_the_data_do_not_have_is_refused(tmp_path):
    (tmp_path / "train.src-tgt.src.idx").touch()
    with pytest.raises(InputError, match=f"language en not found in {tmp_path}, which has src and tgt"):
        TranslationTask.setup_task(TranslationConfig(data=str(tmp_path), source_lang="en"))


def test_a_dictionary_that_is_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "dict.txt")
    with pytest.raises(InputError, match=r"dict\.txt is a pipe: specify a regular file"):
        Dictionary.load(str(tmp_path / "dict.txt"))
