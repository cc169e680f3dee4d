"""Names for several folders side by side."""

import os
from typing import List, Sequence

from .errors import InputError


def short_names(paths: Sequence[str]) -> List[str]:
    """The ends of the paths, links resolved, as long as they must be to differ; InputError if one is there twice."""
    parts = [os.path.realpath(path).split(os.sep) for path in paths]
    for path, own in zip(paths, parts):
        if parts.count(own) > 1:
            raise InputError(f"{path} is named twice: name each once")
    length = 1
    while len({tuple(own[-length:]) for own in parts}) < len(parts):
        length += 1
    return ["/".join(own[-length:]) for own in parts]
