"""Training SentencePiece models and encoding text files, streaming and on all cores."""

import contextlib
import os
import re
import resource
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from itertools import islice
from typing import BinaryIO, NamedTuple, TypeVar

import sentencepiece
import tqdm

from fairseq_resmlp.common.atomic_write import atomic_write_all, refuse_overwriting
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.sentencepiece_model import WORD_BOUNDARY, load_sentencepiece
from fairseq_resmlp.common.unique_names import check_distinct_targets
from fairseq_resmlp.data.cleaning import CleaningRules
from fairseq_resmlp.data.plain_text import check_text_files

BLOCK = 5000  # lines that a worker encodes at a time
CACHED_WORDS = 1 << 18

Result = TypeVar("Result")


def train_sentencepiece(files: Sequence[str], out: BinaryIO, vocab_size: int, max_lines: int) -> int:
    """Train one BPE model on raw text of all languages and write it to `out`.

    Memory grows with `max_lines`, not with the text: from longer text, evenly spaced lines are used.

    Returns:
        int: the number of lines used for training

    Raises:
        InputError: a file is not text, or the text is empty, or has too few different words for `vocab_size`
    """
    check_text_files(*files)
    total = sum(1 for file in files for _ in _lines(file))
    if not total:
        raise InputError(f"cannot train a SentencePiece model: {', '.join(files)} contain no text")
    step = -(-total // max_lines)
    lines = (line for number, line in enumerate(line for file in files for line in _lines(file)) if number % step == 0)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line.decode("utf-8", errors="ignore").rstrip("\r\n") for line in lines),
            model_writer=out,
            vocab_size=vocab_size,
            model_type="bpe",  # like the paper, which follows Ott et al. (2018)
            character_coverage=1.0,
            # fairseq's dictionary has its own <s> and </s>.
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise InputError(
            f"SentencePiece cannot learn {vocab_size} subwords from this text: {_training_failure(str(error))}"
        ) from error
    return -(-total // step)


def _training_failure(message: str) -> str:
    """Return the reason and the remedy of an error of SentencePiece, which names options that spm-train lacks."""
    if required := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return f"Every character of the text needs an entry of the vocabulary; use --vocab-size {required[1]} or more"
    if largest := re.search(r"Vocabulary size too high .* value <= (\d+)", message):
        return f"There are too few different words; use --vocab-size {largest[1]} or less, or more text"
    if "sentences_.empty()" in message or "all_chars_count" in message:
        return "It has no visible characters, or only lines of more than 4,192 bytes, which SentencePiece skips"
    # The message begins with a location in SentencePiece's C++ source.
    return message.splitlines()[0].split("] ")[-1].strip()


class SentencePieceEncoder:
    """Tokenizes lines of text.

    A subword never spans a space, so a word is tokenized the same way wherever it occurs. Words are cached, which is
    several times faster than SentencePiece's own encoding of whole lines and gives the same subwords (a test compares
    them). Models, lines and words for which this does not hold are encoded without the cache.

    Raises:
        InputError: `model` is not a SentencePiece model
    """

    def __init__(self, model: str):
        self.processor = load_sentencepiece(model)
        vocabulary = map(self.processor.id_to_piece, range(self.processor.get_piece_size()))
        self.by_word = self.processor.normalize("a b") == f"{WORD_BOUNDARY}a{WORD_BOUNDARY}b" and not any(
            WORD_BOUNDARY in piece[1:] for piece in vocabulary
        )
        self.word = lru_cache(maxsize=CACHED_WORDS)(self._word)

    def _word(self, normal: str) -> str | None:
        # Encoding normalizes twice, which changes a few rare combinations of accents.
        return self._line(normal) if self.processor.normalize(normal) == WORD_BOUNDARY + normal else None

    def _line(self, text: str) -> str:
        return " ".join(self.processor.encode(text, out_type=str))

    def __call__(self, lines: Sequence[str]) -> list[str]:
        """Return the subwords of each line, separated by spaces."""
        if not self.by_word:
            return [self._line(line) for line in lines]
        encoded = []
        for line, normal in zip(lines, self.processor.normalize(list(lines))):
            words = [self.word(word) for word in normal.split(WORD_BOUNDARY) if word]
            known = [word for word in words if word is not None]
            cacheable = len(known) == len(words) and WORD_BOUNDARY not in line
            encoded.append(" ".join(known) if cacheable else self._line(line))
        return encoded


class EncodedText(NamedTuple):
    """Result of encoding one text: files, lines written to each, dropped pairs per reason, CPU seconds of all cores."""

    targets: Sequence[str]
    lines: int
    dropped: Counter[str]
    cpu_seconds: float


def encode_to_directory(
    files: Sequence[str], out_dir: str, model: str, workers: int, cleaning: CleaningRules | None = None
) -> Iterator[EncodedText]:
    """Tokenize each file into a file of the same name in `out_dir`, atomically.

    Args:
        files: independent files or, with cleaning, the two sides of one text
        model: path of the SentencePiece model
        workers: number of processes
        cleaning: see `encode_files`

    Raises:
        InputError: a file would be overwritten; see also `encode_files`
    """
    targets = encoded_paths(files, out_dir)
    refuse_overwriting(targets, [*files, model])
    check_text_files(*files)
    SentencePieceEncoder(model)  # report an error in the model once, before the workers start
    if cleaning and len(files) != 2:
        raise InputError(f"--clean requires two files, the sides of one text, not {len(files)}")
    groups = [(files, targets)] if cleaning else [([file], [target]) for file, target in zip(files, targets)]
    for sources, outs in groups:
        before = _cpu_seconds()
        with atomic_write_all(outs) as partial:
            lines, dropped = encode_files(sources, partial, model, workers, cleaning)
        yield EncodedText(outs, lines, dropped, _cpu_seconds() - before)


def encoded_paths(files: Sequence[str], out_dir: str) -> list[str]:
    """Return the paths to which `encode_to_directory` writes.

    Raises:
        InputError: two files have the same name
    """
    targets = [os.path.join(out_dir, os.path.basename(file)) for file in files]
    check_distinct_targets(files, targets, "rename one, for example to train.de")
    return targets


def _cpu_seconds() -> float:
    """Return the seconds used so far, on all cores, by this process and its finished children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def encode_files(
    files: Sequence[str], targets: Sequence[str], model: str, workers: int, cleaning: CleaningRules | None = None
) -> tuple[int, Counter[str]]:
    """Tokenize the lines of `files` and write them to `targets`.

    Lines end at LF. Memory does not grow with the files: `workers` processes encode blocks of lines in turn.

    Args:
        files: sides of one text, with equal numbers of lines
        cleaning: drop the pairs that it rejects, and those that are not UTF-8

    Returns:
        lines written to each target, and the number of dropped pairs per reason

    Raises:
        InputError: a line is not UTF-8, without cleaning; the numbers of lines differ
    """
    written, dropped = 0, Counter[str]()
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(open(file, "rb")) for file in files]
        outs = [stack.enter_context(open(target, "wb")) for target in targets]
        pool = stack.enter_context(
            ProcessPoolExecutor(workers, initializer=_start, initargs=(os.getpid(), model, cleaning))
        )
        size = sum(map(os.path.getsize, files))
        bar = stack.enter_context(tqdm.tqdm(total=size, unit="B", unit_scale=True, desc="encode", disable=None))
        futures = (pool.submit(_encode, files, first, sides) for first, sides in _blocks(files, sources))
        try:
            for sides, kept, reasons in _in_order(futures, ahead=2 * workers):
                for out, side in zip(outs, sides):
                    out.write(side)
                written += kept
                dropped += reasons
                bar.update(sum(source.tell() for source in sources) - bar.n)
        except BrokenProcessPool as error:
            raise InputError(
                "a process that encodes was killed, perhaps because memory is short: use fewer --workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
    return written, dropped


def _lines(file: str) -> Iterator[bytes]:
    with open(file, "rb") as text:
        yield from text


def _blocks(files: Sequence[str], sources: Sequence[BinaryIO]) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the number of the first line, and BLOCK lines of every side."""
    first = 1
    while True:
        blocks = [list(islice(source, BLOCK)) for source in sources]
        shortest = min(blocks, key=len)
        if len(shortest) < max(map(len, blocks)):
            file = files[blocks.index(shortest)]
            raise InputError(
                f"{' and '.join(files)} are not parallel: {file} ends at line {first + len(shortest) - 1:,}"
            )
        if not shortest:
            return
        yield first, [b"".join(block) for block in blocks]
        first += BLOCK


def _in_order(futures: Iterator["Future[Result]"], ahead: int) -> Iterator[Result]:
    """Yield results in order, with at most `ahead` of them in progress or waiting."""
    waiting: deque[Future[Result]] = deque()
    for future in futures:
        waiting.append(future)
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


# Globals of a worker process
_encoder: SentencePieceEncoder
_cleaning: CleaningRules | None


def _start(parent: int, model: str, cleaning: CleaningRules | None) -> None:
    """Initialize a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl + C also reaches the parent, which ends its workers
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
    global _encoder, _cleaning
    _encoder, _cleaning = SentencePieceEncoder(model), cleaning


def _exit_with(parent: int) -> None:
    # Otherwise, workers would wait forever for a parent that was killed.
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _split(text: bytes) -> list[bytes]:
    lines = text.split(b"\n")
    return lines[:-1] if text.endswith(b"\n") else lines


def _encode(files: Sequence[str], first: int, sides: list[bytes]) -> tuple[list[bytes], int, Counter[str]]:
    """Encode and clean one block in a worker: text to write, number of lines, dropped pairs."""
    dropped: Counter[str] = Counter()
    lines = []
    for number, raw in enumerate(zip(*map(_split, sides)), first):
        try:
            lines.append([side.decode("utf-8").rstrip("\r") for side in raw])
        except UnicodeDecodeError as error:
            if _cleaning is None:
                raise InputError(f"{' or '.join(files)} has invalid UTF-8 in line {number}: {error.reason}") from None
            dropped["invalid UTF-8"] += 1
    encoded = list(zip(*map(_encoder, zip(*lines))))
    if _cleaning is not None:
        reasons = [_cleaning.reason_to_drop(*pair) for pair in encoded]
        dropped.update(reason for reason in reasons if reason)
        encoded = [pair for pair, reason in zip(encoded, reasons) if not reason]
    text = [("\n".join(side) + "\n").encode("utf-8") for side in zip(*encoded)] or [b""] * len(sides)
    return text, len(encoded), dropped
