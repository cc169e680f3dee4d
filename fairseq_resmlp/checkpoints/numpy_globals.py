"""Globals that fairseq's checkpoints may contain, in addition to torch's own list of plain data.

These are the options of models without a dataclass, and the counts of --eval-bleu, which are NumPy's. NumPy trusts the
types that it unpickles, so a forged type can turn bytes into pointers. Therefore NumPy's names are mapped to the
classes below, which accept two number types only.
"""

import pickle
from argparse import Namespace
from typing import Any

import numpy as np


class NumberType:
    """Replaces numpy.dtype: 64-bit floating-point numbers or integers, little-endian."""

    def __init__(self, name: str, align: bool = False, copy: bool = True):
        if name not in ("f8", "i8"):
            raise pickle.UnpicklingError(f"NumPy data of type {name!r}")
        self.dtype: np.dtype[Any] = np.dtype(f"<{name}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] != "<":
            raise pickle.UnpicklingError(f"NumPy data of byte order {state[1]!r}")


class Numbers(np.ndarray):
    """Replaces numpy.ndarray, whose constructor accepts any type and bytes: only `empty_numbers` creates it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Numbers":
        raise pickle.UnpicklingError("NumPy data that NumPy did not write")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, number_type, fortran_order, data = state
        super().__setstate__((1, shape, _dtype(number_type), fortran_order, data))

    def __reduce__(self) -> Any:
        return np.asarray(self).__reduce__()  # when saved again, it is a plain NumPy array


def empty_numbers(_class: Any, _shape: Any, _code: Any) -> Numbers:
    """Replaces NumPy's _reconstruct, which creates the array that __setstate__ fills."""
    return np.ndarray.__new__(Numbers, 0)


def number(number_type: NumberType, data: bytes) -> Any:
    """Replaces NumPy's scalar."""
    return np.frombuffer(data, _dtype(number_type), 1)[0]


def _dtype(number_type: NumberType) -> "np.dtype[Any]":
    if type(number_type) is not NumberType:
        raise pickle.UnpicklingError(f"NumPy data of type {number_type!r}")
    return number_type.dtype


ALLOWED_GLOBALS = [
    (Namespace, "argparse.Namespace"),
    (NumberType, "numpy.dtype"),
    (Numbers, "numpy.ndarray"),
    (empty_numbers, "numpy._core.multiarray._reconstruct"),
    (number, "numpy._core.multiarray.scalar"),
    (empty_numbers, "numpy.core.multiarray._reconstruct"),  # NumPy 1
    (number, "numpy.core.multiarray.scalar"),
]
