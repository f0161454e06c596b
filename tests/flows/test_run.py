"""Whole runs of the toy, through Prefect, DVC and git, as a user starts them."""

import json
import os
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows import dvc, guards, objects, workspace, worktrees
from flows.request import Report
from rlhf.errors import Busy
from tasks.graph import load_graph
from tests.flows.toy import PARAMS, dvc_repro, git, gone, states

pytestmark = pytest.mark.e2e
Runs = Callable[..., Report]
HANG = PARAMS.replace("# the leash\n  mode: ok", "# the leash\n  mode: hang")
STAGES = ["collect", "sft", "dpo", "rl", "gate"]


def ask(api: str, path: str, question: dict[str, Any]) -> list[dict[str, Any]]:
    body = json.dumps(question).encode()
    request = urllib.request.Request(f"{api}/{path}", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())  # type: ignore[no-any-return]


def test_the_flow_is_the_graph_and_leaves_what_plain_dvc_would(toy: Path, run: Runs, api: str, tmp_path: Path) -> None:
    before = git(toy, "status", "--porcelain")
    first = run(toy)
    assert (first.exit_code, states(first)) == (0, dict.fromkeys(STAGES, "ran"))
    assert list(load_graph(toy).stages) == STAGES
    # In git: the lock file, and nothing else.
    assert (before, git(toy, "status", "--porcelain")) == ("", "?? dvc.lock\n")
    assert dvc.status(toy) == {}
    assert "didn't change, skipping" in dvc_repro(toy)
    # A clone without a cache, with DVC alone: the same lock file, byte for byte, although branches ran side by side.
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(toy), str(clone))
    dvc_repro(clone)
    assert (clone / "dvc.lock").read_bytes() == (toy / "dvc.lock").read_bytes()
    # Again: nothing runs, and Prefect shows each stage as cached.
    second = run(toy)
    assert states(second) == dict.fromkeys(STAGES, "cached")
    assert sum(stage["seconds"] for stage in second.stages) == 0
    flow_run = second.prefect.rsplit("/", 1)[1]
    for _ in range(200):  # Prefect's record comes a moment after the fact
        tasks = ask(api, "task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}})
        if sum(task["state"]["type"] == "COMPLETED" for task in tasks) == len(STAGES):
            break
    assert {task["name"]: task["state"]["name"] for task in tasks} == dict.fromkeys(STAGES, "Cached")
    upstream = {task["name"]: {item["id"] for item in task["task_inputs"].get("wait_for", [])} for task in tasks}
    ids = {task["name"]: task["id"] for task in tasks}
    graph = load_graph(toy)
    assert upstream == {name: {ids[other] for other in graph.upstream[name]} for name in STAGES}
    # What the run was is in its ref.
    assert git(toy, "show", f"{second.ref}:dvc.lock") == (toy / "dvc.lock").read_text()


def test_a_run_with_settings_touches_nothing_and_can_be_done_again(toy: Path, run: Runs, tmp_path: Path) -> None:
    dvc_repro(toy)
    lock = (toy / "dvc.lock").read_bytes()
    # Work in progress, which the run is to see: the installed code is another.
    (toy / "stage.py").write_text((toy / "stage.py").read_text() + "# edited\n")
    (toy / "tasks").mkdir()
    (toy / "tasks" / "__init__.py").write_text("HERE = 'mine'\n")
    graph = (toy / "dvc.yaml").read_text().replace("python stage.py rl sft", "python -m own rl sft")
    (toy / "dvc.yaml").write_text(graph)
    (toy / "own.py").write_text("import runpy, tasks; assert tasks.HERE == 'mine'; runpy.run_path('stage.py')\n")
    git(toy, "add", "own.py")
    before = seen(toy)
    report = run(toy, settings=("rl.kl_coef=0.1",))
    assert report.exit_code == 0, report.stages
    assert seen(toy) == before
    assert (toy / "dvc.lock").read_bytes() == lock
    assert not list((toy / ".preflow/worktrees").iterdir())
    assert git(toy, "worktree", "list").count("\n") == 1
    # From its ref: nothing to do over the same cache, and the same bytes over an empty one.
    kept = git(toy, "show", f"{report.ref}:dvc.lock")
    assert "kl_coef: 0.1" in kept
    tree = worktrees.add(toy, "again", report.commit, with_inbox=True)
    dvc_repro(tree)
    assert (tree / "dvc.lock").read_text() == kept
    fresh = tmp_path / "fresh"
    git(tmp_path, "clone", "-q", str(toy), str(fresh))
    git(fresh, "fetch", "-q", str(toy), report.ref)
    git(fresh, "checkout", "-q", "FETCH_HEAD")
    (fresh / "dvc.lock").unlink()
    dvc_repro(fresh)
    assert (fresh / "dvc.lock").read_text() == kept


def seen(root: Path) -> tuple[str, bytes, str]:
    """What a user can notice of a run."""
    return git(root, "status", "--porcelain"), (root / ".git/index").read_bytes(), git(root, "log", "--format=%H")


def test_one_changed_knob_runs_what_reads_it_and_no_more(toy: Path, run: Runs) -> None:
    dvc_repro(toy)
    first = run(toy, settings=("rl.kl_coef=0.1",))
    assert states(first) == dict.fromkeys(STAGES, "cached") | {"rl": "ran", "gate": "ran"}
    assert states(run(toy, settings=("rl.kl_coef=0.1",))) == dict.fromkeys(STAGES, "cached")


def test_a_refusal_stops_what_follows_and_keeps_its_code(toy: Path, run: Runs) -> None:
    (toy / "params.yaml").write_text(PARAMS.replace("sft: {mode: ok}", "sft: {mode: refuse}"))
    report = run(toy)
    assert report.exit_code == 3
    assert states(report) == {"collect": "ran", "sft": "failed", "dpo": "skipped", "rl": "skipped", "gate": "skipped"}
    assert [stage["reason"] for stage in report.stages][1:3] == ["rows.jsonl:7 has no prompt", "needs sft"]


@pytest.mark.faults(
    34,
    injected="`preflow run` where one is going on",
    happens="the second ends with 75, naming the process of the first",
)
@pytest.mark.faults(
    33,
    injected="kill -9 of the run that holds the workspace, with all its children",
    happens="its lock is free at once: the next run goes on there and ends in the same bytes",
)
def test_killed_in_the_middle_it_ends_with_the_same_bytes(
    toy: Path, program: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    dvc_repro(toy)
    (toy / "params.yaml").write_text(HANG)
    first = program(toy, "run")
    wait_until_hung(toy, first)
    # The workspace is taken.
    second = program(toy, "run", "--json")
    out, err = second.communicate()
    assert (second.returncode, out) == (75, "")
    assert f"process {first.pid}" in err
    # kill -9 of everything at once.
    victims = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
    for victim in victims:
        victim.kill()
    first.communicate()
    third = program(toy, "run", "--json")
    out, err = third.communicate()
    assert third.returncode == 0, err
    report = json.loads(out)
    left = {stage["name"]: stage["state"] for stage in report["stages"]}
    assert left == dict.fromkeys(STAGES, "cached") | {"rl": "ran"}  # which then wrote what it had written before
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(toy), str(clone))
    (clone / "params.yaml").write_text(HANG)
    (clone / "hung").touch()
    dvc_repro(clone)
    assert (clone / "dvc.lock").read_bytes() == (toy / "dvc.lock").read_bytes()


def test_ctrl_c_before_the_first_stage_ends_at_once(toy: Path, program: Callable[..., subprocess.Popen[str]]) -> None:
    running = program(toy, "run")
    while not (toy / ".preflow" / "run.lock").exists():
        assert running.poll() is None, running.communicate()
        os.sched_yield()
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 85
    assert "Traceback" not in err


def test_ctrl_c_ends_everything_and_says_how_to_go_on(toy: Path, program: Callable[..., subprocess.Popen[str]]) -> None:
    dvc_repro(toy)
    (toy / "params.yaml").write_text(HANG)
    running = program(toy, "run")
    stage = wait_until_hung(toy, running)
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=60)
    assert running.returncode == 85
    assert "stopped in rl; the same command goes on from there" in out
    assert gone(stage)


