"""The table of fixed points in docs/proofs.md, and the test that it is true.

python -m tests.golden.table --write
"""

import sys
from pathlib import Path

from tests.golden.language import LANGUAGES
from tests.golden.methods import ELSEWHERE, ON_TARGET, UNLEASHED, Method, from_target

PAGE = Path(__file__).parents[2] / "docs" / "proofs.md"
BEGIN, END = "<!-- fixed points: begin -->", "<!-- fixed points: end -->"


def table() -> str:
    """One row a method: the distance of its fixed point from π*, in total variation."""
    lines = ["| method | β | of " + " | of ".join(LANGUAGES) + " |", "|---|---|" + "---|" * len(LANGUAGES)]
    for method in (*ON_TARGET, *ELSEWHERE):
        lines.append(_row(method, [f"{from_target(method, language):.3f}" for language in LANGUAGES]))
    for method in UNLEASHED:
        lines.append(
            _row(method, [f"{from_target(method, language):.3f} (one sentence alone)" for language in LANGUAGES])
        )
    return "\n".join(lines)


def _row(method: Method, distances: list[str]) -> str:
    return " | ".join([f"| {method.about}", f"{method.beta}", *distances]) + " |"


def write() -> None:
    """Put the table into the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
