"""Checks of fairseq's options before a command loads anything."""

import ast
import difflib
import functools
import json
import logging
import math
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy
import torch
from fairseq import options
from fairseq.dataclass.configs import FairseqConfig, FairseqDataclass, GenerationConfig
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_REGISTRY
from fairseq_cli import train
from omegaconf import MISSING, DictConfig, OmegaConf

from fairseq_resmlp.common.environment import missing_modules
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.literals import evaluate_literal
from fairseq_resmlp.fairseq_patches.replacement import replace_function

logger = logging.getLogger(__name__)

# The smallest value of options that fairseq does not check. Smaller ones cause unrelated errors, or are ignored.
_MINIMUM = {
    **dict.fromkeys(("max_tokens", "max_tokens_valid", "batch_size", "batch_size_valid"), 1),
    **dict.fromkeys(("required_batch_size_multiple", "required_seq_len_multiple", "update_freq"), 1),
    **dict.fromkeys(("log_interval", "save_interval", "validate_interval"), 1),
    **dict.fromkeys(("max_source_positions", "max_target_positions"), 1),
    **dict.fromkeys(("beam", "nbest", "num_shards", "checkpoint_shard_count", "workers", "distributed_world_size"), 1),
    **dict.fromkeys(("lr", "seed", "max_epoch", "max_update", "max_valid_steps", "ema_decay"), 0),
    **dict.fromkeys(("num_workers", "shard_id", "prefix_size", "no_repeat_ngram_size", "max_len_a", "max_len_b"), 0),
}
# Larger values overflow: fairseq computes length ** lenpen and max_len_a * length + max_len_b with floats.
_MAXIMUM = {
    "lenpen": 100,
    "max_len_a": 1e6,
    "max_len_b": 1e9,
    "unkpen": 1e30,
    "temperature": 1e30,
    "seed": 2**32 - 1,
    "ema_decay": 1,
}
# Options that have an effect only with another one, and would be ignored without it
_REQUIRED = {
    "lm_weight": "lm_path",
    "diverse_beam_strength": "diverse_beam_groups",
    "retain_dropout_modules": "retain_dropout",
    "keep_interval_updates": "save_interval_updates",
    "keep_interval_updates_pattern": "keep_interval_updates",
    **dict.fromkeys(("ema_decay", "ema_start_update", "ema_update_freq", "ema_fp32", "ema_seed_model"), "store_ema"),
    **dict.fromkeys(("eval_bleu_args", "eval_tokenized_bleu", "eval_bleu_print_samples"), "eval_bleu"),
}
# Subwords that fairseq can join. It checks them when it prints the first translation.
_POST_PROCESS = ("sentencepiece", "@@ ", "@@", "subword_nmt", "wordpiece", "letter", "silence", "_EOW", "none")


_ITERATIVE_TASK = "translation_lev"  # of models that refine a translation in several steps
# Keyword arguments of fairseq's hub interface that are no options of the checkpoint
_NOT_OPTIONS = ("archive_map", "bpe_codes", "bpe_merges", "bpe_vocab", "generation_args", "is_vocoder", "user_dir")


def check_options() -> None:
    """Refuse options that cannot work, in one line, before a command loads anything.

    Options of the command line are checked after they are parsed, those of fairseq-hydra-train before it trains.
    """
    parse, add_defaults = options.parse_args_and_arch, train.add_defaults

    @functools.wraps(parse)
    def parse_args_and_arch(parser, input_args=None, parse_known=False, suppress_defaults=False, modify_parser=None):
        try:
            parsed = parse(parser, input_args, parse_known, suppress_defaults, modify_parser)
        except (RuntimeError, KeyError) as error:
            if error.args == ():
                raise InputError("architecture not specified: use --arch, such as --arch resmlp_small") from error
            if error.args == (None,):
                raise InputError("task not specified: use --task, such as --task translation") from error
            raise
        if not suppress_defaults:
            args = parsed[0] if parse_known else parsed
            _check_required(args)
            check_values(vars(args))
            apply_shards(args)
            _warn_of_options_without_effect(parser, args, sys.argv[1:] if input_args is None else input_args)
        return parsed

    @functools.wraps(add_defaults)
    def add_defaults_and_check(cfg):
        add_defaults(cfg)
        groups = [group for group in cfg.values() if isinstance(group, DictConfig)]
        check_values({k: group[k] for group in groups for k in group if not OmegaConf.is_missing(group, k)})

    options.parse_args_and_arch = parse_args_and_arch
    replace_function(add_defaults, add_defaults_and_check)  # fairseq_cli.hydra_validate imports it by name


