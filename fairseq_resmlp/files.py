"""Files that are there whole or not at all."""

import os
from contextlib import contextmanager
from typing import Iterator


@contextmanager
def written_whole(path: str) -> Iterator[str]:
    """Give a temporary path beside `path` that takes its place at the end, or is removed if the work fails.

    Raises:
        OSError: it cannot be written; `path` is as it was
    """
    partial = f"{path}.part"
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())  # a machine that goes down after the renaming must find the content there
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
