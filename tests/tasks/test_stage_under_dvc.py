"""What a stage makes of the dvc that started it: it ends with it, and forgets earlier attempts when it is forced."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tasks.test_stage import GRAPH, REPO, TOY

COMMAND = f"{sys.executable} toy.py --params toy --source rows.jsonl --parts a=data/a --out data/toy"
# Like DVC with $SHELL=/bin/sh: a shell that stays between the two.
DVC = "import subprocess; raise SystemExit(subprocess.run(['/bin/sh', '-c', COMMAND + '; exit $?']).returncode)"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    (tmp_path / "params.yaml").write_text("seed: 7\ntoy:\n  lr: 5e-6\n")
    (tmp_path / "rows.jsonl").write_text("rows")
    (tmp_path / "environment.json").write_bytes((REPO / "environment.json").read_bytes())
    (tmp_path / "dvc").write_text(DVC.replace("COMMAND", repr(COMMAND)))
    return tmp_path


def start(root: Path, *words: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": str(REPO), "PREFLOW_RUN": "test", "DVC_STAGE": "toy"}
    argv = [sys.executable, str(root / "dvc"), "repro", *words]
    return subprocess.Popen(argv, cwd=root, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.faults(
    7, injected="kill -9 of dvc alone, a shell between it and the stage", happens="the stage ends with it"
)
def test_it_ends_with_dvc_although_the_shell_between_them_does_not(root: Path) -> None:
    (root / "params.yaml").write_text("seed: 7\ntoy: {mode: hang}\n")
    with start(root) as dvc:
        assert dvc.stdout is not None
        assert dvc.stdout.readline() == "ready\n"
        dvc.send_signal(signal.SIGKILL)
        dvc.stdout.read()  # closes only when the stage, which holds the pipe, is gone
    assert dvc.returncode == -signal.SIGKILL


def test_forced_it_takes_nothing_up(root: Path) -> None:
    assert start(root).wait() == 0
    (scratch,) = [path for path in (root / ".preflow" / "scratch").iterdir() if path.is_dir()]
    (scratch / "checkpoint").touch()
    assert start(root).wait() == 0
    assert (scratch / "checkpoint").exists()
    assert (root / "data/toy/model/seen").read_text() == "kept"
    assert start(root, "-f").wait() == 0
    assert not (scratch / "checkpoint").exists()
    assert (root / "data/toy/model/seen").read_text() == ""  # neither from what other runs have kept


def test_forced_it_goes_on_where_another_attempt_of_the_same_run_was_cut_short(root: Path) -> None:
    """That one has begun from nothing, and a run begins what others asked to stop again."""
    assert start(root).wait() == 0
    (scratch,) = [path for path in (root / ".preflow" / "scratch").iterdir() if path.is_dir()]
    (scratch / "checkpoint").touch()
    events = root / ".preflow/journal/test/toy-1/events.jsonl"
    events.write_text(events.read_text().replace("FINISHED", "KILLED"))
    assert start(root, "-f").wait() == 0
    assert (scratch / "checkpoint").exists()
