"""`preflow status`: its last line says how things stand, and what it takes to say so is little."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows import champion, dvc, guards
from flows.commands import status as status_command
from rlhf.errors import DependencyDown
from tasks import tracking
from tasks.graph import load_graph
from tasks.journal import home
from tests.flows.toy import REPO, dvc_repro

HEAVY = ("bitsandbytes", "datasets", "dvc", "great_expectations", "matplotlib", "mlflow", "pandas", "peft", "prefect")
PROGRAM = f"""
import sys
from flows.cli import app
app(sys.argv[1:], standalone_mode=False)
heavy = {{*{HEAVY!r}, "torch", "transformers"}} & set(sys.modules)
assert not heavy, heavy
"""


def status(root: Path) -> tuple[list[str], dict[str, Any]]:
    """Its lines, and what it tells programs; the libraries of stages, of the tracking and of flows stay out of it."""
    told = []
    for words in (["status"], ["status", "--json"]):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *words], cwd=root, text=True, capture_output=True, check=False,
            env={"PYTHONPATH": str(REPO), "PATH": "/usr/bin:/bin", "HOME": str(root)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told.append(done.stdout)
    return told[0].splitlines(), json.loads(told[1])


def test_the_last_line_says_what_to_do_next(toy: Path) -> None:
    lines, told = status(toy)
    assert lines[-1] == told["conclusion"] == "nothing was run here yet: `preflow run` runs all 5 stages"
    dvc_repro(toy)
    lines, told = status(toy)
    assert lines[-1] == "nothing to do: every stage is up to date, there is no champion yet"
    assert {stage["runs"] for stage in told["stages"].values()} == {False}
    (toy / "params.yaml").write_text((toy / "params.yaml").read_text().replace("5e-2", "1e-2"))
    assert status(toy)[0][-1] == "params.yaml changed (rl): `preflow run` would run rl, gate; there is no champion yet"
    earlier = home(toy) / "journal" / "20260101-000000-aaaa"
    earlier.mkdir(parents=True)
    took = {name: {"state": "ran", "seconds": seconds} for name, seconds in (("rl", 100.0), ("gate", 30.0))}
    (earlier / "run.json").write_text(json.dumps({"info": {}}))
    (earlier / "finish.json").write_text(json.dumps({"results": took, "status": "FINISHED"}))
    (earlier / "shipped").touch()
    assert "would run rl, gate, about 2:10;" in status(toy)[0][-1]
    with (toy / "stage.py").open("a") as file:
        file.write("# edited\n")
    why = "code changed (stage.py), params.yaml changed (rl)"
    assert status(toy)[0][-1].startswith(f"{why}: `preflow run` would run all 5 stages")


@pytest.mark.parametrize(("folder", "name"), [("", "run"), ("worktrees", "r1")])
def test_what_goes_on_is_told_with_how_far_it_is(toy: Path, folder: str, name: str) -> None:
    dvc_repro(toy)
    graph = (toy / "dvc.yaml").read_text().replace("python stage.py rl", "python -m tasks.rl rl")
    (toy / "dvc.yaml").write_text(graph)
    with guards.held(home(toy) / folder / f"{name}.lock", "run r1"):
        for stage, events in (
            ("sft-1", [{"event": "start"}, {"event": "end"}]),
            ("dpo-1", [{"event": "start"}, {"event": "end"}]),
            ("dpo-2", [{"event": "start"}]),
            ("rl-1", [{"event": "progress", "time": 1.0, "done": 12, "total": 100}]),
        ):
            path = home(toy) / "journal" / "r1" / stage / "events.jsonl"
            path.parent.mkdir(parents=True)
            path.write_text("".join(json.dumps(event) + "\n" for event in events))
        lines, told = status(toy)
        for stage in ("dpo-2", "rl-1"):
            with (home(toy) / "journal" / "r1" / stage / "events.jsonl").open("a") as file:
                file.write('{"event": "end"}\n')
            os.utime(file.name, (4e9, 4e9 + len(stage)))
        between = status(toy)[0][-1]
    assert between.endswith("dpo is done, and what comes next begins; Ctrl-C there ends it")
    here = "run r1, process "
    assert lines[-1].endswith(": dpo and rl, 12 of 100 updates; Ctrl-C there ends it")
    assert lines[-1] == told["conclusion"]
    assert [one["in_checkout"] for one in told["running"]] == [not folder]
    if folder:  # the checkout is free all the same
        assert lines[-1].startswith("dvc.yaml changed (rl): ") and f"; in a worktree, {here}" in lines[-1]
    else:
        assert lines[-1].startswith(here) and told["stages"] == {}


CHECKS = """
from pathlib import Path

from rlhf.errors import DataRefused
from tasks.config import Section
from tasks.journal import Log
from tasks.stage import main


class Checks(Section):
    most: int = 1


def checks(config: Checks, *, source: Path, out: Path, log: Log) -> None:
    rows = source.read_text().splitlines()
    if len(rows) > config.most:
        raise DataRefused(f"{len(rows)} rows, at most {config.most} may be (checks.most)")
    (out / "text").write_text("checked")


if __name__ == "__main__":
    main(checks)
"""
CHECKED = """stages:
  checks:
    cmd: python checks.py --params checks --source data/rows.txt --out data/checks
    deps: [checks.py, data/rows.txt]
    params: [checks]
    outs: [data/checks/text]
"""


def test_that_a_stage_would_refuse_again_is_told(toy: Path) -> None:
    files = {"checks.py": CHECKS, "dvc.yaml": CHECKED, "params.yaml": "checks: {most: 1}\n", "data/rows.txt": "a\nb\n"}
    (toy / "data").mkdir()
    for name, text in files.items():
        (toy / name).write_text(text)
    (toy / "environment.json").write_bytes((REPO / "environment.json").read_bytes())
    environ = dvc.environ() | {"PYTHONPATH": str(REPO), "PREFLOW_RUN": "r1"}
    assert subprocess.run([dvc.program(), "repro"], cwd=toy, env=environ, capture_output=True).returncode == 255
    (home(toy) / "journal/r1/shipped").touch()
    lines, told = status(toy)
    reason = "2 rows, at most 1 may be (checks.most)"
    assert lines[-1] == told["conclusion"] and lines[-1].endswith(
        f"; but checks refused the same data last time: {reason}"
    )
    assert told["stages"]["checks"]["refused"] == reason
    for name, mended in (("data/rows.txt", "a\n"), ("params.yaml", "checks: {most: 2}\n")):
        (toy / name).write_text(mended)
        lines, told = status(toy)
        assert "refused" not in lines[-1] and told["stages"]["checks"]["refused"] is None
        (toy / name).write_text(files[name])


def test_where_the_registry_does_not_answer_nobody_is_said_to_be_no_champion(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def down(*_: object) -> None:
        raise DependencyDown("no answer")

    monkeypatch.setattr(champion, "reigning", down)
    monkeypatch.setattr(tracking, "reconcile", lambda _: None)
    dvc_repro(toy)
    _, told = status_command._looked_at(toy, load_graph(toy))
    assert told == "nothing to do: every stage is up to date, nobody can say now who the champion is"
    assert "no answer; shown is what runs with the champion that data/champion names" in capsys.readouterr().err
