"""Option values that are written as Python literals, evaluated without running code."""

import ast
import operator
from collections.abc import Callable
from typing import Any

from fairseq_resmlp.common.errors import InputError

_LONGEST = 10_000  # elements or characters of a repeated sequence
_LARGEST_EXPONENT = 64

_OPERATORS: dict[type[ast.operator] | type[ast.unaryop], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def evaluate_literal(text: str) -> Any:
    """Evaluate numbers, strings, lists, tuples and dictionaries, and arithmetic of them.

    Numbers can be combined with + - * / // % and ** (exponents up to 64). Lists and tuples can be added, and repeated
    up to 10,000 elements: "1/100", "[(512, 3)] * 20".

    Raises:
        InputError: the text is anything else
    """
    try:
        return _evaluate(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError, MemoryError) as error:
        raise InputError(f"the option value {text[:200]!r} is not a literal and was not evaluated") from error


def _evaluate(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value):
            return value
        case ast.List(elements):
            return [_evaluate(element) for element in elements]
        case ast.Tuple(elements):
            return tuple(_evaluate(element) for element in elements)
        case ast.Dict(keys, values) if None not in keys:
            return {_evaluate(key): _evaluate(value) for key, value in zip(keys, values) if key}
        case ast.UnaryOp(sign, operand) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](_number(_evaluate(operand)))
        case ast.BinOp(left, sign, right):
            return _combine(_evaluate(left), sign, _evaluate(right))
    raise ValueError(f"{type(node).__name__} is not a literal")


def _combine(left: Any, sign: ast.operator, right: Any) -> Any:
    for sequence, other in ((left, right), (right, left)):
        if isinstance(sequence, (list, tuple)):
            length = len(sequence) * other if isinstance(sign, ast.Mult) else len(sequence) + len(other)
            if not isinstance(sign, (ast.Add, ast.Mult)) or length > _LONGEST:
                raise ValueError("a sequence can only be added and repeated")
            return _OPERATORS[type(sign)](left, right)
    if isinstance(sign, ast.Pow) and abs(_number(right)) > _LARGEST_EXPONENT:
        raise ValueError(f"the exponent is larger than {_LARGEST_EXPONENT}")
    # Without complex numbers and without integers that exceed every float, results have a bounded size.
    return _number(_OPERATORS[type(sign)](_number(left), _number(right)))


def _number(value: Any) -> Any:
    if type(value) not in (int, float, bool):
        raise TypeError(f"{value!r} is not a number")
    float(value)
    return value
