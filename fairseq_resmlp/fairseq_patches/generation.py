"""Patches of fairseq-generate, fairseq-interactive and the hub interface."""

import functools
import math
import re
import sys

from fairseq import utils
from fairseq.search import DiverseBeamSearch
from fairseq.sequence_generator import SequenceGenerator
from fairseq_cli import interactive
from omegaconf import open_dict

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.text import read_lines


def fix_diverse_beam_search() -> None:
    """Make --diverse-beam-groups work beyond the first batch (broken since fairseq pull request 5069).

    The search keeps a table with one row per sentence of the batch, but indexes it with the sentence's number in the
    whole corpus.
    """
    original = SequenceGenerator.generate

    @functools.wraps(original)
    def generate(self, models, sample, **kwargs):
        if isinstance(self.search, DiverseBeamSearch):
            sample = {key: value for key, value in sample.items() if key != "id"}  # fairseq then numbers the batch
        return original(self, models, sample, **kwargs)

    SequenceGenerator.generate = generate


def refuse_nonfinite_scores() -> None:
    """Raise an error if the model's output is NaN.

    The search treats NaN as a probability of zero, and continues to a random translation, or to none.
    """
    original = SequenceGenerator.generate

    @functools.wraps(original)
    def generate(self, models, sample, **kwargs):
        try:
            found = original(self, models, sample, **kwargs)
        except AssertionError as error:
            if not re.fullmatch(r"\d+ < \d+", str(error)):  # no hypothesis has ended at the maximum length
                raise
            found = [[]]
        if not all(hypotheses and math.isfinite(hypotheses[0]["score"]) for hypotheses in found):
            raise InputError(
                "a sentence has no translation with a finite score: the model's activations overflow or are NaN; if "
                "you use float16, switch to float32 (omit --fp16)"
            )
        return found

    SequenceGenerator.generate = generate


def patch_interactive_input() -> None:
    """Make fairseq-interactive accept any line and print one translation per line."""
    original = interactive.make_batches

    @functools.wraps(original)
    def make_batches(sentences, cfg, task, max_positions, encode_fn):
        raise_max_tokens_to_max_positions(cfg, max_positions)
        yield from original(sentences, cfg, task, max_positions, encode_fn)
        task.dataset_to_epoch_iter.clear()  # fairseq keeps everything it has read here

    def buffered_read(path, buffer_size):
        if hasattr(sys.stdout, "reconfigure"):  # absent if Python has redirected it
            sys.stdout.reconfigure(encoding="utf-8", errors=sys.stdout.errors)  # like the input, whatever the terminal
        return read_lines(path, buffer_size)

    interactive.make_batches = make_batches
    interactive.buffered_read = buffered_read


def raise_max_tokens_to_max_positions(cfg, max_positions) -> None:
    """Allow a line of N tokens to form a batch, which fairseq rejects if --max-tokens is smaller."""
    if cfg.dataset.max_tokens is not None:
        with open_dict(cfg):
            cfg.dataset.max_tokens = max(cfg.dataset.max_tokens, max_positions[0])


def fix_replace_unk() -> None:
    """Make --replace-unk accept the (source, target) pairs that --print-alignment produces (fairseq issue 3533)."""
    original = utils.replace_unk

    @functools.wraps(original)
    def replace_unk(hypo_str, src_str, alignment, align_dict, unk):
        if isinstance(alignment, list):
            source_of = {target: source for source, target in alignment}
            # A target without a source word maps to the end of the sentence, which fairseq puts last.
            alignment = [source_of.get(target, -1) for target in range(len(hypo_str.split()))]
        return original(hypo_str, src_str, alignment, align_dict, unk)

    utils.replace_unk = replace_unk
