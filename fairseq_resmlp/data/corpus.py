"""Raw text of a corpus, extracted from archives or local files into one file per split and language."""

import contextlib
import gzip
import hashlib
import heapq
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, cast

from fairseq_resmlp.common.errors import InputError

HELD_OUT = "held-out"
REMOVED = "removed from train because one side occurs in a held-out pair"
SEGMENT = re.compile(r"<seg[^>]*>(.*)</seg>")


def extract_corpus(
    texts: Sequence[tuple[str, str, str]], languages: tuple[str, str], downloads: str, out_dir: str
) -> dict[str, int]:
    """Write `out_dir`/SPLIT.LANGUAGE for every split, with lines that end at LF only.

    Args:
        texts: (split, location of the source, location of the target); several of one split are concatenated in order.
            A location is a file in `downloads`, a member of an archive there (`a.tgz:path/in/it`), or an absolute path;
            .gz files are decompressed, and .sgm files are reduced to their segments. (split, "held-out", n) moves n
            distinct source sentences out of train, and removes from train every pair that shares a side with them.
        languages: source, target
        downloads: directory of the downloaded files

    Returns:
        the number of pairs in each split, and under REMOVED the number of pairs of train that no split contains

    Raises:
        InputError: a file or member is missing or damaged, or the two sides have different numbers of lines
    """
    held_out = {split: _count(split, count) for split, place, count in texts if place == HELD_OUT}
    if held_out and not any(split == "train" and place != HELD_OUT for split, place, _ in texts):
        raise InputError(f"cannot hold out {', '.join(held_out)}: no text is given for train")
    os.makedirs(out_dir, exist_ok=True)
    pairs: dict[str, int] = {}
    files = {split: [os.path.join(out_dir, f"{split}.{x}") for x in languages] for split, *_ in texts}
    for split, *places in texts:
        if places[0] == HELD_OUT:
            continue
        mode = "ab" if split in pairs else "wb"
        counts = [_write(place, downloads, file, mode) for place, file in zip(places, files[split])]
        if counts[0] != counts[1]:
            raise InputError(
                f"the sides of {split} are not parallel: {places[0]} has {counts[0]:,} lines and {places[1]} "
                f"{counts[1]:,}; the first line without a counterpart is {min(counts) + 1:,}"
            )
        pairs[split] = pairs.get(split, 0) + counts[0]
    if held_out:
        pairs.update(_hold_out(held_out, files))
    return pairs


def _count(split: str, count: str) -> int:
    if not count.isdecimal() or int(count) == 0:
        raise InputError(
            f"{split} {HELD_OUT} {count}: specify the number of sentences to take from train, such as 2000"
        )
    return int(count)


def _write(place: str, downloads: str, target: str, mode: str) -> int:
    lines = 0
    with open(target, mode) as out, open_text(place, downloads) as text:
        for line in text:
            out.write(line.rstrip(b"\r\n") + b"\n")
            lines += 1
    return lines


@contextlib.contextmanager
def open_text(place: str, downloads: str) -> Iterator[Iterable[bytes]]:
    """Open a location (see `extract_corpus`) for reading its lines, which end at LF only.

    Raises:
        InputError: it is missing or damaged
    """
    path, member = os.path.join(downloads, place), ""
    if not os.path.isfile(path) and ":" in place:
        archive, _, member = place.partition(":")
        path = os.path.join(downloads, archive)
    if not os.path.isfile(path):
        raise InputError(f"{path} not found")
    try:
        with contextlib.ExitStack() as stack:
            file: IO[bytes] = stack.enter_context(open(path, "rb"))
            if member and zipfile.is_zipfile(path):
                file = stack.enter_context(stack.enter_context(zipfile.ZipFile(file)).open(member))
            elif member:
                found = stack.enter_context(tarfile.open(fileobj=file)).extractfile(member)
                if found is None:
                    raise InputError(f"{member} in {path} is a directory: specify a file in it")
                file = found
            name = member or path
            if name.endswith(".gz"):
                file = cast(IO[bytes], stack.enter_context(gzip.open(file)))
                name = name[: -len(".gz")]
            yield _segments(file) if name.endswith(".sgm") else file
    except KeyError as error:
        raise InputError(f"{member} not found in {path}") from error
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path} is damaged ({error}): remove it and run again") from error


def _segments(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the segments of WMT test sets like sacreBLEU: whitespace is collapsed, entities are kept."""
    for found in map(SEGMENT.search, (line.decode("utf-8") for line in lines)):
        if found:
            yield " ".join(found[1].split()).encode("utf-8")


def _hold_out(counts: dict[str, int], files: dict[str, list[str]]) -> dict[str, int]:
    """Move distinct source sentences from train to new splits. The choice does not depend on the order of the lines."""
    train = files["train"]
    chosen = sorted(_smallest(map(_hash, _lines(train[0])), sum(counts.values())))
    if len(chosen) < sum(counts.values()):
        raise InputError(f"{train[0]} has {len(chosen):,} distinct lines, too few to hold out {sum(counts.values()):,}")
    splits = [split for split, count in counts.items() for _ in range(count)]
    split_of = dict(zip(chosen, splits))
    held: dict[int, tuple[bytes, bytes]] = {}
    for source, target in zip(*map(_lines, train)):
        if _hash(source) in split_of:
            held.setdefault(_hash(source), (source, target))
    for split in counts:
        for side, file in enumerate(files[split]):
            with open(file, "wb") as out:
                out.writelines(held[number][side] for number in chosen if split_of[number] == split)
    shared = [{pair[side] for pair in held.values()} for side in (0, 1)]
    total, kept = sum(1 for _ in _lines(train[0])), 0
    with contextlib.ExitStack() as stack:
        outs = [stack.enter_context(open(f"{file}.kept", "wb")) for file in train]
        for pair in zip(*map(_lines, train)):
            if pair[0] not in shared[0] and pair[1] not in shared[1]:
                kept += 1
                for out, line in zip(outs, pair):
                    out.write(line)
    for file in train:
        os.replace(f"{file}.kept", file)
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
