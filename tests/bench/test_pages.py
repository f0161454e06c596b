"""The benches of the sampler and of growth: the slope is that of the points, tables go between markers."""

from pathlib import Path

import pytest

from bench.growth.__main__ import page_lines as growth_lines
from bench.growth.__main__ import slope
from bench.page import table, write_between
from bench.sampler.__main__ import _differing, ratios
from bench.sampler.__main__ import page_lines as sampler_lines
from bench.speed.__main__ import page_lines as speed_lines
from bench.speed.cells import CPU, CUDA

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_slope_is_the_power(power: float) -> None:
    assert slope([(rows, 3 * rows**power) for rows in (10, 30, 100, 300)]) == pytest.approx(power)


def test_a_table_goes_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    rest = "b\n<!-- two: x -->\n<!-- /two -->\n"
    page.write_text(f"a\n<!-- one: by hand -->\nold\n<!-- /one -->\n{rest}", encoding="utf-8")
    for _ in range(2):
        write_between(page, "one", table(["stage", "s"], [["sft", "1"]]))
    kept = f"a\n<!-- one: by hand -->\n\n| stage | s |\n|---|--:|\n| sft | 1 |\n\n<!-- /one -->\n{rest}"
    assert page.read_text(encoding="utf-8") == kept


@pytest.mark.parametrize("name", ["sampler", "growth"])
def test_the_page_has_the_markers(name: str) -> None:
    text = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    assert text.count(f"<!-- {name}:") == text.count(f"<!-- /{name} -->") == 1


def test_what_is_kept_can_be_shown() -> None:
    """A record of an earlier form would be found out only when somebody measures again, an hour later."""
    assert growth_lines() and sampler_lines() and speed_lines(CPU + CUDA)


def test_tokens_of_one_side_alone_differ() -> None:
    assert _differing([[1, 2, 3], [4]], [[1, 5, 3], [4, 6]]) == 2


def test_ratios_are_of_pairs() -> None:
    pairs = [{"ours": {"processor_seconds": 2.0}, "theirs": {"processor_seconds": seconds}} for seconds in (6.0, 8.0)]
    assert ratios({"pairs": pairs}) == [3.0, 4.0]
