"""Atomic file writing: a file is either written completely or left as it was."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def atomic_write(path: str) -> Iterator[str]:
    """Yield a temporary path that replaces `path` on success and is removed on failure.

    Raises:
        OSError: the file cannot be written; `path` is unchanged
    """
    partial = f"{path}.part"
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())  # after a power failure, the new name must not refer to missing content
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


@contextmanager
def open_output(path: str) -> Iterator[TextIO]:
    """Open a UTF-8 text file with LF line endings for writing: atomically, or directly for "-" (stdout) and pipes.

    Raises:
        OSError: the file cannot be written
    """
    if path == "-":
        with open(1, "w", encoding="utf-8", newline="\n", closefd=False) as out:
            yield out
    elif os.path.exists(path) and not os.path.isfile(path):  # a pipe or a device cannot be replaced
        with open(path, "w", encoding="utf-8", newline="\n") as out:
            yield out
    else:
        with atomic_write(path) as partial, open(partial, "w", encoding="utf-8", newline="\n") as out:
            yield out
