"""Hashes of the dictionaries that a model was trained with. A checkpoint stores them outside of its weights.

With another dictionary of the same size, the model would load and produce wrong words. The hashes are part of
`task_state`, which averaging and fairseq's moving average of weights (--store-ema) copy. Earlier versions stored them
as uint8 buffers among the weights, where fairseq's scripts/average_checkpoints.py changed them.
"""

import hashlib
from typing import Any

from fairseq.data import Dictionary
from torch import Tensor

from fairseq_resmlp.common.errors import InputError

KEY = "dictionary_sha256"  # in task_state: {"source": hexadecimal digits, "target": ...}
_BUFFERS = {"source": "encoder.dictionary_version", "target": "decoder.dictionary_version"}
_MOST_AVERAGED = 100  # checkpoints; beyond, an average of bytes contains too little of them


def dictionary_hashes(source: Dictionary, target: Dictionary) -> dict[str, str]:
    """Return "source" and "target" to the SHA-256 of the dictionary's entries in order."""
    return {side: _sha256("\n".join(entries.symbols)) for side, entries in (("source", source), ("target", target))}


def check_hashes(stored: Any, own: dict[str, str]) -> None:
    """Compare the hashes in a checkpoint with those of the dictionaries in use.

    Args:
        stored: as returned by `dictionary_hashes`; a missing hash passes
        own: of the dictionaries in use

    Raises:
        InputError: a dictionary differs
    """
    for side, expected in own.items():
        found = stored.get(side, expected) if isinstance(stored, dict) else expected
        if found != expected and not _is_average(found, expected):
            raise InputError(
                f"the {side} dictionary differs from the one this checkpoint was trained with: use the dict.*.txt "
                "of that training's data or model directory"
            )


def pop_hashes(weights: dict[str, Tensor]) -> dict[str, str]:
    """Remove the hashes that earlier versions stored among the weights. Returns them as `dictionary_hashes` does."""
    buffers = {side: weights.pop(name) for side, name in _BUFFERS.items() if name in weights}
    return {side: bytes(int(x) & 255 for x in buffer.flatten()[:32]).hex() for side, buffer in buffers.items()}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _is_average(found: Any, expected: str) -> bool:
    """Return whether uint8 arithmetic on n copies of `expected`, sum modulo 256 divided by n, gives `found`."""
    digest = bytes.fromhex(expected)
    return any(bytes(n * x % 256 // n for x in digest).hex() == found for n in range(2, _MOST_AVERAGED + 1))
