"""Patches of batching and of sentence lengths."""

import functools
import logging

import numpy as np
from fairseq.data import data_utils
from fairseq.tasks import FairseqTask

from fairseq_resmlp.common.errors import InputError, too_long_message

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
                split = next((name for name, other in task.datasets.items() if other is dataset), None)
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
            return too_long_message(length, limit, side, stack)
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