@pytest.mark.parametrize("all_at_once", [False, True])  # as `kill` does, and as systemd
def test_sigterm_stops_as_ctrl_c_does_and_nothing_reads_failed(
    toy: Path, program: Callable[..., subprocess.Popen[str]], api: str, all_at_once: bool
) -> None:
    dvc_repro(toy)
    (toy / "params.yaml").write_text(HANG)
    running = program(toy, "run", "--json")
    stage = wait_until_hung(toy, running)
    children = psutil.Process(running.pid).children(recursive=True) if all_at_once else []
    for process in [*reversed(children), psutil.Process(running.pid)]:
        process.terminate()
    out, err = running.communicate(timeout=60)
    assert running.returncode == 85
    report = json.loads(out)
    told = {one["name"]: one["state"] for one in report["stages"]}
    assert told == dict.fromkeys(STAGES, "cached") | {"rl": "stopped", "gate": "skipped"}
    assert "stopped in rl; the same command goes on from there" in err
    assert "failed" not in err
    page = Path(report["page"]).read_text()
    assert "Stopped in rl" in page and "failed" not in page.partition("</style>")[2]
    flow_run = report["prefect"].rsplit("/", 1)[1]
    found = ask(api, "flow_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}})[0]["state"]
    assert (found["type"], found["message"]) == ("CANCELLED", "stopped in rl; the same command goes on from there")
    assert gone(stage)


def wait_until_hung(root: Path, running: subprocess.Popen[str]) -> int:
    """Process id of the stage that hangs."""
    seen = root / "hung"
    while not (seen.exists() and seen.read_text()):
        assert running.poll() is None, running.communicate()
        os.sched_yield()
    return int(seen.read_text())


def test_two_runs_in_one_tree_are_not_possible(toy: Path, run: Runs) -> None:
    with guards.held(toy / ".preflow" / "run.lock", "run other"), pytest.raises(Busy, match="run other, process"):
        run(toy)


def test_runs_in_trees_of_their_own_and_who_removes_data_keep_each_other_out(
    toy: Path, run: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with objects.nobody_else(toy, "prune"), pytest.raises(Busy, match="in use by prune, process"):
        run(toy, settings=("seed=1",))
    # One that begins after prune has looked round, and two at a time.
    monkeypatch.setattr(objects, "refuse_if_worktree_busy", lambda _: None)
    said: list[str] = []

    def meanwhile(*_: object) -> None:
        if not said:
            with guards.going_on(toy, "run other"):
                pass
            with pytest.raises(Busy) as refused, objects.nobody_else(toy, "prune"):
                pass
            said.append(str(refused.value))

    assert run(toy, settings=("seed=1",), on_result=meanwhile).exit_code == 0
    assert "in use by run " in said[0]
    with objects.nobody_else(toy, "prune"):
        pass


def test_a_stop_before_the_first_stage_leaves_all_waiting(toy: Path, run: Runs) -> None:
    cancel = threading.Event()
    cancel.set()
    report = run(toy, cancel)
    assert report.exit_code == 85
    assert set(states(report).values()) == {"skipped"}
    assert workspace.runs(toy, "")
