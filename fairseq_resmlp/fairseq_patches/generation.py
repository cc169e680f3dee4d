"""Patches of fairseq-generate, fairseq-interactive and the hub interface."""

import functools
import logging
import math
import re
import sys

import torch
from fairseq import utils
from fairseq.models import FairseqEncoderDecoderModel
from fairseq.search import DiverseBeamSearch, Sampling
from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment
from fairseq.token_generation_constraints import unpack_constraints
from fairseq_cli import interactive
from omegaconf import open_dict

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.text import read_lines

logger = logging.getLogger(__name__)


def fix_diverse_beam_search() -> None:
    """Make --diverse-beam-groups work beyond the first batch (broken since fairseq pull request 5069).

    The search keeps a table with one row per sentence of the batch, but indexes it with the sentence's number in the
    whole corpus.
    """
    for generator_class in (SequenceGenerator, SequenceGeneratorWithAlignment):  # the second one overrides generate
        generator_class.generate = _number_within_batch(generator_class.generate)


def _number_within_batch(search):
    @functools.wraps(search)
    def generate(self, models, sample, **kwargs):
        if isinstance(self.search, DiverseBeamSearch):
            sample = {key: value for key, value in sample.items() if key != "id"}  # fairseq then numbers the batch
        return search(self, models, sample, **kwargs)

    return generate


def explain_failed_search() -> None:
    """Translate what can be translated, and report the cause if the search finds no translation of a sentence.

    The search treats NaN as a probability of zero, and continues to a random translation, or to none. It also finds
    none if the options exclude every translation. A sentence whose constraints cannot be met (fairseq issue 3210) is
    translated without them, with a warning.
    """
    for generator_class in (SequenceGenerator, SequenceGeneratorWithAlignment):  # the second one overrides generate
        generator_class.generate = _explain_failures(generator_class.generate)


def _explain_failures(search):
    @functools.wraps(search)
    def generate(self, models, sample, **kwargs):
        found = _search(search, self, models, sample, **kwargs)
        if all(map(_is_translated, found)):
            return found
        constraints = kwargs.get("constraints")
        if constraints is None or not constraints.any():
            raise InputError(_cause_of_failure(search, self, models, sample, **kwargs))
        translations = []
        for i in range(len(constraints)):
            one, options = _select_sentence(sample, i), {**kwargs, "constraints": constraints[i : i + 1]}
            alone = _search(search, self, models, one, **options)
            if not _is_translated(alone[0]):
                if constraints[i].any():
                    _warn_of_constraints(self, constraints[i])
                alone = generate(self, models, one, **{**options, "constraints": torch.zeros_like(constraints[:1])})
            translations += alone
        return translations

    return generate


def _search(search, generator: SequenceGenerator, models, sample, **kwargs) -> list:
    """Return the hypotheses of each sentence, or none for every sentence if the search fails."""
    try:
        return search(generator, models, sample, **kwargs)
    except AssertionError as error:
        if str(error).startswith("min_len"):
            raise InputError(
                f"--min-len {generator.min_len} is larger than the maximum length of a translation, which --max-len-a, "
                "--max-len-b and the model limit: lower --min-len"
            ) from error
        # No hypothesis has ended at the maximum length.
        if not re.fullmatch(r"\d+ < \d+", str(error)):
            raise
    return [[]] * len(sample["net_input"]["src_tokens"])


def _is_translated(hypotheses: list) -> bool:
    return bool(hypotheses) and math.isfinite(hypotheses[0]["score"])


def _select_sentence(sample, i: int):
    """Return a batch with sentence i of the batch, as long as the others."""
    row = {name: value[i : i + 1] for name, value in sample.items() if name != "net_input" and torch.is_tensor(value)}
    return {**row, "net_input": {name: value[i : i + 1] for name, value in sample["net_input"].items()}}


def _warn_of_constraints(generator: SequenceGenerator, packed) -> None:
    tokens = torch.cat(unpack_constraints(packed))
    start = generator.tgt_dict.string(tokens[:8])
    logger.warning(
        f"no translation within the maximum length contains the {len(tokens)} tokens of the constraints of a line: it "
        f"was translated without them. Use fewer constraints, or raise --max-len-b if it is the limit: {start}"
        f"{' ...' if len(tokens) > 8 else ''}"
    )


def _cause_of_failure(search, generator: SequenceGenerator, models, sample, **kwargs) -> str:
    """Search again, and return whether the model's output contained NaN or infinity, or the options are the cause."""
    outputs_are_valid = True
    forward = generator.model.forward_decoder

    def forward_decoder(*args):
        nonlocal outputs_are_valid
        lprobs, attention = forward(*args)
        outputs_are_valid &= not (lprobs.isnan() | lprobs.eq(math.inf)).any().item()
        return lprobs, attention

    generator.model.forward_decoder = forward_decoder
    try:
        _search(search, generator, models, sample, **kwargs)
    finally:
        del generator.model.forward_decoder
    if not outputs_are_valid:
        return (
            "a sentence has no translation with a finite score: the model's activations overflow or are NaN; if you "
            "use float16, switch to float32 (omit --fp16)"
        )
    return (
        "a sentence has no translation, because the options of the search exclude all: check --no-repeat-ngram-size, "
        "--unkpen, --lenpen, --prefix-size and --match-source-len"
    )


def explain_large_topk() -> None:
    """Report in one line that --sampling-topk is larger than the dictionary."""
    original = Sampling.__init__

    @functools.wraps(original)
    def __init__(self, tgt_dict, sampling_topk=-1, sampling_topp=-1.0):
        if sampling_topk > len(tgt_dict):
            raise InputError(
                f"--sampling-topk {sampling_topk} is larger than the target dictionary: use at most {len(tgt_dict)}"
            )
        original(self, tgt_dict, sampling_topk, sampling_topp)

    Sampling.__init__ = __init__


def refuse_translation_model_as_language_model() -> None:
    """Report in one line that the model of --lm-path is one for translation, which needs a source."""
    original = SequenceGenerator.__init__

    @functools.wraps(original)
    def __init__(self, models, tgt_dict, *args, lm_model=None, **kwargs):
        if isinstance(lm_model, FairseqEncoderDecoderModel):
            raise InputError("--lm-path is a translation model: specify a language model with the same dictionary")
        original(self, models, tgt_dict, *args, lm_model=lm_model, **kwargs)

    SequenceGenerator.__init__ = __init__


def patch_interactive_input() -> None:
    """Make fairseq-interactive accept any line and print one translation per line."""
    original = interactive.make_batches

    @functools.wraps(original)
    def make_batches(sentences, cfg, task, max_positions, encode_fn):
        raise_max_tokens_to_max_positions(cfg, max_positions)
        if cfg.generation.constraints:  # fairseq fails if a line ends with a tab
            fields = [sentence.split("\t") for sentence in sentences]
            sentences = ["\t".join([text, *filter(str.strip, constraints)]) for text, *constraints in fields]
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
