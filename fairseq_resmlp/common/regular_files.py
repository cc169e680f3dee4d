"""Files that are read as a whole."""

import json
import os
import stat
from typing import Any

from fairseq_resmlp.common.errors import InputError

MAX_DEPTH = 100  # of lists and objects in JSON: far below the depth at which Python's own functions give up
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_regular_file(path: str, pipes: bool = False) -> None:
    """Check that a path leads to a regular file. Reading a pipe or a device as a whole may never end.

    Args:
        path: the path
        pipes: also accept the pipe of a shell, as in `score <(command)`

    Raises:
        InputError: it leads to something else, does not exist, or cannot be accessed
    """
    # The pipe of a shell has no name of its own: its path leads to /proc/PID/fd/pipe:[NUMBER].
    if pipes and os.path.exists(path) and not os.path.exists(os.path.realpath(path)):
        return
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    for is_kind, kind in _KINDS:
        if is_kind(mode):
            raise InputError(f"{path} is {kind}: specify a regular file")


def read_json(path: str) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it is not a regular file, not JSON, or nested more than `MAX_DEPTH` levels
        OSError: it cannot be read
    """
    check_regular_file(path)
    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file)
        except RecursionError as error:
            raise InputError(f"{path} is nested too deeply") from error
        except ValueError as error:
            raise InputError(f"{path} is not JSON: {error}") from error
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [item for value in level if isinstance(value, (dict, list)) for item in _items(value)]
    if any(isinstance(value, (dict, list)) for value in level):
        raise InputError(f"{path} is nested more than {MAX_DEPTH} levels")
    return content


def _items(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value
