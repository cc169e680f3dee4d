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
    for summed, path in enumerate(paths):
        state = checkpoint.read(path)
        parameters = state["model"]
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
            if summed and not value.is_floating_point() and not torch.equal(total[name], value.double() * summed):
                raise InputError(f"{name} is not the same in {path} and {paths[0]}: they are of different trainings")
            total[name] += value
    state["model"] = {name: (total[name] / len(paths)).to(value.dtype) for name, value in parameters.items()}
    state["last_optimizer_state"] = None
    return state
