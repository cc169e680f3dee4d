"""Reading lines of text, whatever bytes they contain."""

import logging
import sys
from collections.abc import Iterator

logger = logging.getLogger(__name__)


def read_lines(path: str, buffer_size: int) -> Iterator[list[str]]:
    """Yield the stripped lines of a file, or of standard input if `path` is "-", in lists of `buffer_size`.

    Only a line feed ends a line. fairseq also splits at a carriage return, and fails with a traceback on text that is
    not UTF-8; here, invalid bytes become the replacement character, with a warning.
    """
    with open(sys.stdin.fileno() if path == "-" else path, "rb", closefd=path != "-") as file:
        lines: list[str] = []
        for number, line in enumerate(file, 1):
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


def replace_surrogates(text: str) -> str:
    """Replace unpaired surrogates, which are not valid text, with the replacement character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
