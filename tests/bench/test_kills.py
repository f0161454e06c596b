"""The table of killed runs: how they ended has a column only where one did not end as it should."""

from typing import Any

import pytest

from bench.kills.__main__ import lines


def record(*ends: dict[str, Any]) -> dict[str, Any]:
    run = {"kills": [[3.0, "dvc", "sft"]], "typed": 2, "code": 0, "digest": "aa", "verify": 0}
    return {"commit": "c", "unbroken": {"digest": "aa", "seconds": 9.0}, "runs": [run | end for end in ends]}


def test_runs_that_ended_alike_are_told_of_once() -> None:
    head, _, header, _, *rows = lines(record({}, {"kills": []}))
    assert head.startswith("2 of 2 runs ended in the bytes of the unbroken one (`aa`, 9 s), ")
    assert header == "| run | killed with -9 | typed |"
    assert rows == ["| 1 | dvc at 3 s (sft) | 2 |", "| 2 | none came in time | 2 |"]


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ({"digest": "bb"}, "DIFFERENT (`bb`), verify found nothing"),
        ({"verify": 1}, "equal, verify FOUND DAMAGE"),
        ({"code": 1, "digest": "", "verify": None}, "ended with 1 after 2 attempts"),
    ],
)
def test_one_that_ended_otherwise_is_shown(end: dict[str, Any], told: str) -> None:
    head, _, header, _, *rows = lines(record({}, end))
    assert head.startswith("1 of 2 runs")
    assert header == "| run | killed with -9 | typed | end |"
    assert [row.split(" | ")[3].removesuffix(" |") for row in rows] == ["equal, verify found nothing", told]
