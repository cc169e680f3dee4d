"""Averaging the parameters of several checkpoints of one training run."""

from collections.abc import Sequence
from typing import Any

import torch

from fairseq_resmlp.checkpoints.checkpoint_file import read_checkpoint
from fairseq_resmlp.checkpoints.dictionary_hash import KEY
from fairseq_resmlp.common.errors import InputError


def average_checkpoints(paths: Sequence[str]) -> dict[str, Any]:
    """Average the parameters of fairseq checkpoints.

    Sums are computed in float64, with one checkpoint in memory at a time. Decoder matrices stay lower-triangular.

    Args:
        paths: one or more checkpoints of the same architecture

    Returns:
        the content of the last checkpoint with averaged parameters and without the optimizer state, which does not
        apply to them

    Raises:
        InputError: a file is not safe to load (see `read_checkpoint`), has parameters of other names or shapes, or
            was trained with another dictionary
    """
    total: dict[str, torch.Tensor] = {}
    fixed: dict[str, torch.Tensor] = {}  # integers, which are not averaged
    dictionaries: Any = None
    for path in paths:
        state = read_checkpoint(path)
        hashes = state.get("task_state", {}).get(KEY)
        dictionaries = dictionaries or hashes
        if hashes and hashes != dictionaries:
            raise InputError(f"{path} and {paths[0]} are from different training runs: their dictionaries differ")
        parameters = {name: value for name, value in state["model"].items() if value.is_floating_point()}
        if not total:
            total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in parameters.items()}
        missing, unknown = sorted(total.keys() - parameters.keys()), sorted(parameters.keys() - total.keys())
        if missing or unknown:
            raise InputError(f"{path} and {paths[0]} have different parameters, for example {(missing + unknown)[0]}")
        for name, value in parameters.items():
            if value.shape != total[name].shape:
                raise InputError(
                    f"{name} is {tuple(value.shape)} in {path} and {tuple(total[name].shape)} in {paths[0]}: "
                    "only checkpoints of one architecture can be averaged"
                )
            total[name] += value
        fixed.update({name: value for name, value in state["model"].items() if name not in parameters})
    mean = {name: (total[name] / len(paths)).to(value.dtype) for name, value in parameters.items()}
    state["model"] = {**mean, **fixed}
    state["last_optimizer_state"] = None
    if dictionaries:
        state["task_state"] = {**state.get("task_state", {}), KEY: dictionaries}
    return state
