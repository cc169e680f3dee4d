"""Errors that users can fix, reported in one line with cause and remedy."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Invalid input or options. Commands print the message without a traceback."""


def first_difference(error: RuntimeError) -> str:
    """Return the first difference that torch reports when parameters do not fit a model."""
    return (str(error).splitlines()[1:] or [str(error)])[0].strip()


@contextmanager
def explain_other_model(also: str) -> Iterator[None]:
    """Report in one line that the parameters loaded inside the context belong to another model.

    Args:
        also: what has to be that of the checkpoint, in addition to its options
    """
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            f"the checkpoint belongs to another model: {first_difference(error)[:300]} (use its own options and {also})"
        ) from error


def too_long_message(length: int, N: int, side: str, stack: str) -> str:
    """Return the message for a sentence of `length` tokens that exceeds N.

    Args:
        side: "source" or "target"
        stack: "encoder" or "decoder", whose option --STACK-max-positions sets N
    """
    return (
        f"a {side} sentence of {length} tokens (including the end-of-sentence token) exceeds N = {N}, the size of "
        f"the {side} mixing matrices: shorten it, raise N with --{stack}-max-positions {length} in training, or "
        f"pass --model-overrides \"{{'{stack}_max_positions': {length}}}\" with a trained model"
    )


def check_length(length: int, N: int, side: str, stack: str) -> None:
    """Raise InputError if `length` positions exceed N. Arguments as for `too_long_message`."""
    if length > N:
        raise InputError(too_long_message(length, N, side, stack))
