"""Import of torch without garbage collection."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def import_without_garbage_collection() -> Iterator[None]:
    """Pause Python's garbage collection while torch is imported, and exclude the imported objects from it afterwards.

    Importing torch creates a quarter of a million objects, nearly all of which live until the process ends. The
    collector would traverse them repeatedly during the import, and once more at exit (docs/performance.md, "Cold
    start"). If torch has been imported already, nothing changes.
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
