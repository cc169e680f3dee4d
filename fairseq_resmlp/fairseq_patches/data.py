"""Patches of batching and of sentence lengths."""

import functools
import logging
import os

import numpy as np
from fairseq import utils
from fairseq.data import Dictionary, LanguagePairDataset, data_utils
from fairseq.data.iterators import EpochBatchIterator
from fairseq.tasks import FairseqTask
from fairseq.tasks.translation import TranslationTask
from torch import distributed

from fairseq_resmlp.common.errors import InputError, too_long_message
from fairseq_resmlp.common.regular_files import check_regular_file

logger = logging.getLogger(__name__)


def fix_dropped_last_batch() -> None:
    """Keep the last batch (fairseq issues 5036, 5094, 5351).

    `batch_by_size` drops its last batch if the size is not a multiple of --required-batch-size-multiple, 8 by default:
    of 197 test lines, 192 are translated.
    """
    original = data_utils.batch_by_size
    nine = np.arange(9)
    kept = original(nine, None, np.ones_like(nine), max_sentences=8, required_batch_size_multiple=8)
    if sum(map(len, kept)) == len(nine):
        return

    @functools.wraps(original)
    def batch_by_size(indices, *args, fixed_shapes=None, **kwargs):
        if fixed_shapes is not None:
            return original(indices, *args, fixed_shapes=fixed_shapes, **kwargs)
        if not isinstance(indices, np.ndarray):
            indices = np.fromiter(indices, dtype=np.int64, count=-1)
        if len(indices) == 0:
            return []
        batches = list(original(indices, *args, **kwargs))
        kept = sum(map(len, batches))
        return batches + [indices[kept:]] if kept < len(indices) else batches

    data_utils.batch_by_size = batch_by_size


def fix_batches_after_resume() -> None:
    """Make resumed training use the same batches as uninterrupted training (fairseq issue 1156).

    fairseq caches the batches of the first epoch of the process, drawn with a seed that depends on the epoch: resumed
    in epoch 2, it groups the sentences differently. Here, cached batches are always drawn as in epoch 1.
    """
    original = FairseqTask.get_batch_iterator

    @functools.wraps(original)
    def get_batch_iterator(self, dataset, *args, epoch=1, **kwargs):
        fresh_each_epoch = kwargs.get("disable_iterator_cache") or kwargs.get("update_epoch_batch_itr")
        if fresh_each_epoch or not self.can_reuse_epoch_itr(dataset):
            return original(self, dataset, *args, epoch=epoch, **kwargs)
        before = self.dataset_to_epoch_iter.get(dataset)
        iterator = original(self, dataset, *args, epoch=1, **kwargs)
        if iterator is not before:
            iterator.epoch = max(epoch, 1)
        return iterator

    FairseqTask.get_batch_iterator = get_batch_iterator


def explain_unusable_data() -> None:
    """Report data that cannot be used in one line, with its name and the remedy.

    This covers sentences longer than --max-tokens (fairseq issue 2650), empty sets, different numbers of source and
    target sentences, and files that are not dictionaries.
    """
    original, init, load_dictionary = FairseqTask.get_batch_iterator, LanguagePairDataset.__init__, Dictionary.load

    @functools.wraps(init)
    def __init__(self, src, src_sizes, src_dict, tgt=None, *args, **kwargs):
        if tgt is not None and len(src) != len(tgt):
            raise InputError(
                f"a set has {len(src)} source and {len(tgt)} target sentences: run fairseq-preprocess on parallel files"
            )
        init(self, src, src_sizes, src_dict, tgt, *args, **kwargs)

    def load(cls, f):
        if isinstance(f, str) and os.path.exists(f):
            check_regular_file(f, pipes=True)
        try:
            return load_dictionary.__func__(cls, f)
        except OSError:
            raise
        except Exception as error:  # fairseq raises this class itself for text that is not UTF-8
            raise InputError(f"{f} is not a dictionary of fairseq: {error}") from error

    @functools.wraps(original)
    def get_batch_iterator(self, dataset, max_tokens=None, max_sentences=None, max_positions=None, *args, **kwargs):
        name = _split_name(self, dataset)
        try:
            iterator = original(self, dataset, max_tokens, max_sentences, max_positions, *args, **kwargs)
        except AssertionError as error:
            if "max_tokens" not in str(error):
                raise
            raise InputError(_describe_longest_sentence(dataset, name, max_tokens, max_positions)) from error
        if name and isinstance(iterator, EpochBatchIterator):
            _check_batches(iterator, name)
        return iterator

    LanguagePairDataset.__init__ = __init__
    Dictionary.load = classmethod(load)
    FairseqTask.get_batch_iterator = get_batch_iterator


