"""What a stage's own log costs it."""

import json
from pathlib import Path

from tasks.journal import Log


def test_the_end_tells_what_all_events_before_it_cost(tmp_path: Path) -> None:
    """By a clock that goes on by a second between two looks, and by ten while nothing is logged."""
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    log = Log(tmp_path, "sft", clock)
    for step in range(3):
        log({"sft/loss": 1.0}, step)
        now[0] += 10.0
    log.event("end", status="FINISHED")
    end = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])
    assert end["logging_seconds"] == 3.0
