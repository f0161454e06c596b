"""Seconds of a run by what it did: each moment counted once, and all of them counted."""

import json
from pathlib import Path

import pytest

from bench.orchestration import table
from bench.orchestration.parts import PARTS, parts, work_of
from bench.orchestration.watch import kind_of
from bench.page import write_between

LOOKS = [
    (0.5, frozenset({""})),
    (1.0, frozenset({"git", "keeper"})),
    (2.0, frozenset({"dvc", "keeper"})),
    (3.0, frozenset({"dvc", "stage", "keeper"})),
    (9.0, frozenset({"keeper"})),
    (10.0, frozenset({"dvc", "keeper"})),
    (11.0, frozenset({"keeper"})),
]


def test_each_moment_counts_once() -> None:
    # Two stages side by side from 4 to 8 and from 5 to 8.5: their functions were at work for 4.5 s of the wall.
    found = parts(LOOKS, [(5.0, 8.5), (4.0, 8.0)], began=0.0, seconds=12.0)
    assert found == pytest.approx(
        {"start": 1.0, "git": 1.0, "dvc": 2.0, "imports": 1.5, "stages": 4.5, "flow": 1.0, "mlflow": 1.0}
    )
    assert sum(found.values()) == pytest.approx(12.0)
    assert parts([(0.1, frozenset())], [], began=0.0, seconds=1.0)["start"] == pytest.approx(1.0)  # no dvc at all


def test_a_stage_counts_from_its_journal_and_only_where_it_ended(tmp_path: Path) -> None:
    for attempt, events in (("rl-1", ["start"]), ("rl-2", ["start", "metrics", "end"])):
        (tmp_path / attempt).mkdir()
        lines = [json.dumps({"event": event, "time": 10.0 + number}) for number, event in enumerate(events)]
        (tmp_path / attempt / "events.jsonl").write_text("\n".join(lines) + "\n")
    assert work_of(tmp_path) == {"rl": [(10.0, 12.0)]}


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("/v/bin/python -m tasks.tracking keep 2026", "keeper"),
        ("/v/bin/python -m flows.supervisor /p/.preflow 4200 1800", "server"),
        ("/v/bin/python /v/bin/dvc --wait-for-lock repro -s rl", "dvc"),
        ("/bin/bash -c OMP_NUM_THREADS=1 python -m tasks.rl --params rl", "stage"),
        ("git -c core.hooksPath=/dev/null read-tree HEAD", "git"),
        ("/v/bin/python -m flows.cli run", ""),
    ],
)
def test_what_a_process_is_for(line: str, kind: str) -> None:
    assert kind_of(line) == kind


def test_the_table_replaces_what_was_between_the_markers_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    page.write_text("before\n<!-- orchestration: by hand -->\nold\n<!-- /orchestration -->\nafter\n")
    run = {"seconds": 20.0, "parts": dict.fromkeys(PARTS, 1.0) | {"stages": 14.0}, "stage_seconds": 15.0}
    run |= {"processor": {"command": 30.0, "server": 2.0}, "others": 1.5}
    for _ in range(2):
        write_between(page, "orchestration", table.lines({"first run": run}, "2 cores", "abc1234"))
        text = page.read_text()
        assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| of the wall time not in stages | 6.0 |" in text
    assert "Beside other load, 1.5 cores" in text
