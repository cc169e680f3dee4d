"""SentencePiece: learning pieces from raw text and cutting text into them, streaming and on all cores."""

import contextlib
import os
import threading
import time
from collections import Counter, deque
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import BinaryIO, Deque, Iterator, List, Optional, Sequence, Tuple

import sentencepiece
import tqdm

from .errors import InputError

BLOCK = 5000  # lines that one process works on at a time
CACHED_WORDS = 1 << 18
SPACE = "\u2581"  # how SentencePiece writes a space


def train_pieces(files: Sequence[str], out: BinaryIO, vocab_size: int, max_lines: int) -> int:
    """Learn one BPE model from raw text of all languages and write it to `out`.

    Memory grows with `max_lines`, not with the text: of longer text, evenly spaced lines are taken.

    Returns:
        int: lines it was learnt from

    Raises:
        InputError: the text is empty, or has too few different words for so many pieces
    """
    total = sum(1 for file in files for _ in _lines(file))
    if not total:
        raise InputError(f"no pieces can be learned from {', '.join(files)}: there is no text")
    step = -(-total // max_lines)
    lines = (line for number, line in enumerate(line for file in files for line in _lines(file)) if number % step == 0)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line.decode("utf-8", errors="ignore").rstrip("\r\n") for line in lines),
            model_writer=out,
            vocab_size=vocab_size,
            model_type="bpe",  # as in the paper's setup, which follows Ott et al. (2018)
            character_coverage=1.0,
            # fairseq's dictionary has its own <s> and </s>.
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        # SentencePiece's message begins with a place in its C++ source.
        reason = str(error).splitlines()[0].split("] ")[-1].strip()
        raise InputError(f"SentencePiece cannot learn {vocab_size} pieces from this text: {reason}") from error
    return -(-total // step)


class Encoder:
    """Cuts lines of text into pieces.

    A piece never reaches over a space, so that a word is cut the same way wherever it stands: words seen before
    come from a cache, which is several times faster than SentencePiece's own encoding of whole lines and gives the
    same pieces (a test compares them). Models, lines and words for which that does not hold take the slow way.
    """

    def __init__(self, model: str):
        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_file=model)
        except (OSError, RuntimeError) as error:
            raise InputError(f"{model} is not a SentencePiece model") from error
        vocabulary = map(self.processor.id_to_piece, range(self.processor.get_piece_size()))
        self.by_word = self.processor.normalize("a b") == f"{SPACE}a{SPACE}b" and not any(
            SPACE in piece[1:] for piece in vocabulary
        )
        self.word = lru_cache(maxsize=CACHED_WORDS)(self._word)

    def _word(self, normal: str) -> Optional[str]:
        # Encoding normalises again what is normal already, which changes a few rare combinations of accents.
        return self._line(normal) if self.processor.normalize(normal) == SPACE + normal else None

    def _line(self, text: str) -> str:
        return " ".join(self.processor.encode(text, out_type=str))

    def __call__(self, lines: Sequence[str]) -> List[str]:
        """The pieces of each line, separated by spaces."""
        if not self.by_word:
            return [self._line(line) for line in lines]
        encoded = []
        for line, normal in zip(lines, self.processor.normalize(list(lines))):
            words = [self.word(word) for word in normal.split(SPACE) if word]
            encoded.append(self._line(line) if SPACE in line or None in words else " ".join(words))
        return encoded


@dataclass(frozen=True)
class Cleaning:
    """Which sentence pairs to keep, as Moses' clean-corpus-n with the limits of Ott et al. (2018).

    Args:
        max_length: pieces a side, from 1
        max_ratio: pieces of the longer side to those of the shorter one
    """

    max_length: int = 250
    max_ratio: float = 1.5

    def reason(self, *sides: str) -> Optional[str]:
        """Why to drop a pair of encoded lines, None to keep it."""
        lengths = sorted(side.count(" ") + 1 if side else 0 for side in sides)
        if lengths[0] == 0:
            return "empty"
        if lengths[1] > self.max_length:
            return f"longer than {self.max_length} pieces"
        if lengths[1] > self.max_ratio * lengths[0]:
            return f"ratio above {self.max_ratio:g}"
        return None


