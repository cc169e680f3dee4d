"""Checkpoint files: read only when they are whole and harmless, written whole or not at all."""

import pickle
from argparse import Namespace
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import fields
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional

import numpy as np
import torch
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_DATACLASS_REGISTRY
from omegaconf import OmegaConf, open_dict

from . import archive
from .archive import reason
from .errors import InputError
from .files import written_whole

# Called with what every checkpoint holds that fairseq loads, and its path, before anything is built from it.
also_check: ContextVar[Optional[Callable[[Dict[str, Any], str], None]]] = ContextVar("also_check", default=None)


def read(path: str) -> Dict[str, Any]:
    """Load a fairseq checkpoint on the CPU, weights-only.

    Raises:
        InputError: the file is damaged, holds more than plain data, is no checkpoint, or has a weight that is
            infinite or not a number
    """
    with safe_to_load(path):
        state = torch.load(path, map_location="cpu", weights_only=True)
        check(state, path)
        complete(state)
    return state


def safe_to_load(path: str) -> ContextManager[None]:
    """`archive.safe_to_load` for checkpoints of fairseq, which may hold what is `ALLOWED`."""
    return archive.safe_to_load(path, "a fairseq checkpoint", ALLOWED)


def write(state: Dict[str, Any], path: str) -> None:
    """Save a checkpoint so that `path` holds, at any moment, all of the old one or all of the new.

    Raises:
        InputError: it cannot be written, for a full disk or a read-only folder; `path` is as it was
    """
    with replaced(path) as partial, open(partial, "wb") as file:
        torch.save(state, file)


@contextmanager
def replaced(path: str) -> Iterator[str]:
    """Give a temporary path for a checkpoint that takes the place of `path`; errors as `write`."""
    try:
        with written_whole(path) as partial:
            yield partial
    except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError
        raise InputError(f"cannot write {path}, which is as it was before: {reason(error)}") from error


def check(state: Any, path: str) -> None:
    """Raise InputError if what was loaded from `path` is no fairseq checkpoint or has a weight that is no number."""
    parameters = state.get("model") if isinstance(state, dict) else None
    if not isinstance(parameters, dict) or not all(torch.is_tensor(value) for value in parameters.values()):
        raise InputError(f"{path} is not a fairseq checkpoint: it holds no model")
    for name, value in parameters.items():
        if value.layout != torch.strided or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise InputError(f"{path} is refused: {name} is larger than what is stored of it")
        if (value.is_floating_point() or value.is_complex()) and not value.isfinite().all():
            raise InputError(f"{path}: {name} has weights that are infinite or not numbers: take an earlier checkpoint")
    options = state.get("cfg")
    if OmegaConf.is_config(options):
        options = OmegaConf.to_container(options, resolve=False)
    if any("${" in text for text in _texts([options, state.get("args")])):
        # OmegaConf would put in what they name, such as secrets of the environment into an address to fetch from.
        raise InputError(f"{path} is refused: its options refer to other values by ${{...}}, which fairseq never saves")


def complete(state: Dict[str, Any]) -> None:
    """Make an older checkpoint of a ResMLP what it would be if it were trained today.

    Options that came later get the default of `ResMLPConfig`, by which it stays the model it was; fairseq would take
    the architecture's, which may have changed since. The zeros that once were stored for a layer without b go.
    """
    options = (state.get("cfg") or {}).get("model")
    if isinstance(options, Namespace) or ARCH_MODEL_NAME_REGISTRY.get((options or {}).get("_name")) != "resmlp":
        return
    with open_dict(options) if OmegaConf.is_config(options) else nullcontext():
        for option in fields(MODEL_DATACLASS_REGISTRY["resmlp"]):
            if options.get(option.name) is None:
                options[option.name] = option.default
    if options["no_mixing_bias"] or str(options["token_mixing"]) == "toeplitz":
        zeros = [name for name, b in state["model"].items() if name.endswith(".mixing.b") and not b.any()]
        for name in zeros:
            del state["model"][name]


def _texts(values: List[Any]) -> Iterator[str]:
    """All strings inside of options."""
    seen = set()
    while values:
        value = values.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, (dict, list, tuple, Namespace)) and id(value) not in seen:
            seen.add(id(value))
            inside = vars(value) if isinstance(value, Namespace) else value
            values += [*inside, *inside.values()] if isinstance(inside, dict) else inside


# What checkpoints may hold beyond torch's own list of plain data and tensors: options of models without a dataclass,
# and the counts of --eval-bleu, which are NumPy's. NumPy takes the types it unpickles at their word, and a forged one
# passes bytes off as pointers. So its names stand for the classes below, which know two types of numbers.


class NumberType:
    """Stands for numpy.dtype: 64-bit floating point or whole numbers, little-endian."""

    def __init__(self, name: str, align: bool = False, copy: bool = True):
        if name not in ("f8", "i8"):
            raise pickle.UnpicklingError(f"NumPy data of type {name!r}")
        self.dtype = np.dtype(f"<{name}")

    def __setstate__(self, state) -> None:
        if state[1] != "<":
            raise pickle.UnpicklingError(f"NumPy data of byte order {state[1]!r}")


class Numbers(np.ndarray):
    """Stands for numpy.ndarray, which could be called with any type and bytes: made by `empty_numbers` alone."""

    def __new__(cls, *args, **kwargs):
        raise pickle.UnpicklingError("NumPy data that is not made as NumPy does")

    def __setstate__(self, state) -> None:
        _, shape, number_type, fortran_order, data = state
        super().__setstate__((1, shape, _type(number_type), fortran_order, data))

    def __reduce__(self):
        return np.asarray(self).__reduce__()  # saved again it is NumPy's own


def empty_numbers(_class, _shape, _code) -> Numbers:
    """Stands for numpy's _reconstruct, which makes the array that __setstate__ fills."""
    return np.ndarray.__new__(Numbers, 0)


def number(number_type: NumberType, data: bytes):
    """Stands for numpy's scalar."""
    return np.frombuffer(data, _type(number_type), 1)[0]


def _type(number_type: NumberType) -> np.dtype:
    if type(number_type) is not NumberType:
        raise pickle.UnpicklingError(f"NumPy data of type {number_type!r}")
    return number_type.dtype


ALLOWED = [
    (Namespace, "argparse.Namespace"),
    (NumberType, "numpy.dtype"),
    (Numbers, "numpy.ndarray"),
    (empty_numbers, "numpy._core.multiarray._reconstruct"),
    (number, "numpy._core.multiarray.scalar"),
    (empty_numbers, "numpy.core.multiarray._reconstruct"),  # NumPy 1
    (number, "numpy.core.multiarray.scalar"),
]
