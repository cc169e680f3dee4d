"""The type of fairseq's cache for incremental decoding."""

from torch import Tensor

IncrementalState = dict[str, dict[str, Tensor | None]]
