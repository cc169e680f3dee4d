"""The mean of several checkpoints of one training."""

import pickle
from typing import Any, Dict, Sequence

import torch

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
        InputError: a file is not a fairseq checkpoint, or its parameters have other names or shapes
    """
    total: Dict[str, torch.Tensor] = {}
    for path in paths:
        state = load_checkpoint(path)
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
            total[name] += value
    state["model"] = {name: (total[name] / len(paths)).to(value.dtype) for name, value in parameters.items()}
    state["last_optimizer_state"] = None
    return state


def load_checkpoint(path: str) -> Dict[str, Any]:
    """Load a fairseq checkpoint weights-only on the CPU; InputError if the file is none."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = (str(error).splitlines() or ["it ends too early"])[0]
        raise InputError(f"{path} cannot be loaded as a checkpoint: {reason}") from error
    parameters = state.get("model") if isinstance(state, dict) else None
    if not isinstance(parameters, dict) or not all(torch.is_tensor(value) for value in parameters.values()):
        raise InputError(f"{path} is not a fairseq checkpoint: it holds no model")
    return state
