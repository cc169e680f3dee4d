"""Importing large packages without searching for unreachable objects."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def import_without_garbage_collection() -> Iterator[None]:
    """Pause Python's garbage collection while torch is imported, and exclude the imported objects from it afterwards.

    torch consists of a quarter of a million objects, and nearly all of them live until the process ends. Searching them
    for garbage again and again, last when the process exits, is a quarter of the CPU time of `import torch`
    (docs/performance.md, "Cold start"). If torch has been imported already, nothing changes.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
