"""What a stage makes of the dvc that started it: it ends with it, and forgets earlier attempts when it is forced."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tasks import orphans
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
    environ = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{REPO}", "PREFLOW_RUN": "test", "DVC_STAGE": "toy"}
    argv = [sys.executable, str(root / "dvc"), "repro", *words]
    return subprocess.Popen(argv, cwd=root, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def below(dvc: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(dvc.pid).children(recursive=True)


def all_end(processes: list[psutil.Process]) -> None:
    _, left = psutil.wait_procs(processes, timeout=60)
    for process in left:
        process.kill()
    assert left == []


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
    assert "its parent process has ended" in (root / ".preflow/journal/test/toy-1/events.jsonl").read_text()


WAITS = """
print("waits", flush=True)
open("gate").read()
"""
SHELLS = pytest.mark.parametrize("shell", ["stays", "is replaced"])


def waiting(root: Path, text: str, shell: str) -> subprocess.Popen[str]:
    """A stage that waits somewhere in its program until `gate` is opened."""
    os.mkfifo(root / "gate")
    (root / "toy.py").write_text(text)
    if shell == "is replaced":  # as bash does with a single command
        (root / "dvc").write_text(
            (root / "dvc").read_text().replace(" + '; exit $?'", "").replace(COMMAND, f"exec {COMMAND}")
        )
    dvc = start(root)
    assert dvc.stdout is not None
    assert dvc.stdout.readline() == "waits\n"
    return dvc


@SHELLS
@pytest.mark.faults(
    7, injected="kill -9 of dvc before the stage's first line", happens="the stage ends there and touches nothing"
)
def test_it_does_not_begin_where_dvc_has_gone_before_its_first_line(shell: str, root: Path) -> None:
    with waiting(root, WAITS + TOY, shell) as dvc:
        assert dvc.stdout is not None
        dvc.send_signal(signal.SIGKILL)
        dvc.wait()
        with (root / "gate").open("w"):
            pass
        assert "it is gone" in dvc.stdout.read()
    assert not (root / "data/toy").exists() and not (root / ".preflow").exists()


@SHELLS
@pytest.mark.faults(7, injected="kill -9 of dvc while the stage imports what it needs", happens="it ends with dvc")
def test_it_ends_with_dvc_while_it_still_imports(shell: str, root: Path) -> None:
    with waiting(root, TOY.replace("class Common", WAITS + "\nclass Common", 1), shell) as dvc:
        stage = below(dvc)
        dvc.send_signal(signal.SIGKILL)
        all_end(stage)
    assert not (root / "data/toy").exists()


@pytest.mark.faults(
    7,
    injected="kill -9 of dvc, its stage in a loop that lets no handler of Python's run",
    happens="the stage is killed when it has not ended in the time that a training has to save itself",
    lost="the steps since its last checkpoint",
)
def test_one_that_is_deaf_is_made_to_end(root: Path) -> None:
    (root / "params.yaml").write_text("seed: 7\ntoy: {mode: deaf}\n")
    (root / "sitecustomize.py").write_text("from rlhf import interruption\n\ninterruption.SAVING = 0.2\n")
    with start(root) as dvc:
        assert dvc.stdout is not None
        assert dvc.stdout.readline() == "ready\n"
        stage = below(dvc)
        dvc.send_signal(signal.SIGKILL)
        all_end(stage)


def test_one_of_several_processes_does_not_begin_where_the_first_is_gone(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import tasks"], env={**os.environ, "PYTHONPATH": str(REPO), orphans.LAUNCHER: "1"},
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "it is gone" in done.stderr


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
