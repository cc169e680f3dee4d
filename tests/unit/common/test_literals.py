"""Evaluation of option values without running code."""

import math

import pytest

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.literals import evaluate_literal


@pytest.mark.parametrize(
    "text",
    ["0.25", "1/100", "-1e-3", "(0.9, 0.98)", "[1, 'a', None, True]", "{'a': [1]}", "5e-4 * 8", "2**-10", "7 // 2 % 2"]
    + ["[(512, 3)] * 2 + [(1, 2)]", "2 * [0.1]", "+1 - -2", " [0.1,\n 0.2] ", "(1/3, 1/7)", "10**-4"],
)
def test_literals_and_arithmetic_have_the_value_of_python(text):
    assert evaluate_literal(text) == eval(text.strip())


@pytest.mark.parametrize(
    "text",
    ["", "x", "f()", "().__class__", "[x for x in (1,)]", "f'{1}'", "1 if 1 else 2", "[1][0]", "{**{}}", "{1: 2}.keys"]
    + ["lambda: 1", "a := 1", "1 < 2", "not 1", "'a' % 1", "1, *(2,)", "'a' * 9", "print", "1; 2", "\0", "(" * 500]
    + ["1/0", "2 ** 65", "9 ** 9 ** 9", "(-8) ** 0.5", "10.0 ** 400", "1e308 * 10 ** 64 ** 5", "[0] * 10001"]
    + ["10 ** 64 * 10 ** 64 * 10 ** 64 * 10 ** 64 * 10 ** 64", "-" * 5000 + "1", "1 << 9", "[1] * 1.5", "[1] - [1]"],
)
def test_everything_else_is_refused_in_one_line(text):
    with pytest.raises(InputError, match="is not a literal and was not evaluated") as error:
        evaluate_literal(text)
    assert "\n" not in str(error.value)


def test_an_infinite_constant_stays_infinite():
    assert evaluate_literal("1e999") == math.inf
