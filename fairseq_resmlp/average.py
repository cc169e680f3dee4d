"""The mean of several checkpoints of one training."""

from typing import Any, Dict, Sequence

import torch

from . import checkpoint
from .errors import InputError


def average_checkpoints(paths: Sequence[str]) -> Dict[str, Any]:
    """Average the parameters of fairseq checkpoints.

    Sums run in float64, one checkpoint in memory at a time. Decoder matrices stay lower-triangular, since the
    mean of zeros is zero.

    Args:
        paths: one checkpoint or more, of the same architecture

    Returns:
        dict: the last checkpoint's content with averaged parameters and without the optimizer's state, which
        belongs to none of the averages

    Raises:
        InputError: a file is not a checkpoint to be trusted (see `checkpoint.read`), or its parameters have other
            names or shapes, or it is of a training with another dictionary
    """
    total: Dict[str, torch.Tensor] = {}
    fixed: Dict[str, torch.Tensor] = {}  # what has no mean: counters, and versions of dictionaries
    for path in paths:
        state = checkpoint.read(path)
        parameters = {name: value for name, value in state["model"].items() if value.is_floating_point()}
        if not total:
            total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in parameters.items()}
        missing, unknown = sorted(total.keys() - parameters.keys()), sorted(parameters.keys() - total.keys())
        if missing or unknown:
            raise InputError(f"{path} has other parameters than {paths[0]}, such as {(missing + unknown)[0]}")
        for name, value in parameters.items():
            if value.shape != total[name].shape:
                raise InputError(
                    f"{name} is {tuple(value.shape)} in {path} and {tuple(total[name].shape)} in {paths[0]}: "
                    "only checkpoints of one architecture can be averaged"
                )
            total[name] += value
        for name in sorted(state["model"].keys() - parameters.keys()):
            value = state["model"][name]
            if name.endswith("dictionary_version") and not torch.equal(fixed.get(name, value), value):
                raise InputError(f"{path} is of another training than {paths[0]}: {name} is not the same")
            fixed[name] = value
    mean = {name: (total[name] / len(paths)).to(value.dtype) for name, value in parameters.items()}
    state["model"] = {**mean, **fixed}
    state["last_optimizer_state"] = None
    return state
