"""From files to the verdict: what reading cannot mend or know must stop at the gate."""

import gzip
import json
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from rlhf.errors import DataRefused
from rlhf.records import read_rows, write_json
from tasks.config.prepare import Prepare
from tasks.config.validate import Validate
from tasks.journal import Log
from tasks.prepare import prepare
from tasks.shapes import KINDS
from tasks.validate import judge, validate

EXPECTATIONS = Path(__file__).parents[2] / "data" / "expectations"
ROWS = [{"prompt": f"Question {n}?", "completion": f"Answer {n}."} for n in range(400)]


def gated(folder, name, data, kind="demonstrations"):
    """The rows of one file, prepared; then the verdict about its kind."""
    for each in KINDS:
        write_json(folder / "raw" / each / "origin.json", {name: {"name": "mine"}} if each == kind else {})
    (folder / "raw" / kind / name).write_bytes(data)
    prepare(Prepare(), raw=folder / "raw", out=folder / "prepared", log=Log.null())
    return judge(Validate(required=[kind]), folder / "prepared", EXPECTATIONS)[kind]


def cut_gzip(tmp_path):
    data = gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode())
    return "x.jsonl.gz", data[: len(data) - 60]


def unpaired(tmp_path):
    rows = [json.dumps(row) for row in ROWS]
    rows[100] = rows[100][:-1]
    return "x.json", ("[\n" + ",\n".join(rows) + "\n]").encode()


def cut_parquet(tmp_path):
    parquet.write_table(arrow.Table.from_pylist(ROWS), tmp_path / "whole.parquet")
    return "x.parquet", (tmp_path / "whole.parquet").read_bytes()[:-20]


@pytest.mark.parametrize("broken", [cut_gzip, unpaired, cut_parquet])
def test_a_file_that_is_not_read_to_its_end_stops_the_run(tmp_path, monkeypatch, broken):
    """One refusal among hundreds of rows would pass every share that is allowed to be set aside."""
    monkeypatch.setenv("PREFLOW_REPORTS", str(tmp_path / "reports"))
    verdict = gated(tmp_path, *broken(tmp_path))
    stop = next(finding for finding in verdict.stopped if finding.rule == "unfinished")
    (refused,) = (row for row in read_rows(tmp_path / "prepared" / "quarantine"))
    assert stop.place == f"demonstrations/{refused['file'].split('/')[1]}:{refused['line']}"
    assert f"reading stopped at line {refused['line']}: " in stop.reason
    with pytest.raises(DataRefused, match=r":\d+: unfinished: reading stopped at line"):
        validate(
            Validate(), prepared=tmp_path / "prepared", expectations=EXPECTATIONS, out=tmp_path / "out", log=Log.null()
        )


def test_a_question_of_two_groups_is_trained_on_by_neither_where_one_is_kept_apart(tmp_path):
    """Prompts made of answered rows take the split of the first group that asks; the gate sees the other one."""
    rows = [{"prompt": f"Question {n % 100}?", "completion": f"Answer {n}.", "group": f"g{n}"} for n in range(200)]
    verdict = gated(tmp_path, "x.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    splits = [row["split"] for row in read_rows(tmp_path / "prepared" / "demonstrations")]
    pairs = [{splits[n], splits[n + 100]} for n in range(100)]
    leaks = {"leaked_eval": {"eval", "train"}, "leaked_val": {"val", "train"}}
    assert all(sides in pairs for sides in leaks.values())  # the draw has such questions
    told = {rule.rule: rule.broken for rule in verdict.rules}
    assert told["leaked_val"] == pairs.count({"val", "train"})
    assert told["leaked_eval"] == pairs.count({"eval", "train"}) + pairs.count({"eval", "val"})
    assert any(finding.rule == "leaked_eval" for finding in verdict.stopped)
    asked = judge(Validate(required=["prompts"]), tmp_path / "prepared", EXPECTATIONS)["prompts"]
    first = [(splits[n], splits[n + 100]) for n in range(100)]
    broken = {rule.rule: rule.broken for rule in asked.rules}
    assert broken["leaked_val"] == first.count(("train", "val"))
    assert broken["leaked_eval"] == first.count(("train", "eval")) + first.count(("val", "eval"))
