"""What a user can do wrong, said in one line that names the thing and the remedy."""


class InputError(ValueError):
    """Bad input or options. Commands print its message alone, without a traceback (see `mends`)."""


def too_long(length: int, N: int, side: str, stack: str) -> str:
    """The message for a sentence of `length` tokens that does not fit N.

    Args:
        side: source or target
        stack: encoder or decoder, whose option --STACK-max-positions is N
    """
    return (
        f"a {side} of {length} tokens (pieces, with the end-of-sentence mark) is longer than N = {N}, the size of "
        f"the {side} mixing matrices: shorten it, or raise N by --{stack}-max-positions {length} in training, by "
        f"--model-overrides \"{{'{stack}_max_positions': {length}}}\" with a trained model"
    )


def check_length(length: int, N: int, side: str, stack: str) -> None:
    """Raise InputError if `length` positions do not fit N; arguments as `too_long`."""
    if length > N:
        raise InputError(too_long(length, N, side, stack))
