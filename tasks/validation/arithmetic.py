"""Does the given answer follow from the given sum? For rows that bring both, as SVAMP does."""

import ast
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

_MAX_CHARS = 1000
_ANSWER = re.compile(r"[-+]?(?:\d{1,60}(?:\.\d{0,60})?|\.\d{1,60})(?:e[-+]?\d{1,2})?(?:/\d{1,60})?", re.IGNORECASE)


def wrong_answer(meta: Mapping[str, Any]) -> str | None:
    """What is wrong where `equation` of a row's meta does not give its `answer`; None where it does, where there is
    nothing to work out, or where no answer is a plain number. `answer` may be a list of answers that are all right."""
    equation, answer = str(meta.get("equation")), meta.get("answer")
    value = _worked_out(meta.get("equation"))
    if value is None or answer is None:
        return None
    given = [_number(one) for one in (answer if isinstance(answer, list) else [answer])]
    numbers = [one for one in given if one is not None]
    if not numbers or any(abs(one - value) <= Fraction(1, 10**6) for one in numbers):
        return None
    return f"{equation[:80]} is {_shown(value)}, the answer says {str(answer)[:40]}"


def unchecked(meta: Mapping[str, Any]) -> str | None:
    """The equation of a row's meta that should give its `answer` and is in a notation that is not read here, such as
    `x=5+3`; the answer may be right."""
    equation = meta.get("equation")
    return str(equation)[:80] if equation and meta.get("answer") is not None and _worked_out(equation) is None else None


def _worked_out(equation: Any) -> Fraction | None:
    if not isinstance(equation, str) or len(equation) > _MAX_CHARS:
        return None
    try:
        return _value(ast.parse(equation.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError, ZeroDivisionError):
        return None


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
    """A number of the usual size as it is written; None of anything else, which may take for ever to work out."""
    text = str(value).replace(",", "").strip() if isinstance(value, str | int | float) else ""
    try:
        return Fraction(text) if _ANSWER.fullmatch(text) else None
    except (ValueError, ZeroDivisionError):
        return None


def _shown(value: Fraction) -> str:
    try:
        return f"{float(value):g}"
    except OverflowError:
        return "a number of more than 300 digits"
