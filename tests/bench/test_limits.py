"""The bench of limits: its clock counts everybody's work, what it keeps is gone on with, and sums are those by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.limits import plan, record
from bench.limits.__main__ import PARTS
from bench.limits.clock import Clock
from bench.limits.table import amount, duration, grown, medians, part_lines, power

ROOT = Path(__file__).parents[2]
NAMES = [name for group in PARTS.values() for name in group]
BURN = "import time\nwhile time.process_time() < 0.35: pass\n"


def test_the_clock_counts_what_was_run_to_its_end() -> None:
    used = Clock().once(lambda: subprocess.run([sys.executable, "-c", BURN], check=True))
    assert used >= 0.3  # of more than that, as ticks of 10 ms cut off


def test_the_clock_counts_a_server_and_what_that_has_started() -> None:
    below = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])\n"
    program = f"{below}{BURN}print('done', flush=True)\nsys.stdin.read()\n"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout and server.stdout.readline() == "done\n"
        alone, both = Clock().used(), Clock((server.pid,)).used()
        server.communicate("")
    assert both - alone >= 0.5


def test_sizes_that_are_kept_stay(tmp_path: Path) -> None:
    for size, values in ((100, [3.0, 1.0, 2.0]), (10, [0.5])):
        record.keep("dvc", size, {"push": values}, {"dvc": "1"}, tmp_path)
    assert medians(record.load("dvc", tmp_path), "push") == {10: 0.5, 100: 2.0}
    assert record.load("git", tmp_path)["sizes"] == {}


def test_a_measure_grows_as_between_the_two_largest_sizes() -> None:
    assert power({10: 7.0, 100: 1.0, 1000: 100.0}) == pytest.approx(2)
    assert power({10: 1.0}) is None
    assert grown({10: 7.0, 100: 1.5, 1000: 6.0}, 10_000) == pytest.approx(6.0 + 9 * 5.0)
    assert grown({10: 1.0, 100: 0.9}, 10_000) == 0.9


def test_of_a_further_row_start_up_is_no_part() -> None:
    points = {
        "1": {"rows": 100, "processor_seconds": 5.0, "peak": 300.0},
        "30": {"rows": 3000, "processor_seconds": 34.0, "peak": 329.0},
    }
    assert plan.per_row(points) == (pytest.approx(0.01), pytest.approx(0.01 * 2**20))


def test_what_gives_says_where() -> None:
    cells = plan.Line("gate", 864_000.0, plan.DAY, 10**9, "rows", duration).cells()
    assert cells == ["gate", "1,000,000,000 rows", "10 days", "24 h", "100,000,000 rows"]
    assert plan.Line("gate", 60.0, plan.DAY, 10, "rows", duration).cells()[-1] == "holds"


def test_three_digits_and_a_unit() -> None:
    shown = [duration(0.00412), duration(59.96), duration(7200), duration(1e6), amount(2048, "B"), amount(4.11e14, "B")]
    assert shown == ["4.12 ms", "60 s", "120 min", "11.6 days", "2.05 kB", "411 TB"]


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_the_markers(name: str) -> None:
    text = (ROOT / "docs/limits.md").read_text(encoding="utf-8")
    assert text.count(f"<!-- {name}:") == text.count(f"<!-- /{name} -->") == 1


def test_what_is_kept_can_be_shown() -> None:
    assert all(part_lines("size", record.load(name)) for name in NAMES) and plan.lines()
    text = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    assert text.count("<!-- limits:") == text.count("<!-- /limits -->") == 1
