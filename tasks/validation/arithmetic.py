"""Does the given answer follow from the given sum? For rows that bring both, as SVAMP does."""

import ast
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

_MAX_CHARS = 1000


def wrong_answer(meta: Mapping[str, Any]) -> str | None:
    """What is wrong where `equation` of a row's meta does not give its `answer`; None where it does, or where there is
    nothing to work out. `answer` may be a list of answers that are all right."""
    equation, answer = meta.get("equation"), meta.get("answer")
    if not isinstance(equation, str) or answer is None or len(equation) > _MAX_CHARS:
        return None
    try:
        value = _value(ast.parse(equation.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, ZeroDivisionError):
        return f"{equation[:80]} cannot be worked out"
    given = [_number(one) for one in (answer if isinstance(answer, list) else [answer])]
    if any(one is not None and abs(one - value) <= Fraction(1, 10**6) for one in given):
        return None
    return f"{equation[:80]} is {float(value):g}, the answer says {str(answer)[:40]}"


def _value(node: ast.expr) -> Fraction:
    """Sums, differences, products and quotients of numbers, nothing else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        return -_value(node.operand) if isinstance(node.op, ast.USub) else _value(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return left / right
    raise ValueError(f"{type(node).__name__} is no arithmetic")


def _number(value: Any) -> Fraction | None:
    try:
        return Fraction(str(value).replace(",", "").strip())
    except (ValueError, ZeroDivisionError):
        return None
