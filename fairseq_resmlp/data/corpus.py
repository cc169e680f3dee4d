"""Raw text of a corpus, extracted from archives, documents or text files into one file per split and language."""

import contextlib
import hashlib
import heapq
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import IO

from fairseq_resmlp.common.atomic_write import atomic_write_all, refuse_overwriting
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.data.text_source import document_of, locate_text, open_text, read_document_pairs

HELD_OUT = "held-out"
MOST_HELD_OUT = 2**31 - 1
REMOVED = "removed from train because one side occurs in a held-out pair"


def extract_corpus(
    texts: Sequence[tuple[str, str, str]], languages: tuple[str, str], downloads: str, out_dir: str
) -> dict[str, int]:
    """Write `out_dir`/SPLIT.LANGUAGE for every split, with lines that end at LF only.

    Existing files are replaced when all splits are complete. If extraction fails, they stay as they were.

    Args:
        texts: (split, location of the source, location of the target); several of one split are concatenated in order.
            For locations, see `open_text` and `read_document_pairs`. (split, "held-out", n) moves n distinct source
            sentences out of train, and removes from train every pair that shares a side with them.
        languages: source, target
        downloads: directory of the downloaded files

    Returns:
        the number of pairs in each split, and under REMOVED the number of pairs of train that no split contains

    Raises:
        InputError: a file or member is missing, damaged, or not text, would be overwritten, or the two sides are
            identical or have different numbers of lines
    """
    extracted = [(split, places) for split, *places in texts if places[0] != HELD_OUT]
    held_out = _held_out_counts(texts, {split for split, _ in extracted})
    splits = list(dict.fromkeys(split for split, *_ in texts))
    outputs = [os.path.join(out_dir, f"{split}.{language}") for split in splits for language in languages]
    refuse_overwriting(outputs, [locate_text(place, downloads)[0] for _, places in extracted for place in places])
    with atomic_write_all(outputs) as temporary:
        files = {split: temporary[2 * i : 2 * i + 2] for i, split in enumerate(splits)}
        pairs = _extract(extracted, languages, downloads, files)
        if held_out:
            pairs.update(_hold_out(held_out, files))
    return pairs


def _extract(
    texts: Sequence[tuple[str, Sequence[str]]], languages: tuple[str, str], downloads: str, files: dict[str, list[str]]
) -> dict[str, int]:
    """Write the texts of each split to its two files. Returns the number of pairs of each split."""
    pairs: dict[str, int] = {}
    for split, places in texts:
        mode = "ab" if split in pairs else "wb"
        with contextlib.ExitStack() as stack:
            sides = [_Side(stack.enter_context(open(file, mode))) for file in files[split]]
            if any(document_of(place, downloads) for place in places):
                for pair in read_document_pairs(places, downloads, languages):
                    for side, line in zip(sides, pair):
                        side.write(line.encode())
            else:
                for side, place in zip(sides, places):
                    for raw in stack.enter_context(open_text(place, downloads)):
                        side.write(raw.rstrip(b"\r\n"))
        counts = [side.lines for side in sides]
        if counts[0] != counts[1]:
            raise InputError(
                f"the sides of {split} are not parallel: {places[0]} has {counts[0]:,} lines and {places[1]} "
                f"{counts[1]:,}; the first line without a counterpart is {min(counts) + 1:,}"
            )
        if counts[0] and sides[0].digest.digest() == sides[1].digest.digest():
            raise InputError(
                f"the sides of {split} are identical: {places[0]} and {places[1]} have the same text; specify the text "
                "of each language"
            )
        pairs[split] = pairs.get(split, 0) + counts[0]
    return pairs


class _Side:
    """One side of a text, while it is written."""

    def __init__(self, file: IO[bytes]):
        self.file, self.lines, self.digest = file, 0, hashlib.sha256()

    def write(self, line: bytes) -> None:
        line += b"\n"
        self.file.write(line)
        self.digest.update(line)
        self.lines += 1


def _held_out_counts(texts: Sequence[tuple[str, str, str]], extracted: Collection[str]) -> dict[str, int]:
    """Return the number of sentences of each split to hold out. `extracted` are the other splits."""
    counts: dict[str, int] = {}
    for split, place, count in texts:
        if place != HELD_OUT:
            continue
        if split in counts or split in extracted:
            raise InputError(f"{split} {HELD_OUT} {count}: there is another text for {split}; choose another name")
        counts[split] = _count(split, count)
    if counts and "train" not in extracted:
        raise InputError(f"cannot hold out {', '.join(counts)}: no text is given for train")
    return counts


def _count(split: str, count: str) -> int:
    if not (count.isascii() and count.isdecimal()) or not 0 < int(count[:20]) <= MOST_HELD_OUT:
        raise InputError(
            f"{split} {HELD_OUT} {count[:100]}: specify the number of sentences to take from train, such as 2000"
        )
    return int(count)


def _hold_out(counts: dict[str, int], files: dict[str, list[str]]) -> dict[str, int]:
    """Move distinct source sentences from train to new splits. The choice does not depend on the order of the lines."""
    train = files["train"]
    chosen = sorted(_smallest(map(_hash, _lines(train[0])), sum(counts.values())))
    if len(chosen) < sum(counts.values()):
        raise InputError(
            f"the source of train has {len(chosen):,} distinct lines, too few to hold out {sum(counts.values()):,}"
        )
    splits = [split for split, count in counts.items() for _ in range(count)]
    split_of = dict(zip(chosen, splits))
    held: dict[int, tuple[bytes, bytes]] = {}
    for source, target in zip(*map(_lines, train)):
        if _hash(source) in split_of:
            held.setdefault(_hash(source), (source, target))
    for split in counts:
        for side, file in enumerate(files[split]):
            with open(file, "wb") as new:
                new.writelines(held[number][side] for number in chosen if split_of[number] == split)
    shared = [{pair[side] for pair in held.values()} for side in (0, 1)]
    total, kept = sum(1 for _ in _lines(train[0])), 0
    with contextlib.ExitStack() as stack:
        # Each file is overwritten while it is read, because what is kept is never longer than what was read.
        outs = [stack.enter_context(open(file, "r+b")) for file in train]
        for pair in zip(*map(_lines, train)):
            if pair[0] not in shared[0] and pair[1] not in shared[1]:
                kept += 1
                for out, line in zip(outs, pair):
                    out.write(line)
        for out in outs:
            out.truncate()
    return {"train": kept, **counts, REMOVED: total - kept - len(held)}


def _lines(file: str) -> Iterator[bytes]:
    with open(file, "rb") as text:
        yield from text


def _hash(line: bytes) -> int:
    return int.from_bytes(hashlib.sha256(line).digest()[:8], "big")


def _smallest(numbers: Iterable[int], count: int) -> set[int]:
    """Return the `count` smallest distinct numbers, using memory for as many."""
    heap: list[int] = []
    kept: set[int] = set()
    for number in numbers:
        if number in kept:
            continue
        if len(heap) < count:
            heapq.heappush(heap, -number)
        elif number < -heap[0]:
            kept.discard(-heapq.heapreplace(heap, -number))
        else:
            continue
        kept.add(number)
    return kept
