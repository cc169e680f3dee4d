"""Training resumes with other options, or says which one has to stay the same."""

import shutil

import pytest
from fairseq.data import LanguagePairDataset

from fairseq_resmlp.checkpoints.checkpoint_file import read_checkpoint
from fairseq_resmlp.common.errors import InputError
from support.models import make_dictionary, make_sentences, make_task
from support.training import train


def make_iterator(count=48, **limits):
    """Return an iterator over the batches of `count` sentences."""
    sentences, dictionary = make_sentences(count), make_dictionary()
    lengths = [len(s) for s in sentences]
    dataset = LanguagePairDataset(sentences, lengths, dictionary, sentences, lengths, dictionary)
    return make_task().get_batch_iterator(dataset, **limits)


def state_after(iterator, batches):
    epoch = iterator.next_epoch_itr(shuffle=False)
    for _ in range(batches):
        next(epoch)
    return iterator.state_dict()


@pytest.mark.parametrize(
    ("count", "limits", "expected"),
    [
        (48, {"max_sentences": 4}, 6),
        (48, {"max_sentences": 2}, 12),
        (48, {"max_sentences": 16}, 1),
        (48, {"max_sentences": 48}, 0),
        (20, {"max_sentences": 4}, 2),
        (96, {"max_sentences": 4}, 12),
    ],
)
def test_training_continues_after_the_same_fraction_of_the_epoch(count, limits, expected, caplog):
    state = state_after(make_iterator(max_sentences=4), 6)  # of 12 batches
    resumed = make_iterator(count, **limits)
    resumed.load_state_dict(state)
    assert resumed.iterations_in_epoch == expected
    assert len(list(resumed.next_epoch_itr(shuffle=False))) == len(resumed) - expected
    changed = len(resumed) != 12
    assert (f"epoch 1 now has {len(resumed)} batches instead of 12, and continues after" in caplog.text) == changed


def batches_of_update(processes, update, state=None):
    """Return the sentences of an update of 4 batches, divided among processes, and a state after `update` of them."""
    seen = []
    for shard in range(processes):
        iterator = make_iterator(84, max_sentences=4, num_shards=processes, shard_id=shard)  # 21 batches
        if state is not None:
            iterator.load_state_dict(state)
        epoch = iterator.next_epoch_itr(shuffle=True)
        batches = [next(epoch) for _ in range(4 // processes * (1 if state else update))]
        seen += [i for batch in batches[-4 // processes :] for i in batch["id"].tolist()]
    return sorted(seen), iterator.state_dict()


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 4), (4, 1), (1, 4)])
def test_another_number_of_processes_continues_with_the_batches_that_follow(before, after):
    _, state = batches_of_update(before, 2)
    expected, _ = batches_of_update(before, 3)
    assert batches_of_update(after, 1, state)[0] == expected


def test_a_checkpoint_of_fairseq_from_beyond_the_end_of_the_epoch_resumes_at_its_beginning(caplog):
    state = state_after(make_iterator(max_sentences=4), 6)
    del state["batches_in_epoch"]
    for size, expected in ((6, 6), (8, 0)):  # 8 and 6 batches
        resumed = make_iterator(max_sentences=size)
        resumed.load_state_dict(state)
        assert resumed.iterations_in_epoch == expected
    assert "epoch 1 now has 6 batches, and continues after batch 0, not 6" in caplog.text


@pytest.mark.slow
def test_other_batches_are_accepted_and_other_options_that_cannot_change_are_named(toy, tmp_path):
    interrupted = tmp_path / "interrupted"
    train(toy / "data-bin", interrupted, "--max-tokens", "100", "--max-update", "5")
    train(toy / "data-bin", shutil.copytree(interrupted, tmp_path / "0"), "--max-tokens", "400", "--max-update", "6")
    state = read_checkpoint(tmp_path / "0" / "checkpoint_last.pt")["extra_state"]["train_iterator"]
    assert (state["epoch"], state["iterations_in_epoch"], state["batches_in_epoch"]) == (1, 2, 7)
    for number, (options, message) in enumerate(
        (
            (["--lr-scheduler", "reduce_lr_on_plateau"], "another --lr-scheduler or --optimizer.*--reset-lr-scheduler"),
            (["--store-ema"], "has no moving average of the weights: omit --store-ema"),
            (["--encoder-max-positions", "12"], r"size \(24, 24\).* has size \(12, 12\): pass --reset-optimizer"),
        ),
        1,
    ):
        copy = shutil.copytree(interrupted, tmp_path / str(number))
        with pytest.raises(InputError, match=message):
            train(toy / "data-bin", copy, "--max-tokens", "100", *options, "--max-update", "6")
