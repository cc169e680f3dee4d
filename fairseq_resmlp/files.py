"""Files that are there whole or not at all, and names for several of them."""

import os
from contextlib import contextmanager
from typing import Iterator, List, Sequence

from .errors import InputError


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


def short_names(paths: Sequence[str]) -> List[str]:
    """The ends of the paths, as long as they must be to differ; InputError if one is there twice."""
    parts = [os.path.realpath(path).split(os.sep) for path in paths]
    for path, own in zip(paths, parts):
        if parts.count(own) > 1:
            raise InputError(f"{path} is named twice: name each once")
    length = 1
    while len({tuple(own[-length:]) for own in parts}) < len(parts):
        length += 1
    return ["/".join(own[-length:]) for own in parts]
