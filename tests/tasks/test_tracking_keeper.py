"""The process that tells MLflow of a run beside the flow: all is told when it has ended, however the run ended."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import tracking
from tasks.tracking import telling
from tasks.tracking.runs import RunRecord
from tasks.tracking.store import connect

sys.path.insert(0, str(Path(__file__).parent))
import toy_runs as toy

REPO = Path(__file__).parents[2]


@pytest.fixture
def root(store_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    return toy.write_tree(store_root)


def test_it_tells_all_and_the_flow_imports_no_mlflow(root: Path) -> None:
    """Two runs, the second all cached, each with its page; what MLflow then has is what it has without the process."""
    program = f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(REPO)!r}, {str(REPO / "tests/tasks")!r}]
import toy_runs as toy
from tasks import tracking
from tasks.outcome import StageResult
root, page = Path(sys.argv[1]), Path(sys.argv[1], "report.html")
page.write_text("a page")
for run, state in (("r1", "ran"), ("r2", "cached")):
    tracking.keep(root, run)
    tracking.announce(root, run, {{"command": "preflow run"}})
    if state == "ran":
        toy.run_all(root, run)
    ids = tracking.finish_run(root, run, {{one: StageResult(one, state, 1.0) for one in toy.STAGES}}, "FINISHED")
    assert set(ids["stages"]) == set(toy.STAGES)
    tracking.attach(root, run, page)
assert "mlflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program, root], check=True)
    client = connect(root).client
    runs = {run: RunRecord.read(root, run).state()["run"] for run in ("r1", "r2")}
    assert [client.get_run(run).info.status for run in runs.values()] == ["FINISHED", "FINISHED"]
    assert [client.get_run(run).data.metrics["stages_cached"] for run in runs.values()] == [0.0, 5.0]
    for run in runs.values():
        assert Path(client.download_artifacts(run, "report/report.html")).read_text() == "a page"


def test_a_run_that_is_stopped_is_told_of_without_waiting(root: Path) -> None:
    tracking.keep(root, "r1")
    keeper = tracking._keepers["r1"]
    tracking.announce(root, "r1", {})
    assert tracking.finish_run(root, "r1", toy.told("skipped"), "KILLED") == {}
    assert keeper.wait() == 0 and not tracking._keepers
    assert connect(root).client.get_run(RunRecord.read(root, "r1").state()["run"]).info.status == "KILLED"


def test_a_run_that_never_began_leaves_nothing(root: Path) -> None:
    tracking.keep(root, "r1")
    keeper = tracking.let_go("r1")
    assert keeper is not None and keeper.wait() == 0
    assert not (root / ".preflow/journal/r1").exists()


def test_one_that_is_to_be_gentle_gives_way_to_what_else_runs(root: Path) -> None:
    tracking.keep(root, "r1", gently=True)
    keeper = tracking.let_go("r1")
    assert keeper is not None and keeper.wait() == 0
    program = "import os\nfrom tasks.tracking import __main__ as it\nit.keep = lambda *_: print(os.nice(0))\nit.main()"
    words = [sys.executable, "-c", program, *map(str, list(keeper.args)[3:])]  # type: ignore[arg-type]
    said = subprocess.run(words, cwd=root, check=True, capture_output=True, text=True).stdout
    assert int(said) == min(os.nice(0) + 10, 19)


def test_one_that_was_killed_is_stood_in_for(root: Path) -> None:
    tracking.keep(root, "r1")
    tracking._keepers["r1"].kill()
    tracking.announce(root, "r1", {})
    toy.run_all(root, "r1")
    ids = tracking.finish_run(root, "r1", toy.told(), "FINISHED")
    assert connect(root).client.get_run(ids["run"]).info.status == "FINISHED"


def test_one_whose_mlflow_hangs_ends_some_time_after_its_run(root: Path) -> None:
    """Or it would hold the lock for which the next command waits."""
    program = """
import sys, threading
from tasks import tracking
from tasks.tracking import __main__ as program
program.PATIENCE = 0.0
tracking.tell_old = lambda *_: threading.Event().wait()
sys.argv = ["tracking", "keep", "r1"]
program.main()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=root, stdin=subprocess.DEVNULL, timeout=300.0)
    assert done.returncode == os.EX_TEMPFAIL  # and not 1, with which Python ends on any error


def test_who_closes_a_run_does_not_wait_for_it_once_more(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gives_up = f"import sys; sys.stdin.read(); sys.exit({os.EX_TEMPFAIL})"
    tracking._keepers["r1"] = subprocess.Popen([sys.executable, "-c", gives_up], stdin=subprocess.PIPE)
    tracking.announce(root, "r1", {})
    assert tracking.finish_run(root, "r1", toy.told(), "FINISHED") == {}
    assert RunRecord.read(root, "r1").state() == {}
    assert "MLflow did not take all of run r1 within 120 s of its end; shipped by the next" in capsys.readouterr().err
    tracking.reconcile(root)
    assert connect(root).client.get_run(RunRecord.read(root, "r1").state()["run"]).info.status == "FINISHED"


def test_who_finds_another_at_it_says_whom_and_goes_on(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "WAIT", 0.3)
    for run in ("r1", "r2"):
        tracking.announce(root, run, {})
        RunRecord.read(root, run).finish({}, "FINISHED")
    with RunRecord.read(root, "r1").exclusive(wait=False) as mine:
        assert mine
        tracking.reconcile(root)
    said = capsys.readouterr().err
    assert "MLflow: Busy: what MLflow is told of run r1 is in use by " in said
    assert f", process {os.getpid()} on " in said
    told_of = {run: (RunRecord.read(root, run).folder / "shipped").exists() for run in ("r1", "r2")}
    assert told_of == {"r1": False, "r2": True}


def test_a_server_too_slow_for_who_waits_is_told_by_another_process(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.announce(root, "r1", {})
    RunRecord.read(root, "r1").finish({}, "FINISHED")
    started: list[Path] = []
    monkeypatch.setattr(tracking, "PATIENCE", 0.0)
    monkeypatch.setattr(tracking, "_answers", lambda _: True)
    monkeypatch.setattr(tracking, "_reconcile_in_background", started.append)
    tracking.reconcile(root)
    assert started == [root]
    assert "MLflow is slow: what is left of earlier runs is shipped beside" in capsys.readouterr().err


def test_a_stage_whose_beginning_is_lost_keeps_nothing_else_back(root: Path) -> None:
    """Or no later run would be told either, as this one is told anew before each."""
    tracking.announce(root, "r1", {})
    journal = RunRecord.read(root, "r1").folder / "rl-1"
    journal.mkdir()
    (journal / "events.jsonl").write_text('{"event": "end", "time": 0, "status": "FAILED", "exit_code": 3}\n')
    ids = tracking.finish_run(root, "r1", toy.told(), "FINISHED")
    assert connect(root).client.get_run(ids["run"]).info.status == "FINISHED"


def test_one_whose_starter_is_gone_tells_on(root: Path) -> None:
    """It has something to complain of, and nobody to hear it."""
    for run in ("r1", "r2"):
        tracking.announce(root, run, {})
        RunRecord.read(root, run).finish({}, "FINISHED")
    (RunRecord.read(root, "r1").folder / "mlflow.json").write_text("{ torn")
    nobody, stderr = os.pipe()
    os.close(nobody)
    subprocess.run([sys.executable, "-m", "tasks.tracking", "reconcile"], cwd=root, stderr=stderr, check=False)
    os.close(stderr)
    assert connect(root).client.get_run(RunRecord.read(root, "r2").state()["run"]).info.status == "FINISHED"
