"""Reading lines of text, whatever bytes they contain."""

import errno
import logging
import os
import sys
from collections.abc import Iterator

from fairseq_resmlp.common.compression import open_decompressed
from fairseq_resmlp.common.errors import InputError

logger = logging.getLogger(__name__)


def read_lines(path: str, buffer_size: int) -> Iterator[list[str]]:
    """Yield the stripped lines of a file, or of standard input if `path` is "-", in lists of `buffer_size`.

    Files whose names end in .gz are decompressed. Only a line feed ends a line. fairseq also splits at a carriage
    return, and fails with a traceback on text that is not UTF-8; here, invalid bytes become the replacement character,
    with a warning.

    Raises:
        InputError: the file or standard input cannot be read, or the file is damaged
    """
    lines: list[str] = []
    for number, line in enumerate(_read_bytes(path), 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            logger.warning(
                f"line {number} is not valid UTF-8 ({error.reason} at byte {error.start}): replaced by \ufffd"
            )
            text = line.decode("utf-8", "replace")
        lines.append(text.strip())
        if len(lines) == buffer_size:
            yield lines
            lines = []
    if lines:
        yield lines


def _read_bytes(path: str) -> Iterator[bytes]:
    if path == "-" and sys.stdin is None:
        raise InputError(f"cannot read standard input: {os.strerror(errno.EBADF)}")
    try:
        with open(sys.stdin.fileno(), "rb", closefd=False) if path == "-" else open_decompressed(path) as file:
            yield from file
    except OSError as error:
        raise InputError(f"cannot read {'standard input' if path == '-' else path}: {error.strerror}") from error


def replace_surrogates(text: str) -> str:
    """Replace unpaired surrogates, which are not valid text, with the replacement character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
