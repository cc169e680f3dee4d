"""Copies between host and device. On a GPU, each waits for the other side, so that one copy is faster than three.

Several tensors of one shape are copied as float64, which represents token ids and float32 scores exactly.
"""

from typing import Any

import torch
from torch import Tensor


def to_lists(*tensors: Tensor) -> list[Any]:
    """Return the values of tensors of one shape as nested lists."""
    if tensors[0].device.type == "cpu":
        return [tensor.tolist() for tensor in tensors]
    copies = torch.stack([tensor.double() for tensor in tensors]).cpu()
    return [copy.to(tensor.dtype).tolist() for copy, tensor in zip(copies, tensors)]


def to_tensors(dtypes: list[torch.dtype], lists: list[Any], device: torch.device) -> list[Tensor]:
    """Return nested lists of one shape as tensors on a device, one of each dtype. The opposite of `to_lists`."""
    if device.type == "cpu":
        return [torch.tensor(values, dtype=dtype) for values, dtype in zip(lists, dtypes)]
    return [x.to(dtype) for x, dtype in zip(torch.tensor(lists, dtype=torch.double).to(device), dtypes)]
