"""The raw text of a corpus: one file a split and language, collected from archives or local files."""

import contextlib
import gzip
import hashlib
import heapq
import os
import re
import tarfile
import zipfile
import zlib
from typing import BinaryIO, Dict, Iterable, Iterator, List, Sequence, Set, Tuple

from .errors import InputError

HELD_OUT = "held-out"
LEFT_OUT = "left out of train, as they share a side with a held-out pair"
SEGMENT = re.compile(r"<seg[^>]*>(.*)</seg>")


def collect(texts: Sequence[Tuple[str, str, str]], languages: Tuple[str, str], folder: str, out_dir: str) -> Dict:
    """Write `out_dir`/SPLIT.LANGUAGE for every split, lines ended by LF alone.

    Args:
        texts: (split, place of the source, place of the target); several of one split are joined in order.
            A place is a file in `folder`, a member of an archive there (`a.tgz:path/in/it`), or an absolute
            path; .gz is unpacked and of .sgm the segments are taken. (split, "held-out", n) takes n distinct
            source sentences out of train, and from train every pair that shares a side with one of them.
        languages: source, target
        folder: where the downloads are

    Returns:
        dict: pairs in each split, and under LEFT_OUT those of train that no split has

    Raises:
        InputError: a file or member is missing or damaged, or the two sides have different numbers of lines
    """
    held_out = {split: _count(split, count) for split, place, count in texts if place == HELD_OUT}
    if held_out and not any(split == "train" and place != HELD_OUT for split, place, _ in texts):
        raise InputError(f"{', '.join(held_out)} cannot be held out of train: no text of train is given")
    os.makedirs(out_dir, exist_ok=True)
    pairs: Dict[str, int] = {}
    files = {split: [os.path.join(out_dir, f"{split}.{x}") for x in languages] for split, *_ in texts}
    for split, *places in texts:
        if places[0] == HELD_OUT:
            continue
        mode = "ab" if split in pairs else "wb"
        counts = [_write(place, folder, file, mode) for place, file in zip(places, files[split])]
        if counts[0] != counts[1]:
            raise InputError(
                f"the sides of {split} do not line up: {places[0]} has {counts[0]:,} lines and {places[1]} "
                f"{counts[1]:,}; the first without a partner is line {min(counts) + 1:,}"
            )
        pairs[split] = pairs.get(split, 0) + counts[0]
    if held_out:
        pairs.update(_hold_out(held_out, files))
    return pairs


def _count(split: str, count: str) -> int:
    if not count.isdecimal() or int(count) == 0:
        raise InputError(f"{split} {HELD_OUT} {count}: write how many sentences to take out of train, such as 2000")
    return int(count)


def _write(place: str, folder: str, target: str, mode: str) -> int:
    lines = 0
    with open(target, mode) as out, open_text(place, folder) as text:
        for line in text:
            out.write(line.rstrip(b"\r\n") + b"\n")
            lines += 1
    return lines


@contextlib.contextmanager
def open_text(place: str, folder: str) -> Iterator[Iterable[bytes]]:
    """Open a place (see `collect`) for reading its lines, which end at LF and nowhere else.

    Raises:
        InputError: it is missing or damaged
    """
    path, member = os.path.join(folder, place), ""
    if not os.path.isfile(path) and ":" in place:
        archive, _, member = place.partition(":")
        path = os.path.join(folder, archive)
    if not os.path.isfile(path):
        raise InputError(f"{path} is missing")
    try:
        with contextlib.ExitStack() as stack:
            file: BinaryIO = stack.enter_context(open(path, "rb"))
            if member and zipfile.is_zipfile(path):
                file = stack.enter_context(stack.enter_context(zipfile.ZipFile(file)).open(member))
            elif member:
                found = stack.enter_context(tarfile.open(fileobj=file)).extractfile(member)
                if found is None:
                    raise InputError(f"{member} in {path} is a folder: name a file in it")
                file = found
            name = member or path
            if name.endswith(".gz"):
                file = stack.enter_context(gzip.open(file))
                name = name[: -len(".gz")]
            yield _segments(file) if name.endswith(".sgm") else file
    except KeyError as error:
        raise InputError(f"{path} holds no {member}") from error
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path} is damaged ({error}): remove it and run again") from error


def _segments(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The segments of WMT's test sets as sacreBLEU has them: white space squeezed, entities left alone."""
    for found in map(SEGMENT.search, (line.decode("utf-8") for line in lines)):
        if found:
            yield " ".join(found[1].split()).encode("utf-8")


def _hold_out(counts: Dict[str, int], files: Dict[str, List[str]]) -> Dict[str, int]:
    """Move whole source sentences from train to new splits, the same ones whatever their order."""
    train = files["train"]
    chosen = sorted(_smallest(map(_number, _lines(train[0])), sum(counts.values())))
    if len(chosen) < sum(counts.values()):
        raise InputError(f"{train[0]} has too few distinct lines to hold out {sum(counts.values()):,}: {len(chosen):,}")
    splits = [split for split, count in counts.items() for _ in range(count)]
    split_of = dict(zip(chosen, splits))
    held: Dict[int, Tuple[bytes, bytes]] = {}
    for source, target in zip(*map(_lines, train)):
        if _number(source) in split_of:
            held.setdefault(_number(source), (source, target))
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
    return {"train": kept, **counts, LEFT_OUT: total - kept - len(held)}


def _lines(file: str) -> Iterator[bytes]:
    with open(file, "rb") as text:
        yield from text


def _number(line: bytes) -> int:
    return int.from_bytes(hashlib.sha256(line).digest()[:8], "big")


def _smallest(numbers: Iterable[int], count: int) -> Set[int]:
    """The `count` smallest distinct numbers, in memory for as many."""
    heap: List[int] = []
    kept: Set[int] = set()
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
