"""docs/proofs.md says what is: its distances are computed again, the tests it names exist."""

import ast
import re
from functools import cache
from pathlib import Path

from tests.golden.table import BEGIN, END, PAGE, table

ROOT = Path(__file__).parents[2]


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_printed_distances_are_those_of_today() -> None:
    printed = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()
    assert printed == table(), "renew them: python -m tests.golden.table --write"


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`((?:tests/)?[\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 40
    gone = [f"{file}::{name}" for file, name in named if name not in functions(f"tests/{file.removeprefix('tests/')}")]
    assert not gone, f"docs/proofs.md names tests that are no more: {gone}"
