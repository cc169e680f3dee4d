"""Patches of fairseq-preprocess."""

import functools
import os
import re
from contextlib import ExitStack
from itertools import zip_longest
from typing import Any

from fairseq_cli import preprocess

from fairseq_resmlp.common.atomic_write import refuse_overwriting
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.fairseq_patches.option_checks import check_values


def check_preprocessing() -> None:
    """Report options and files that fairseq-preprocess cannot use in one line, if possible before it begins."""
    original = preprocess.main

    @functools.wraps(original)
    def check_and_preprocess(args):
        check_values(vars(args))
        _check_options(args)
        _check_alignments(args)
        try:
            original(args)
        except FileExistsError as error:
            if error.errno is not None:
                raise
            raise InputError(f"{error} exists: choose another --destdir, or remove it") from error
        except ValueError:
            _check_encoding(args)
            raise

    preprocess.main = check_and_preprocess


def _check_options(args: Any) -> None:
    """Check options that are missing, or that fairseq-preprocess would ignore."""
    if args.source_lang is None or (args.target_lang is None and not args.only_source):
        raise InputError("languages not specified: use --source-lang and --target-lang")
    if args.dataset_impl in ("fasta", "huffman"):
        raise InputError(f"--dataset-impl {args.dataset_impl} is not supported by fairseq-preprocess: use mmap or raw")
    for name in ("bpe", "tokenizer"):
        if getattr(args, name) is not None:
            raise InputError(
                f"--{name} has no effect in fairseq-preprocess: tokenize the text first, for example with "
                "fairseq-resmlp spm-encode"
            )
    for name, default in (("threshold", 0), ("nwords", -1)):
        value = getattr(args, f"{name}tgt")
        if args.joined_dictionary and value not in (default, getattr(args, f"{name}src")):
            raise InputError(f"--{name}tgt {value} has no effect with --joined-dictionary: use --{name}src")


def _prefixes(args: Any) -> list[str]:
    """Return the prefixes of all sets."""
    names = ",".join(filter(None, (args.trainpref, args.validpref, args.testpref)))
    return list(filter(None, names.split(",")))


def _check_encoding(args: Any) -> None:
    """Check that the text files are UTF-8."""
    for prefix in _prefixes(args):
        for language in filter(None, (args.source_lang, args.target_lang)):
            name = f"{prefix}.{language}"
            try:
                with open(name, encoding="utf-8") as file:
                    for _ in file:
                        pass
            except UnicodeDecodeError as error:
                raise InputError(f"{name} is not UTF-8: convert it, for example with iconv ({error.reason})") from error


def _check_alignments(args: Any) -> None:
    """Check --alignfile and --align-suffix. fairseq reads these files last."""
    if args.alignfile:
        if args.only_source or args.dict_only or not args.trainpref:
            raise InputError("--alignfile requires both sides of --trainpref: omit --only-source and --dict-only")
        output = os.path.join(args.destdir, f"alignment.{args.source_lang}-{args.target_lang}.txt")
        refuse_overwriting([output], [args.alignfile])
        _check_pairs(args.alignfile, args.trainpref, args)
    if args.align_suffix:
        aligned = [prefix for prefix in _prefixes(args) if os.path.exists(f"{prefix}.{args.align_suffix}")]
        if not aligned:
            raise InputError(f"--align-suffix {args.align_suffix}: no set has a file with this suffix")
        for prefix in aligned:
            _check_pairs(f"{prefix}.{args.align_suffix}", prefix, args)


def _check_pairs(name: str, prefix: str, args: Any) -> None:
    """Check that each line of a file consists of pairs of words of the same lines of source and target.

    Raises:
        InputError: a line does not, or the numbers of lines differ
    """
    paths = [name, f"{prefix}.{args.source_lang}", f"{prefix}.{args.target_lang}"]
    with ExitStack() as stack:
        files = [stack.enter_context(open(path, encoding="utf-8", errors="replace")) for path in paths]
        for number, lines in enumerate(zip_longest(*files), 1):
            if None in lines:
                raise InputError(f"{', '.join(paths)} are not parallel: one ends at line {number - 1}")
            pairs, *lengths = lines[0].split(), *(len(line.split()) for line in lines[1:])
            for pair in pairs:
                if not re.fullmatch("[0-9]{1,9}-[0-9]{1,9}", pair):
                    raise InputError(f"{name}, line {number}: {pair[:100]} is not a pair of words such as 0-0")
                if any(int(place) >= length for place, length in zip(pair.split("-"), lengths)):
                    raise InputError(
                        f"{name}, line {number}: {pair} is not a pair of words: the sentences have "
                        f"{' and '.join(map(str, lengths))} words, which are counted from 0"
                    )
