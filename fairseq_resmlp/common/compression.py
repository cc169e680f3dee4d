"""Files that are compressed with gzip if their names end in .gz."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

from fairseq_resmlp.common.errors import InputError

SUFFIX = ".gz"


@contextmanager
def open_decompressed(path: str) -> Iterator[IO[bytes]]:
    """Open a file for reading.

    Raises:
        InputError: the file is damaged
        OSError: the file cannot be read
    """
    try:
        with gzip.open(path, "rb") if path.endswith(SUFFIX) else open(path, "rb") as file:
            yield cast(IO[bytes], file)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path} is damaged or not compressed with gzip: {error}") from error


@contextmanager
def compressed_if_named_so(path: str, file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield a file that compresses what is written to `file` if the name `path` ends in .gz; otherwise `file`."""
    if path.endswith(SUFFIX):
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as compressed:
            yield cast(IO[bytes], compressed)
    else:
        yield file
