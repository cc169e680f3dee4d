"""fairseq checkpoints: read only if intact and safe, written atomically."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import fields
from typing import Any

import torch
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_DATACLASS_REGISTRY
from omegaconf import OmegaConf, open_dict

from fairseq_resmlp.checkpoints import safe_loading
from fairseq_resmlp.checkpoints.dictionary_hash import KEY, pop_hashes
from fairseq_resmlp.checkpoints.numpy_globals import ALLOWED_GLOBALS
from fairseq_resmlp.checkpoints.safe_loading import reason
from fairseq_resmlp.common.atomic_write import atomic_write
from fairseq_resmlp.common.errors import InputError

load = safe_loading.weights_only_load(ALLOWED_GLOBALS)  # the torch.load of fairseq checkpoints

# Called with the content and the path of every checkpoint that fairseq loads, before anything is built from it
extra_check: ContextVar[Callable[[dict[str, Any], str], None] | None] = ContextVar("extra_check", default=None)


def read_checkpoint(path: str) -> dict[str, Any]:
    """Load a fairseq checkpoint on the CPU, weights-only.

    Raises:
        InputError: the file is damaged, contains more than plain data, is not a checkpoint, or has a weight that is
            infinite or not a number
    """
    with safe_to_load(path):
        state: dict[str, Any] = load(path, map_location="cpu")
        check(state, path)
        upgrade(state)
    return state


def safe_to_load(path: str) -> AbstractContextManager[None]:
    """`safe_loading.safe_to_load` for fairseq checkpoints."""
    return safe_loading.safe_to_load(path, "a fairseq checkpoint")


def write_checkpoint(state: dict[str, Any], path: str) -> None:
    """Save a checkpoint atomically: at any moment, `path` contains either the complete old one or the complete new one.

    Raises:
        InputError: the checkpoint cannot be written, because of a full disk or a read-only directory; `path` is
            unchanged
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)


@contextmanager
def replacing(path: str) -> Iterator[str]:
    """`atomic_write` for checkpoints. Errors as for `write_checkpoint`."""
    try:
        with atomic_write(path) as temporary:
            yield temporary
    except (OSError, RuntimeError) as error:  # the latter from torch's own writer
        raise InputError(f"cannot write {path}, which is unchanged: {reason(error)}") from error


def check(state: Any, path: str) -> None:
    """Raise InputError if the content of `path` is not a fairseq checkpoint or has a nonfinite weight."""
    parameters = state.get("model") if isinstance(state, dict) else None
    if not isinstance(parameters, dict) or not all(torch.is_tensor(value) for value in parameters.values()):
        raise InputError(f"{path} is not a fairseq checkpoint: it contains no model")
    for name, value in parameters.items():
        if value.layout != torch.strided or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise InputError(f"{path} is not safe to load: {name} is larger than its stored data")
        if (value.is_floating_point() or value.is_complex()) and not value.isfinite().all():
            raise InputError(f"{path}: {name} has weights that are infinite or NaN: use an earlier checkpoint")
    if not isinstance(state.get("task_state", {}), dict):
        raise InputError(f"{path} is not a fairseq checkpoint: its task_state is not a dictionary")
    options = state.get("cfg")
    if OmegaConf.is_config(options):
        options = OmegaConf.to_container(options, resolve=False)
    if any("${" in text for text in _strings([options, state.get("args")])):
        # OmegaConf would interpolate them, for example a secret of the environment into a download address.
        raise InputError(
            f"{path} is not safe to load: its options refer to other values with ${{...}}, which fairseq never saves"
        )


def upgrade(state: dict[str, Any]) -> None:
    """Make an older ResMLP checkpoint equivalent to one trained today.

    Options that were added later get the default of `ResMLPConfig`, which leaves the model unchanged; fairseq would use
    the default of the architecture, which may have changed. Stored zeros for a layer without b are removed. Hashes of
    dictionaries move from the weights to the state of the task.
    """
    hashes = pop_hashes(state["model"])
    if hashes:
        state["task_state"] = {**state.get("task_state", {}), KEY: hashes}
    options: Any = (state.get("cfg") or {}).get("model")
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


def _strings(values: list[Any]) -> Iterator[str]:
    """Yield all strings in nested options."""
    seen = set()
    while values:
        value = values.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, (dict, list, tuple, Namespace)) and id(value) not in seen:
            seen.add(id(value))
            inside = vars(value) if isinstance(value, Namespace) else value
            values += [*inside, *inside.values()] if isinstance(inside, dict) else inside
