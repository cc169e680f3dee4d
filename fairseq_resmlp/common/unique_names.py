"""Short, distinct names for several directories."""

import os
from collections.abc import Sequence

from fairseq_resmlp.common.errors import InputError


def unique_names(paths: Sequence[str]) -> list[str]:
    """Return the shortest path suffixes that tell the paths apart, with symbolic links resolved.

    Raises:
        InputError: a directory is given twice
    """
    parts = [os.path.realpath(path).split(os.sep) for path in paths]
    for path, own in zip(paths, parts):
        if parts.count(own) > 1:
            raise InputError(f"{path} is given twice: specify each directory once")
    length = 1
    while len({tuple(own[-length:]) for own in parts}) < len(parts):
        length += 1
    return ["/".join(own[-length:]) for own in parts]


def check_distinct_targets(sources: Sequence[str], targets: Sequence[str], remedy: str) -> None:
    """Raise InputError if two of `sources` would be written to the same of `targets`."""
    first: dict[str, str] = {}
    for source, target in zip(sources, targets):
        if target in first:
            raise InputError(f"{first[target]} and {source} would both be written to {target}: {remedy}")
        first[target] = source
