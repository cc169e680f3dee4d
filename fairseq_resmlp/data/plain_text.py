"""Recognition of files that are not text, so that they are refused instead of read as text."""

import re

from fairseq_resmlp.common.compression import SUFFIX, open_decompressed
from fairseq_resmlp.common.errors import InputError

START = 4096  # bytes that are examined
_BINARY = {
    rb"\x1f\x8b": "is compressed with gzip: decompress it",
    rb"\x1f\x9d": "is compressed with compress: decompress it",
    rb"\x5d\0\0": "is compressed with lzma: decompress it",
    rb"BZh[1-9]1AY&SY": "is compressed with bzip2: decompress it",
    rb"\xfd7zXZ\0": "is compressed with xz: decompress it",
    rb"\x28\xb5\x2f\xfd": "is compressed with zstd: decompress it",
    rb"7z\xbc\xaf": "is a 7-Zip archive: unpack it",
    rb"Rar!\x1a": "is a RAR archive: unpack it",
    rb"PK\x03\x04": "is a ZIP archive or an office document: convert it to text",
    rb"%PDF-\d": "is a PDF document: convert it to text",
    rb"\xff\xfe|\xfe\xff": "is UTF-16: convert it to UTF-8",
}
_MARKUP = {
    rb"<\?xml": "is XML: name it .tmx or .xlf if it is one of these, or extract its text",
    rb"<(!doctype|html)": "is markup: extract its text",
}


def check_signature(name: str, start: bytes, markup: bool = False) -> None:
    """Check that a text does not begin like a file of a well-known other kind.

    Args:
        name: for the error message
        start: its first `START` bytes
        markup: whether to refuse XML and HTML, too, which raw training text may contain

    Raises:
        InputError: it does
    """
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, kind in {**_BINARY, **(_MARKUP if markup else {})}.items():
        if re.match(pattern, text, re.IGNORECASE):
            raise InputError(f"{name} {kind}")


def _check_start(name: str, start: bytes, markup: bool) -> None:
    """`check_signature`, and that at most a tenth of the start is NUL, as in UTF-16."""
    check_signature(name, start, markup)
    if start.count(0) > len(start) / 10:
        raise InputError(f"{name} is a binary file: specify a text file")


def check_text_files(*paths: str) -> None:
    """Check that regular files of raw or tokenized text are neither compressed nor of another kind.

    Raises:
        InputError: see `check_signature`; or the file is binary
    """
    for path in paths:
        with open(path, "rb") as file:
            _check_start(path, file.read(START), markup=False)


def check_plain_text(path: str) -> None:
    """Check that a regular file to translate is text. It is decompressed if its name ends in .gz.

    Raises:
        InputError: see `check_signature`; or the file is binary
    """
    with open_decompressed(path) as file:
        start = file.read(START)
    if start.startswith(b"\x1f\x8b"):
        raise InputError(f"{path} is compressed with gzip: rename it to NAME{SUFFIX}")
    _check_start(path, start, markup=True)
