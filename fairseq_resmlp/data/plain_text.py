"""Checks that a file is plain text, and not another format that would be read as if it were text."""

import codecs
import os
import re
from collections.abc import Mapping

from fairseq_resmlp.common.compression import open_decompressed
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.data.documents import document_type

BEGINNING = 4096  # bytes of a file that are checked

# Patterns of the first bytes, after white space, in any case
_BINARY = {
    rb"\x1f\x8b": "is compressed with gzip: rename it to NAME.gz",
    rb"\x1f\x9d": "is compressed with compress: decompress it",
    rb"\x5d\0\0": "is compressed with lzma: decompress it",
    rb"BZh[1-9]1AY&SY": "is compressed with bzip2: decompress it",
    rb"\xfd7zXZ\0": "is compressed with xz: decompress it",
    rb"\x28\xb5\x2f\xfd": "is compressed with zstd: decompress it",
    rb"7z\xbc\xaf": "is a 7-Zip archive: unpack it",
    rb"Rar!\x1a": "is a RAR archive: unpack it",
    rb"PK\x03\x04": "is a ZIP archive or an office document: convert it to text",
    rb"%PDF-": "is a PDF document: convert it to text",
    rb"\xff\xfe|\xfe\xff": "is UTF-16: convert it to UTF-8",
}
_MARKUP = {
    rb"<\?xml": "is XML: name it .tmx or .xlf if it is one of these, or extract its text",
    rb"<tmx": "is TMX: name it .tmx",
    rb"<xliff": "is XLIFF: name it .xlf",
    rb"<(!doctype|html)": "is markup: extract its text",
    rb"<(srcset|refset|tstset|mteval)": (
        "is a test set in SGML: name it .sgm for fairseq-resmlp extract, or extract its text"
    ),
}
_TAGGED = re.compile(rb"<[A-Za-z!/?]")


def check_plain_text(path: str) -> None:
    """Check that a regular file, compressed if it is named .gz, is not a well-known format other than text.

    Raises:
        InputError: it is, or it is a binary file
    """
    with open_decompressed(path) as file:
        beginning = file.read(BEGINNING)
    check_not_binary(beginning, path)
    check_not_markup(beginning, path)


def check_training_text(path: str) -> None:
    """`check_plain_text` for a file that is read as it is, without the formats of `fairseq-resmlp extract`.

    Raises:
        InputError: the file is compressed, a document, a table, or not text
    """
    if document_type(path) or os.path.splitext(path)[1].lower() in (".gz", ".bz2", ".xz", ".sgm"):
        raise InputError(f"{path} is not plain text by its name: extract its text with fairseq-resmlp extract")
    with open(path, "rb") as file:
        beginning = file.read(BEGINNING)
    check_not_binary(beginning, path)
    check_not_markup(beginning, path)
    check_not_table(beginning, path)


def check_not_binary(beginning: bytes, name: str) -> None:
    """Raise InputError if the beginning of a file is that of a binary file."""
    _check_signatures(_BINARY, beginning, name)
    # Text of the web has single NULs. In UTF-16, every other byte is one.
    if b"\0" in beginning and (beginning.count(0) > len(beginning) / 10 or not _is_utf8(beginning)):
        raise InputError(f"{name} is a binary file: specify a text file")


def check_not_markup(beginning: bytes, name: str) -> None:
    """Raise InputError if the beginning of a file is that of XML, HTML or SGML."""
    _check_signatures(_MARKUP, beginning, name)
    lines = [line.strip() for line in _complete_lines(beginning) if line.strip()]
    tagged = [line for line in lines if _TAGGED.match(line) and line.endswith(b">")]
    if len(tagged) > 1 and 2 * len(tagged) > len(lines):
        raise InputError(f"{name} is markup, because most of its lines are enclosed in tags: extract its text")


def check_not_table(beginning: bytes, name: str) -> None:
    """Raise InputError if every line at the beginning of a file has a tab."""
    lines = _complete_lines(beginning)
    if len(lines) > 1 and all(b"\t" in line for line in lines):
        raise InputError(
            f"{name} seems to be a table, because every line has a tab: name it .tsv, and extract its columns with "
            "fairseq-resmlp extract; or replace the tabs by spaces"
        )


def _check_signatures(signatures: Mapping[bytes, str], beginning: bytes, name: str) -> None:
    text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, kind in signatures.items():
        if re.match(pattern, text, re.IGNORECASE):
            raise InputError(f"{name} {kind}")


def _is_utf8(beginning: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(beginning)  # the last character can be incomplete
    except UnicodeDecodeError:
        return False
    return True


def _complete_lines(beginning: bytes) -> list[bytes]:
    lines = beginning.split(b"\n")
    return lines[:-1] if len(beginning) >= BEGINNING or not lines[-1] else lines
