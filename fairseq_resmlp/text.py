"""Lines of a text file, whatever bytes are in it. Needs no fairseq."""

import logging
import sys
from typing import Iterator, List

logger = logging.getLogger(__name__)


def read(path: str, buffer_size: int) -> Iterator[List[str]]:
    """Lines of a file, or of the standard input if `path` is "-", in lists of `buffer_size`.

    Only a line feed ends a line: fairseq takes a carriage return in the middle of one for an end, too, and ends with
    a traceback where the text is not UTF-8. Such bytes are read as the replacement character, with a warning.
    """
    with open(sys.stdin.fileno() if path == "-" else path, "rb", closefd=path != "-") as file:
        lines: List[str] = []
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                logger.warning(f"line {number} is not UTF-8 ({error.reason} at byte {error.start}): replaced by \ufffd")
                text = line.decode("utf-8", "replace")
            lines.append(text.strip())
            if len(lines) == buffer_size:
                yield lines
                lines = []
        if lines:
            yield lines
