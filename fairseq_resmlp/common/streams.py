"""Standard streams that the caller has closed."""

import os
import sys


def open_closed_streams() -> None:
    """Open standard streams that the caller has closed, so that no other file gets their descriptors.

    Reading from a closed standard input and writing to a closed standard output remain errors. What is written to a
    closed standard error is discarded.
    """
    for descriptor, name, unusable in (
        (0, "stdin", os.O_WRONLY),
        (1, "stdout", os.O_RDONLY),
        (2, "stderr", os.O_WRONLY),
    ):
        if getattr(sys, name) is None:  # as Python sets it
            if not _is_open(descriptor):
                os.open(os.devnull, unusable)  # gets the lowest free descriptor, which is this one
            mode = "w" if descriptor else "r"
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115  to the end


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
