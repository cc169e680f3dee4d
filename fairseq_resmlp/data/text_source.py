"""Lines of a text from a file or an archive, compressed or in SGML, and sentence pairs of a document."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, cast

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.regular_files import check_regular_file
from fairseq_resmlp.data.documents import document_type, read_table_pairs
from fairseq_resmlp.data.plain_text import BEGINNING, check_not_binary, check_not_markup, check_not_table

DECOMPRESSORS: dict[str, Callable[[IO[bytes]], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
SIGNATURES: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
ARCHIVES = (".tar", ".tgz", ".tbz2", ".txz", ".zip")
LONGEST_LINE = 16 << 20  # bytes
# Text does not become much smaller by compression than a tenth. Hostile archives expand to a thousand times their size.
MOST_EXPANSION = 100
ALWAYS_ALLOWED = 1 << 30  # bytes that any archive may expand to


def locate_text(place: str, downloads: str) -> tuple[str, str]:
    """Return the path of the file or archive of a location, and the path inside the archive or ""."""
    path = os.path.join(downloads, place)
    if os.path.isfile(path) or ":" not in place:
        return path, ""
    # The names of directories may contain colons.
    splits = [(place[:i], place[i + 1 :]) for i, character in enumerate(place) if character == ":"]
    archive, member = next((s for s in splits if os.path.isfile(os.path.join(downloads, s[0]))), splits[0])
    return os.path.join(downloads, archive), member


@contextlib.contextmanager
def open_text(place: str, downloads: str) -> Iterator[Iterable[bytes]]:
    """Open a text for reading its lines, which end at LF only.

    Args:
        place: a file in `downloads`, a member of an archive there (`a.tgz:path/in/it`), or an absolute path. Files that
            end in .gz, .bz2 or .xz are decompressed, and .sgm files are reduced to their segments.
        downloads: directory of the downloaded files

    Raises:
        InputError: the file is missing, damaged, or not a text
    """
    path, member = locate_text(place, downloads)
    where = f"{member} in {path}" if member else path
    with _open(path, member) as (file, name):
        if not member and name.lower().endswith(ARCHIVES):
            raise InputError(f"{path} is an archive: specify a file in it, as {os.path.basename(path)}:PATH")
        if document_type(name):
            raise InputError(f"{where} is a document: unpack the archive, and specify the file")
        with _input_errors(path):
            beginning = file.peek(BEGINNING)[:BEGINNING]
        check_not_binary(beginning, where)
        if name.lower().endswith(".sgm"):
            yield _segments(_lines(file, path, where), where)
        else:
            check_not_markup(beginning, where)
            check_not_table(beginning, where)
            yield _lines(file, path, where)


def document_of(place: str, downloads: str) -> str | None:
    """Return the type of a location that is a document, see `document_type`; None: a text."""
    base, suffix = os.path.splitext(locate_text(place, downloads)[0])
    return document_type(base if suffix.lower() in DECOMPRESSORS else base + suffix)


def read_document_pairs(places: Sequence[str], downloads: str, languages: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the sentence pairs of a document. Line ends within a text, and the white space around it, are removed.

    Args:
        places: locations of the source and of the target, which are FILE, or FILE:COLUMN for a table, or FILE:LANGUAGE.
            For the defaults, see `read_table_pairs` and `xml_documents.read_pairs`.
        downloads: directory of the downloaded files
        languages: source and target language

    Raises:
        InputError: the file is missing or damaged, is not of its type, or has no such columns or languages
    """
    (path, source), (other, target) = (locate_text(place, downloads) for place in places)
    if path != other:
        raise InputError(
            f"{places[0]} and {places[1]} are not one document: specify one for both sides, as FILE:COLUMN or "
            "FILE:LANGUAGE"
        )
    kind = document_of(path, "")
    pairs: Iterator[tuple[str, str]]
    with _open(path) as (file, _), _input_errors(path):
        if kind in ("tsv", "csv"):
            check_not_binary(file.peek(BEGINNING)[:BEGINNING], path)
            pairs = read_table_pairs(path, _lines(file, path, path), kind, languages, (source, target))
        else:
            from fairseq_resmlp.data.xml_documents import read_pairs  # needs lxml

            limited = cast(IO[bytes], _LimitedFile(file, _limit(path), path))
            pairs = read_pairs(path, limited, str(kind), (source or languages[0], target or languages[1]))
        for pair in pairs:
            yield _in_one_line(pair[0]), _in_one_line(pair[1])


def _in_one_line(text: str) -> str:
    return re.sub(r"\s*[\r\n]\s*", " ", text.strip())


@contextlib.contextmanager
def _open(path: str, member: str = "") -> Iterator[tuple[io.BufferedReader, str]]:
    """Open a file or a member of an archive, decompressed. Yields it and its name without the suffix of compression."""
    if not os.path.lexists(path):
        raise InputError(f"{path} not found")
    with contextlib.ExitStack() as stack:
        with _input_errors(path):
            check_regular_file(path)
            file: Any = stack.enter_context(open(path, "rb"))
            if member and zipfile.is_zipfile(path):
                file = _open_in_zip(stack, file, path, member)
            elif member:
                file = _open_in_tar(stack, file, path, member)
            name = member or path
            base, suffix = os.path.splitext(name)
            if suffix.lower() in DECOMPRESSORS:
                # Lines are read much faster from a BufferedReader than from these classes.
                file, name = io.BufferedReader(stack.enter_context(DECOMPRESSORS[suffix.lower()](file))), base
        yield file, name