def complete_language_pair() -> None:
    """Infer the other language if only --source-lang or --target-lang is specified.

    fairseq infers both from the file names then, and ignores the specified one: with -s de and data named en-de, it
    trains from en to de.
    """
    original = TranslationTask.setup_task

    def setup_task(cls, cfg, **kwargs):
        if (cfg.source_lang is None) != (cfg.target_lang is None):
            known, path = cfg.source_lang or cfg.target_lang, utils.split_paths(cfg.data)[0]
            pair = [language for language in data_utils.infer_language_pair(path) if language]
            if known not in pair:
                raise InputError(f"language {known} not found in {path}, which has {' and '.join(pair) or 'no data'}")
            other = pair[1 - pair.index(known)]
            cfg.source_lang, cfg.target_lang = (known, other) if cfg.target_lang is None else (other, known)
        return original.__func__(cls, cfg, **kwargs)

    TranslationTask.setup_task = classmethod(setup_task)


def _split_name(task: FairseqTask, dataset) -> str | None:
    """Return the name of a dataset, such as valid, or None for the input of fairseq-interactive."""
    return next((name for name, other in task.datasets.items() if other is dataset), None)


def _describe_longest_sentence(dataset, name: str | None, max_tokens: int, max_positions) -> str:
    indices = np.arange(len(dataset))
    if max_positions is not None:  # longer sentences were skipped
        indices, _ = dataset.filter_indices_by_size(indices, max_positions)
    longest = max(indices.tolist(), key=dataset.num_tokens)
    length = dataset.num_tokens(longest)
    return (
        f"sentence {longest}{f' of {name}' if name else ''} has {length} tokens on one side, including the "
        f"end-of-sentence token, and does not fit into a batch of --max-tokens {max_tokens}: specify --max-tokens "
        f"{length} or more (--max-tokens-valid in training, if you use it)"
    )


def _check_batches(iterator: EpochBatchIterator, name: str) -> None:
    if not iterator.frozen_batches:
        raise InputError(
            f"{name} has no sentences to use: it is empty, or every sentence was skipped because it exceeds "
            "--max-tokens or the maximum lengths of the model or task"
        )
    # Processes of one training without a batch of their own take part with an empty one.
    if iterator.shard_id >= len(iterator.frozen_batches) and not distributed.is_initialized():
        raise InputError(
            f"shard {iterator.shard_id} of {iterator.num_shards} has no batch, because {name} has only "
            f"{len(iterator.frozen_batches)}: use fewer shards, or smaller batches with --max-tokens or --batch-size"
        )


def explain_long_sentences(task: FairseqTask) -> None:
    """Report the exceeded limit and how to raise it, instead of "Size of sample #0 is invalid".

    The message names options of this plugin's models, so only their tasks are changed (see `adapt_task`). Users can
    still skip such sentences with --skip-invalid-size-inputs-valid-test.
    """
    original = task.filter_indices_by_size

    def filter_indices_by_size(indices, dataset, max_positions=None, ignore_invalid_inputs=False):
        if not ignore_invalid_inputs and max_positions is not None:
            _, ignored = dataset.filter_indices_by_size(indices, max_positions)
            for index in ignored[:1]:
                split = _split_name(task, dataset)
                raise InputError(
                    f"sentence {index}{f' of {split}' if split else ''}: "
                    f"{_describe_long_side(task, dataset.size(index), max_positions)}; or skip such sentences with "
                    "--skip-invalid-size-inputs-valid-test"
                )
        return original(indices, dataset, max_positions, ignore_invalid_inputs)

    task.filter_indices_by_size = filter_indices_by_size


def _describe_long_side(task: FairseqTask, size, max_positions) -> str:
    sides = zip(("source", "target"), ("encoder", "decoder"), size, max_positions, task.max_positions())
    for side, stack, length, limit, task_limit in sides:
        if length > limit:
            # The task has its own limit, 1024 by default; the smaller one applies.
            if limit >= task_limit:
                return f"a {side} sentence of {length} tokens exceeds {limit}: raise --max-{side}-positions"
            message = too_long_message(length, limit, side, stack)
            if side == "source" and getattr(task.cfg, "truncate_source", False):
                # --truncate-source uses the task's limit, which is larger than N.
                message += f", or truncate it with --truncate-source --max-source-positions {limit}"
            return message
    raise AssertionError(f"{size} fits {max_positions}")


def truncate_long_lines(task: FairseqTask, N: int) -> None:
    """Translate the first N - 1 tokens of a longer line, with a warning.

    This applies to fairseq-interactive and `HubTranslator.translate`, whose input is arbitrary text: fairseq would
    stop, or skip the line and renumber the others. fairseq-generate, whose test sets are scored, rejects long sentences
    instead (see `explain_long_sentences`).
    """
    original = task.build_dataset_for_inference

    @functools.wraps(original)
    def build_dataset_for_inference(src_tokens, src_lengths, **kwargs):
        limit = min(N, task.max_positions()[0])
        lines = list(src_tokens)
        for i, line in enumerate(lines):
            if len(line) > limit:
                start = task.source_dictionary.string(line[:8])
                logger.warning(
                    f"a line of {len(line) - 1:,} tokens was truncated to its first {limit - 1}, because "
                    f"{'N' if limit == N else '--max-source-positions'} = {limit} includes the end-of-sentence token: "
                    f"{start} ..."
                )
                lines[i] = line[:limit].clone()
                lines[i][-1] = line[-1]  # the end-of-sentence token
        return original(lines, [len(line) for line in lines], **kwargs)

    task.build_dataset_for_inference = build_dataset_for_inference
