"""Unit tests as a verifier: the program in the text and the prompt's tests are run in a sandbox of their own."""

import re
from collections.abc import Mapping
from typing import Any

from rlhf.errors import PreflowError
from rlhf.sandbox import run
from rlhf.verifiers.specs import Check, shown

_FENCE = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)


def code(meta: Mapping[str, Any]) -> Check:
    """Every test of `meta["tests"]` (Python statements, such as `assert add(1, 2) == 3`) runs through after the
    program.

    The program is the last fenced block of the text, else the whole text. Only the standard library can be imported.
    A program that knows how it is tested can pass without being right (objects that equal everything): read samples.
    """
    given: Any = meta.get("tests")
    tests: list[str] = given if isinstance(given, list) else [given]
    if not tests or not all(isinstance(test, str) and test.strip() for test in tests):
        raise PreflowError(
            f"a prompt has the tests {shown(given)}, expected Python statements, a text or a list, in `tests`"
        )
    source = "\n".join(tests)
    try:
        compile(source, "tests", "exec")
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise PreflowError(f"the tests of a prompt are no Python: {error}; they begin {source[:60]!r}") from None
    return lambda text: run(program_of(text), source).passed


def program_of(text: str) -> str:
    """The last fenced block of a text, else all of it."""
    blocks = _FENCE.findall(text)
    return str(blocks[-1]) if blocks else text
