"""Raw text of a corpus, extracted from archives or local files into one file per split and language."""

import contextlib
import hashlib
import heapq
import os
from collections.abc import Collection, Iterable, Iterator, Sequence

from fairseq_resmlp.common.atomic_write import atomic_write_all, refuse_overwriting
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.data.text_source import locate_text, open_text

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
            For locations, see `open_text`. (split, "held-out", n) moves n distinct source sentences out of train, and
            removes from train every pair that shares a side with them.
        languages: source, target
        downloads: directory of the downloaded files

    Returns:
        the number of pairs in each split, and under REMOVED the number of pairs of train that no split contains

    Raises:
        InputError: a file or member is missing or damaged, would be overwritten, or the two sides have different
            numbers of lines
    """
    extracted = [(split, places) for split, *places in texts if places[0] != HELD_OUT]
    held_out = _held_out_counts(texts, {split for split, _ in extracted})
    splits = list(dict.fromkeys(split for split, *_ in texts))
    outputs = [os.path.join(out_dir, f"{split}.{language}") for split in splits for language in languages]
    refuse_overwriting(outputs, [locate_text(place, downloads)[0] for _, places in extracted for place in places])
    with atomic_write_all(outputs) as temporary:
        files = {split: temporary[2 * i : 2 * i + 2] for i, split in enumerate(splits)}
        pairs = _extract(extracted, downloads, files)
        if held_out:
            pairs.update(_hold_out(held_out, files))
    return pairs


def _extract(texts: Sequence[tuple[str, Sequence[str]]], downloads: str, files: dict[str, list[str]]) -> dict[str, int]:
    """Write the texts of each split to its two files. Returns the number of pairs of each split."""
    pairs: dict[str, int] = {}
    for split, places in texts:
        mode = "ab" if split in pairs else "wb"
        counts = [_write(place, downloads, file, mode) for place, file in zip(places, files[split])]
        if counts[0] != counts[1]:
            raise InputError(
                f"the sides of {split} are not parallel: {places[0]} has {counts[0]:,} lines and {places[1]} "
                f"{counts[1]:,}; the first line without a counterpart is {min(counts) + 1:,}"
            )
        pairs[split] = pairs.get(split, 0) + counts[0]
    return pairs


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


def _write(place: str, downloads: str, target: str, mode: str) -> int:
    lines = 0
    with open(target, mode) as out, open_text(place, downloads) as text:
        for line in text:
            out.write(line.rstrip(b"\r\n") + b"\n")
            lines += 1
    return lines


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