def encode_files(
    files: Sequence[str], targets: Sequence[str], model: str, workers: int, cleaning: Optional[Cleaning] = None
) -> Tuple[int, Counter]:
    """Cut the lines of `files` into pieces, and write them to `targets`.

    Lines end at LF. Memory does not grow with the files: `workers` processes take blocks of lines in turn.

    Args:
        files: sides of one text, with as many lines each
        cleaning: drop pairs that it finds a reason for, and those that are not UTF-8

    Returns:
        lines written to each target, and for every reason how many were dropped

    Raises:
        InputError: without cleaning, a line that is not UTF-8; different numbers of lines
    """
    written, dropped = 0, Counter()
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(open(file, "rb")) for file in files]
        outs = [stack.enter_context(open(target, "wb")) for target in targets]
        pool = stack.enter_context(ProcessPoolExecutor(workers, initializer=_start, initargs=(model, cleaning)))
        size = sum(map(os.path.getsize, files))
        bar = stack.enter_context(tqdm.tqdm(total=size, unit="B", unit_scale=True, desc="encode", disable=None))
        futures = (pool.submit(_encode, files, first, sides) for first, sides in _blocks(files, sources))
        for sides, kept, reasons in _in_order(futures, ahead=2 * workers):
            for out, side in zip(outs, sides):
                out.write(side)
            written += kept
            dropped += reasons
            bar.update(sum(source.tell() for source in sources) - bar.n)
    return written, dropped


def _lines(file: str) -> Iterator[bytes]:
    with open(file, "rb") as text:
        yield from text


def _blocks(files: Sequence[str], sources: Sequence[BinaryIO]) -> Iterator[Tuple[int, List[bytes]]]:
    """Numbers of first lines, and BLOCK lines of every side."""
    first = 1
    while True:
        blocks = [list(islice(source, BLOCK)) for source in sources]
        shortest = min(blocks, key=len)
        if len(shortest) < max(map(len, blocks)):
            file = files[blocks.index(shortest)]
            raise InputError(f"{' and '.join(files)} do not line up: {file} ends at line {first + len(shortest) - 1:,}")
        if not shortest:
            return
        yield first, [b"".join(block) for block in blocks]
        first += BLOCK


def _in_order(futures: Iterator[Future], ahead: int) -> Iterator:
    """Results in order, with no more than `ahead` of them in work or waiting."""
    waiting: Deque[Future] = deque()
    for future in futures:
        waiting.append(future)
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _start(model: str, cleaning: Optional[Cleaning]) -> None:
    """Set up a worker process."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    global _encoder, _cleaning
    _encoder, _cleaning = Encoder(model), cleaning


def _end_with(parent: int) -> None:
    # The pool's workers wait for ever for a parent that was killed.
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _split(text: bytes) -> List[bytes]:
    lines = text.split(b"\n")
    return lines[:-1] if text.endswith(b"\n") else lines


def _encode(files: Sequence[str], first: int, sides: List[bytes]) -> Tuple[List[bytes], int, Counter]:
    """Encode and clean one block in a worker: what `encode_files` writes of it, how many lines, what was dropped."""
    dropped: Counter = Counter()
    lines = []
    for number, raw in enumerate(zip(*map(_split, sides)), first):
        try:
            lines.append([side.decode("utf-8").rstrip("\r") for side in raw])
        except UnicodeDecodeError as error:
            if _cleaning is None:
                raise InputError(f"{' or '.join(files)} is not UTF-8 in line {number}: {error.reason}") from None
            dropped["not UTF-8"] += 1
    encoded = list(zip(*map(_encoder, zip(*lines))))
    if _cleaning is not None:
        reasons = [_cleaning.reason(*pair) for pair in encoded]
        dropped.update(reason for reason in reasons if reason)
        encoded = [pair for pair, reason in zip(encoded, reasons) if not reason]
    text = [("\n".join(side) + "\n").encode("utf-8") for side in zip(*encoded)] or [b""] * len(sides)
    return text, len(encoded), dropped
