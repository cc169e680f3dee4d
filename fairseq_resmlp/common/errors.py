"""Errors that users can fix, reported in one line with cause and remedy."""


class InputError(ValueError):
    """Invalid input or options. Commands print the message without a traceback."""


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
