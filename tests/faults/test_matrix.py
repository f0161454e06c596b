"""Every case of the fault matrix has a test or a reason, and the page says what the tests say."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools import faults

ROOT = Path(__file__).parents[2]


def declared() -> Iterator[dict[str, Any]]:
    """The arguments of every `pytest.mark.faults` in the tests."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.faults":
                named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
                test = path.relative_to(ROOT).as_posix()
                yield {"case": ast.literal_eval(node.args[0]), "lost": "nothing", "test": test} | named


def test_every_case_has_a_test() -> None:
    assert {entry["case"] for entry in declared()} == set(faults.CASES) == set(range(1, 57))


def test_the_page_says_what_the_tests_say() -> None:
    """A row that no test has any more is a lie; a claim without a row has never held."""

    def key(entry: dict[str, Any]) -> tuple[Any, ...]:
        return entry["case"], entry["injected"], entry["happens"], entry["lost"], entry["test"].partition("::")[0]

    written = {key(vars(claim)) for claim in faults.kept()}
    assert written == {key(entry) for entry in declared()}, "run `python -m tools.faults` of the tests that differ"
    page = faults.PAGE.read_text("utf-8")
    assert "\n".join(faults.lines(faults.kept())) in page


def test_only_tests_that_passed_write_a_row() -> None:
    recorder = faults.Recorder()
    for name, held in (("a.py::test_one[x]", True), ("a.py::test_one[y]", False), ("a.py::test_two", True)):
        recorder.claims[name] = [faults.Claim(7, "an", "end", name.partition("[")[0])]
        recorder.held[name] = held
    rows, ran = recorder.rows()
    assert [claim.test for claim in rows] == ["a.py::test_two"]
    assert ran == {"a.py::test_one", "a.py::test_two"}


def test_a_marker_that_says_too_little_is_refused(request: pytest.FixtureRequest) -> None:
    item = request.node
    mark = pytest.mark  # by another name, so that `declared` does not take it for a claim
    item.add_marker(mark.faults(7, injected="half a claim"))
    with pytest.raises(ValueError, match="happens"):
        faults.claims(item)
