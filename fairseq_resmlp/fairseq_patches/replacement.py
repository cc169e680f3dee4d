"""Replacing a function that other modules have imported by name."""

import sys
from collections.abc import Callable


def replace_function(original: Callable, replacement: Callable) -> None:
    """Replace a function under its own name in every loaded module, also in a program that runs as __main__."""
    name = original.__name__
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get(name) is original:
            setattr(module, name, replacement)
