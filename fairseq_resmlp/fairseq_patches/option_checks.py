"""Checks of fairseq's options before a command loads anything."""

import ast
import functools
import logging
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from fairseq import options
from fairseq.dataclass.configs import FairseqDataclass
from fairseq.registry import REGISTRIES
from fairseq_cli import preprocess, train
from omegaconf import MISSING, DictConfig, OmegaConf

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
    **dict.fromkeys(("beam", "nbest", "num_shards", "workers"), 1),
    **dict.fromkeys(("num_workers", "shard_id", "prefix_size", "no_repeat_ngram_size", "max_len_a", "max_len_b"), 0),
}
# Larger values overflow: fairseq computes length ** lenpen and max_len_a * length + max_len_b with floats.
_MAXIMUM = {"lenpen": 100, "max_len_a": 1e6, "max_len_b": 1e9, "unkpen": 1e30, "temperature": 1e30}
# Subwords that fairseq can join. It checks them when it prints the first translation.
_POST_PROCESS = ("sentencepiece", "@@ ", "@@", "subword_nmt", "wordpiece", "letter", "silence", "_EOW", "none")


def check_options() -> None:
    """Refuse options that cannot work, in one line, before a command loads anything.

    Options of the command line are checked after they are parsed, those of fairseq-hydra-train before it trains.
    """
    parse, add_defaults, preprocess_main = options.parse_args_and_arch, train.add_defaults, preprocess.main

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
        return parsed

    @functools.wraps(add_defaults)
    def add_defaults_and_check(cfg):
        add_defaults(cfg)
        groups = [group for group in cfg.values() if isinstance(group, DictConfig)]
        check_values({k: group[k] for group in groups for k in group if not OmegaConf.is_missing(group, k)})

    @functools.wraps(preprocess_main)
    def check_and_preprocess(args):
        check_values(vars(args))
        for language in (args.source_lang, args.target_lang):
            if language is None and not args.only_source:
                raise InputError("languages not specified: use --source-lang and --target-lang")
        try:
            preprocess_main(args)
        except FileExistsError as error:
            if error.errno is not None:
                raise
            raise InputError(f"{error} exists: choose another --destdir, or remove it") from error
        except ValueError:
            _check_encoding(args)
            raise

    options.parse_args_and_arch = parse_args_and_arch
    replace_function(add_defaults, add_defaults_and_check)  # fairseq_cli.hydra_validate imports it by name
    preprocess.main = check_and_preprocess


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
            raise InputError(f"{option_name(name)} is out of range: use at most {_MAXIMUM[name]:g}")


def check_values(values: Mapping[str, Any]) -> None:
    """Check the values of options and their combination.

    Args:
        values: option names, with underscores, and values. A command has only some of the names.

    Raises:
        InputError: an option cannot work
    """
    for name, value in values.items():
        check_range(name, value)
    for name in ("model_overrides", "optimizer_overrides"):
        _check_overrides(name, values.get(name))
    _check_adam_betas(values.get("adam_betas"))
    _check_precision(values)
    _check_search(values)
    subwords = values.get("post_process")
    if subwords not in (None, *_POST_PROCESS):
        raise InputError(f"--remove-bpe {subwords} is not supported: use one of {', '.join(_POST_PROCESS)}")


def apply_shards(args: Any) -> None:
    """Make fairseq-generate translate the part of --num-shards that --shard-id selects (fairseq issue 1937).

    fairseq reads the two options only in fairseq-eval-lm. fairseq-generate divides the batches of a set among the
    processes of --distributed-world-size, but starts no processes.

    Raises:
        InputError: the shard does not exist, or the command cannot divide its input
    """
    if getattr(args, "num_shards", 1) == 1 and getattr(args, "shard_id", 0) == 0:
        return
    if args.shard_id >= args.num_shards:
        raise InputError(f"--shard-id {args.shard_id} must be less than --num-shards {args.num_shards}")
    if hasattr(args, "beam") and not hasattr(args, "buffer_size"):
        args.distributed_world_size, args.distributed_rank = args.num_shards, args.shard_id
    elif not hasattr(args, "output_word_probs"):  # an option of fairseq-eval-lm
        raise InputError("--num-shards has no effect in this command: omit it, and divide the input into files instead")


def _check_encoding(args: Any) -> None:
    """Check that the text files of fairseq-preprocess are UTF-8."""
    prefixes = [
        prefix for name in ("trainpref", "validpref", "testpref") for prefix in (vars(args)[name] or "").split(",")
    ]
    for prefix in filter(None, prefixes):
        for language in filter(None, (args.source_lang, args.target_lang)):
            name = f"{prefix}.{language}"
            try:
                with open(name, encoding="utf-8") as file:
                    for _ in file:
                        pass
            except UnicodeDecodeError as error:
                raise InputError(f"{name} is not UTF-8: convert it, for example with iconv ({error.reason})") from error


def _check_required(args: Any) -> None:
    """Check that options without a default were given, such as --total-num-update of polynomial_decay."""
    if getattr(args, "path", "") is None:
        raise InputError("model not specified: use --path, such as --path checkpoints/checkpoint_best.pt")
    for registry, entries in REGISTRIES.items():
        choice = getattr(args, registry, None)
        for option in fields(entries["dataclass_registry"].get(choice, FairseqDataclass)):
            follows_another = option.type in (int, float) and str(option.default).startswith("${")
            is_required = option.default == MISSING or follows_another
            if is_required and getattr(args, option.name, None) in (None, MISSING):
                raise InputError(f"{option_name(registry)} {choice} requires {option_name(option.name)}")


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


def _check_precision(values: Mapping[str, Any]) -> None:
    trains = "max_update" in values
    if not trains or torch.cuda.is_available() and not values.get("cpu"):
        return
    if values.get("fp16"):
        option = "--memory-efficient-fp16" if values.get("memory_efficient_fp16") else "--fp16"
        raise InputError(f"{option} requires a GPU: omit it, or use --bf16 on a CPU that supports it")
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
    if values.get("replace_unk") is not None and values.get("print_alignment") is None:
        raise InputError("--replace-unk requires --print-alignment, which finds the source word of a translated word")
    if values.get("constraints") and "buffer_size" not in values:
        raise InputError("--constraints is not supported by this command: use fairseq-interactive")
    if values.get("constraints") and values.get("print_alignment"):
        raise InputError("--print-alignment cannot be combined with --constraints: omit one of them")
    if "buffer_size" in values and "max_update" not in values:
        ignored = [name for name in ("score_reference", "prefix_size", "results_path") if values.get(name)]
        if ignored:
            raise InputError(f"{option_name(ignored[0])} is not supported by fairseq-interactive: use fairseq-generate")
        if values.get("print_alignment") == "soft":
            raise InputError("--print-alignment soft is not supported by fairseq-interactive: use hard")
    if values.get("nbest", 1) > values.get("beam", math.inf):
        logger.warning(f"--nbest {values['nbest']} is larger than --beam {values['beam']}, the number of hypotheses")
