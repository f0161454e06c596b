"""What the planner says of every cell that was measured, as the formulas are now; and that the page has it."""

import pytest

from bench.plan.__main__ import PAGE, WITHIN, kept, measured_lines
from bench.plan.cards import cards
from bench.plan.cells import STAGES, WAYS, Way, cell
from bench.plan.said import said


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.shape.name)
def test_what_was_measured_is_still_said(way: Way, stage: str) -> None:
    found = kept()["cells"][cell(way, stage).name]
    assert said(way, stage, found["lengths"]).peak == pytest.approx(found["peak"], rel=WITHIN)


def test_the_page_has_what_the_formulas_say() -> None:
    """`python -m bench.plan` writes it, and measures only what nobody has measured."""
    page = PAGE.read_text("utf-8")
    for name, lines in (("measured", measured_lines(kept())), ("cards", cards())):
        assert "\n".join(lines) in page, name