def _open_in_zip(stack: contextlib.ExitStack, file: IO[bytes], path: str, member: str) -> IO[bytes]:
    archive = stack.enter_context(zipfile.ZipFile(file))
    try:
        info = archive.getinfo(member)
    except KeyError as error:
        raise _not_found(member, path, archive.namelist()) from error
    if info.is_dir():
        raise InputError(f"{member} in {path} is a directory: specify a file in it")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise InputError(f"{member} in {path} is a link: specify the file that it refers to")
    if info.flag_bits & 1:
        raise InputError(f"{member} in {path} is encrypted: unpack the archive yourself, and specify the file")
    try:
        return io.BufferedReader(cast(io.RawIOBase, stack.enter_context(archive.open(info))))
    except (NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"{member} in {path} is compressed in a way that Python cannot read ({error}): unpack the archive "
            "yourself, and specify the file"
        ) from error


def _open_in_tar(stack: contextlib.ExitStack, file: IO[bytes], path: str, member: str) -> IO[bytes]:
    start = file.read(6)
    file.seek(0)
    for signature, decompress in SIGNATURES.items():
        if start.startswith(signature):
            file = stack.enter_context(decompress(file))
    limited = _LimitedFile(file, _limit(path), path)
    archive = stack.enter_context(tarfile.TarFile(fileobj=cast(IO[bytes], limited)))
    try:
        info = archive.getmember(member)  # this reads the whole archive
        limited.read_rest()  # the checksum is at the end
    except KeyError as error:
        raise _not_found(member, path, archive.getnames()) from error
    try:
        found = archive.extractfile(info)
    except (KeyError, RecursionError) as error:
        raise InputError(
            f"{member} in {path} is a link to {info.linkname}, which leads to no file in the archive: specify the file"
        ) from error
    if found is None:
        kind = "a device or pipe" if info.isdev() else "a directory"
        raise InputError(f"{member} in {path} is {kind}: specify a file in it")
    return stack.enter_context(found)


def _not_found(member: str, path: str, names: Iterable[str]) -> InputError:
    if any(name.startswith(f"{member.rstrip('/')}/") for name in names):
        return InputError(f"{member} in {path} is a directory: specify a file in it")
    return InputError(f"{member} not found in {path}")


@contextlib.contextmanager
def _input_errors(path: str) -> Iterator[None]:
    """Turn errors of reading an archive into InputError."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # for damaged files, these libraries raise almost any exception
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} is damaged ({reason}): remove it and run again") from error


class _LimitedFile:
    """The part of a file's interface that tarfile uses, for an archive that must not expand to more than `limit`."""

    def __init__(self, file: IO[bytes], limit: int, path: str):
        self._file, self._limit, self._path = file, limit, path
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        self._check(self._file.tell() + size)
        return self._file.read(size)

    def seek(self, position: int) -> int:
        self._check(position)
        return self._file.seek(position)

    def read_rest(self) -> None:
        while self.read(1 << 16):
            pass

    def _check(self, position: int) -> None:
        if position > self._limit:
            raise _too_large(self._path, self._limit)


def _limit(path: str) -> int:
    return max(ALWAYS_ALLOWED, MOST_EXPANSION * os.path.getsize(path))


def _too_large(where: str, limit: int) -> InputError:
    return InputError(
        f"{where} expands to more than {limit:,} bytes: if it is correct, unpack it yourself, and specify the file"
    )


def _lines(file: IO[bytes], path: str, where: str) -> Iterator[bytes]:
    limit = _limit(path)
    total = number = 0
    with _input_errors(path):
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            total += len(line)
            if len(line) > LONGEST_LINE:
                raise InputError(
                    f"line {number:,} of {where} has more than {LONGEST_LINE:,} bytes: specify a text file"
                )
            if total > limit:
                raise _too_large(where, limit)
            yield line


def _segments(lines: Iterable[bytes], where: str) -> Iterator[bytes]:
    """Yield the segments of WMT test sets like sacreBLEU: whitespace is collapsed, entities are kept."""
    number = found = 0
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{where} has invalid UTF-8 in line {number:,} ({error.reason}): convert it to UTF-8"
            ) from error
        # <seg[^>]*>(.*)</seg>, in linear time
        start = text.find("<seg")
        first, last = text.find(">", start) if start >= 0 else -1, text.rfind("</seg>")
        if 0 <= first < last:
            found += 1
            yield " ".join(text[first + 1 : last].split()).encode("utf-8")
    if number and not found:
        raise InputError(
            f"{where} has no line with <seg>...</seg>: specify SGML of the form of WMT, or extract its text"
        )