def option_name(name: str) -> str:
    """Return the option of a setting: --max-tokens for max_tokens."""
    return f"--{name.replace('_', '-')}"


def check_range(name: str, value: Any) -> None:
    """Check a number, or each number of a list. Other values pass.

    Raises:
        InputError: a number is too small, too large or NaN
    """
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if not isinstance(number, (int, float)) or isinstance(number, bool):
            continue
        if number != number:
            raise InputError(f"{option_name(name)} {number} is not a number")
        if number < _MINIMUM.get(name, -math.inf):
            raise InputError(f"{option_name(name)} {number} is less than {_MINIMUM[name]}")
        if abs(number) > _MAXIMUM.get(name, math.inf):
            raise InputError(f"{option_name(name)} is out of range: use at most {_MAXIMUM[name]}")


def check_generation_options(values: Mapping[str, Any], where: str = "") -> None:
    """Check the names and types of options of fairseq-generate, which fairseq would ignore or use as they are.

    Args:
        values: option names, with underscores, and values
        where: where they were given, for error messages

    Raises:
        InputError: there is no such option, or it has another type
    """
    known = {option.name: option for option in fields(GenerationConfig)}
    for name, value in values.items():
        if name not in known:
            similar = suggestion(name, known) or ", written with underscores"
            raise InputError(f"{where}{name} is not an option of fairseq-generate{similar}")
        kind: Any = known[name].type
        allowed = {int: (int,), float: (int, float), bool: (bool,)}.get(kind)
        if allowed and (not isinstance(value, allowed) or isinstance(value, bool) != (kind is bool)):
            raise InputError(f"{where}{name} must be a {kind.__name__}, not {json.dumps(value, default=repr)[:100]}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ": did you mean NAME?" if one of the known names is similar, otherwise ""."""
    similar = difflib.get_close_matches(name, known, 1)
    return f": did you mean {similar[0]}?" if similar else ""


def check_override_names(overrides: Mapping[str, Any], cfg: DictConfig) -> None:
    """Check that the options that --model-overrides or Python code changes exist. fairseq ignores others.

    Args:
        overrides: names and values
        cfg: the options in the checkpoint

    Raises:
        InputError: an option does not exist
    """
    if any(isinstance(group, Namespace) for group in cfg.values()):
        return  # a model without a dataclass, whose options are not known
    classes = [field.type for field in fields(FairseqConfig)]
    classes += [kind for entries in REGISTRIES.values() for kind in entries["dataclass_registry"].values()]
    known = {*cfg, *_NOT_OPTIONS, *(key for group in cfg.values() if isinstance(group, DictConfig) for key in group)}
    known.update(option.name for kind in classes if is_dataclass(kind) for option in fields(kind))
    for name in overrides:
        if name not in known:
            raise InputError(f"{name} is not an option of the checkpoint{suggestion(str(name), map(str, known))}")


def check_values(values: Mapping[str, Any]) -> None:
    """Check the values of options and their combination.

    Args:
        values: option names, with underscores, and values. A command has only some of the names.

    Raises:
        InputError: an option cannot work
    """
    for name, value in values.items():
        check_range(name, value)
    rank, size = values.get("distributed_rank", 0), values.get("distributed_world_size", 1)
    if rank >= size:  # such a process would train, but never save a checkpoint
        raise InputError(f"--distributed-rank {rank} must be less than --distributed-world-size {size}")
    for name in ("model_overrides", "optimizer_overrides"):
        _check_overrides(name, values.get(name))
    _check_adam_betas(values.get("adam_betas"))
    _check_precision(values)
    _check_data(values)
    _check_search(values)
    for name, option in (("post_process", "--remove-bpe"), ("eval_bleu_remove_bpe", "--eval-bleu-remove-bpe")):
        if values.get(name) not in (None, *_POST_PROCESS):
            raise InputError(f"{option} {values[name]} is not supported: use one of {', '.join(_POST_PROCESS)}")


def apply_shards(args: Any) -> None:
    """Make fairseq-generate translate the part of --num-shards that --shard-id selects (fairseq issue 1937).

    fairseq reads the two options only in fairseq-eval-lm. fairseq-generate divides the batches of a set among the
    processes of --distributed-world-size, but starts no processes.

    Raises:
        InputError: the shard does not exist, or the command cannot divide its input
    """
    generates = hasattr(args, "beam") and not hasattr(args, "buffer_size")
    if getattr(args, "num_shards", 1) == 1 and getattr(args, "shard_id", 0) == 0:
        if generates and args.distributed_world_size > 1:
            raise InputError(
                f"--distributed-world-size {args.distributed_world_size}: fairseq-generate starts no processes, and "
                f"would translate only a part of the set: use --num-shards {args.distributed_world_size} and --shard-id"
            )
        return
    if args.shard_id >= args.num_shards:
        raise InputError(f"--shard-id {args.shard_id} must be less than --num-shards {args.num_shards}")
    if generates:
        results = os.path.join(args.results_path or "", f"generate-{args.gen_subset}.txt")
        if args.results_path and os.path.exists(results):  # every shard has this name
            raise InputError(f"{results} exists, perhaps from another shard: use a --results-path for each shard")
        args.distributed_world_size, args.distributed_rank = args.num_shards, args.shard_id
    elif not hasattr(args, "output_word_probs"):  # an option of fairseq-eval-lm
        raise InputError("--num-shards has no effect in this command: omit it, and divide the input into files instead")


def _check_required(args: Any) -> None:
    """Check that options without a default were given, such as --total-num-update of polynomial_decay."""
    if "output_word_probs" in args and not hasattr(TASK_REGISTRY.get(args.task), "eval_lm_dataloader"):
        raise InputError(f"fairseq-eval-lm does not support --task {args.task}: for translations, use fairseq-validate")
    if getattr(args, "path", "") is None:
        raise InputError("model not specified: use --path, such as --path checkpoints/checkpoint_best.pt")
    for registry, entries in REGISTRIES.items():
        choice = getattr(args, registry, None)
        for option in fields(entries["dataclass_registry"].get(choice, FairseqDataclass)):
            follows_another = option.type in (int, float) and str(option.default).startswith("${")
            is_required = option.default == MISSING or follows_another
            if is_required and getattr(args, option.name, None) in (None, MISSING):
                raise InputError(f"{option_name(registry)} {choice} requires {option_name(option.name)}")


def _warn_of_options_without_effect(parser: ArgumentParser, args: Namespace, words: Sequence[Any]) -> None:
    """Warn of options that the command accepts and ignores, but that do no harm."""
    given = {str(word).partition("=")[0] for word in words}
    ignored = [(name, f"without {option_name(other)}") for name, other in _REQUIRED.items() if not _is_set(args, other)]
    if "max_update" not in args:
        ignored += [(name, "in this command") for name in ("criterion", "optimizer", "lr_scheduler")]
    elif args.disable_validation:
        ignored += [(name, "with --disable-validation") for name in ("patience", "keep_best_checkpoints", "eval_bleu")]
    for name, why in ignored:
        if option_name(name) in given:
            logger.warning(f"{option_name(name)} has no effect {why}")


def _is_set(args: Namespace, name: str) -> bool:
    value = getattr(args, name, None)
    return value not in (None, False) and value != -1


def _check_overrides(name: str, text: str | None) -> None:
    try:
        if text is None or isinstance(ast.literal_eval(text), dict):
            return
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        pass
    raise InputError(f"{option_name(name)} is not a Python dictionary such as \"{{'dropout': 0.1}}\": {text:.200}")


def _check_adam_betas(text: Any) -> None:
    if isinstance(text, str):
        betas = evaluate_literal(text)
        if not isinstance(betas, (list, tuple)) or len(betas) != 2:
            raise InputError(f"--adam-betas is not a pair such as '(0.9, 0.98)': {text:.200}")


def _check_data(values: Mapping[str, Any]) -> None:
    if values.get("dataset_impl") == "fasta" and str(values.get("task")).startswith("translation"):
        raise InputError("--dataset-impl fasta is not supported by --task translation: omit it")
    if values.get("tokenizer") == "moses" and None in (values.get("source_lang", ""), values.get("target_lang", "")):
        raise InputError("--tokenizer moses requires --source-lang and --target-lang")
    if (values.get("num_batch_buckets") or 0) > 0 and int(numpy.__version__.partition(".")[0]) > 1:
        raise InputError("--num-batch-buckets does not work with NumPy 2: omit it")
    if values.get("write_checkpoints_asynchronously") and missing_modules(["iopath"]):  # fairseq would save nothing
        raise InputError("--write-checkpoints-asynchronously requires iopath: pip install iopath, or omit the option")
    for name in ("lr", "update_freq"):
        if values.get(name) == []:
            raise InputError(f"{option_name(name)} has no value: specify a number")


def _check_precision(values: Mapping[str, Any]) -> None:
    if values.get("tpu") and missing_modules(["torch_xla"]):
        raise InputError("--tpu requires torch_xla: pip install torch_xla, or omit it")
    trains = "max_update" in values
    precisions = [option_name(name) for name in ("amp", "fp16", "bf16") if values.get(name)]
    if trains and len(precisions) > 1:
        # With --amp, fairseq would not keep the copy of the parameters in float32 that the others need.
        raise InputError(f"{' and '.join(precisions)} cannot be combined: use one of them")
    if not trains or torch.cuda.is_available() and not values.get("cpu"):
        return
    if values.get("fp16"):
        option = "--memory-efficient-fp16" if values.get("memory_efficient_fp16") else "--fp16"
        raise InputError(f"{option} requires a GPU: omit it, or use --bf16 on a CPU that supports it")
    if values.get("profile"):
        raise InputError("--profile requires a GPU: omit it")
    if values.get("amp"):
        logger.warning("--amp has no effect without a GPU: training in float32")


def _check_search(values: Mapping[str, Any]) -> None:
    """Check options of beam search and sampling, some of which fairseq would ignore."""
    searches = ("sampling", "match_source_len", "constraints")
    selected = [name for name in searches if values.get(name)]
    selected += [name for name in ("diverse_beam_groups", "diversity_rate") if (values.get(name) or 0) > 0]
    if len(selected) > 1:
        raise InputError(f"{' and '.join(map(option_name, selected))} cannot be combined: use one of them")
    if values.get("sampling") and "path" in values and values["nbest"] != values["beam"]:  # not --eval-bleu-args
        raise InputError("--sampling requires --nbest to be equal to --beam, the number of samples")
    if not str(values.get("task")).startswith(_ITERATIVE_TASK):
        ignored = [name for name in ("print_step", "retain_iter_history", "decoding_format") if values.get(name)]
        if ignored:
            raise InputError(f"{option_name(ignored[0])} is for --task {_ITERATIVE_TASK} only: omit it")
    if values.get("replace_unk") is not None and values.get("print_alignment") is None:
        raise InputError("--replace-unk requires --print-alignment, which finds the source word of a translated word")
    if values.get("constraints") and "buffer_size" not in values:
        raise InputError("--constraints is not supported by this command: use fairseq-interactive")
    if values.get("constraints") and values.get("print_alignment"):
        raise InputError("--print-alignment cannot be combined with --constraints: omit one of them")
    if "buffer_size" in values and "max_update" not in values:
        ignored = [n for n in ("score_reference", "prefix_size", "results_path", "lm_path", "quiet") if values.get(n)]
        if ignored:
            raise InputError(f"{option_name(ignored[0])} is not supported by fairseq-interactive: use fairseq-generate")
        if values.get("print_alignment") == "soft":
            raise InputError("--print-alignment soft is not supported by fairseq-interactive: use hard")
    if values.get("nbest", 1) > values.get("beam", math.inf):
        logger.warning(f"--nbest {values['nbest']} is larger than --beam {values['beam']}, the number of hypotheses")
