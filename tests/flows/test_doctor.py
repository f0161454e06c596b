"""`preflow doctor`: each ailment is named with its cure, and gone after `--fix` where that can mend it."""

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from flows import doctor, dvc, guards, workspace
from flows.cli import app
from rlhf import manifests
from tasks import environment, tracking
from tasks.journal import home
from tests.flows.toy import make_toy
from tests.ports import free_ports


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in order, in which nothing was run."""
    root = make_toy(tmp_path / "toy")
    (root / "environment.json").write_text(json.dumps({"numpy": version("numpy")}))
    (root / "constraints.txt").write_text(f"# pins\nnumpy=={version('numpy')}\nno-such-package==1.0\n")
    monkeypatch.chdir(root)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    return root


def said(*options: str, code: int) -> list[dict[str, Any]]:
    ended = CliRunner().invoke(app, ["doctor", "--json", *options], catch_exceptions=False)
    assert ended.exit_code == code, ended.output
    ailments: list[dict[str, Any]] = json.loads(ended.stdout)["ailments"]
    return ailments


def one(check: str, *words: str) -> None:
    """There is one ailment, of this check, that says these words."""
    (found,) = said(code=1)
    assert found["check"] == check
    assert all(word in found["what"] + found["cure"] for word in words), found


def mended(check: str) -> None:
    assert [(found["check"], found["mended"]) for found in said("--fix", code=0)] == [(check, True)]
    assert said(code=0) == []


def test_a_project_in_order(toy: Path) -> None:
    assert said(code=0) == []
    ended = CliRunner().invoke(app, ["doctor"], catch_exceptions=False)
    assert [line.split()[0] for line in ended.stdout.splitlines()] == list(doctor.CHECKS)


def test_a_version_that_results_are_not_promised_for(toy: Path) -> None:
    (toy / "environment.json").write_text(json.dumps({"numpy": "0.1"}))
    one("packages", f"numpy {version('numpy')} instead of 0.1", "make setup")


def test_a_version_that_is_not_pinned(toy: Path) -> None:
    (toy / "constraints.txt").write_text("numpy==0.1\n")
    one("packages", f"numpy {version('numpy')} instead of 0.1", "make setup")


@pytest.mark.faults(
    56,
    injected="prefect 3.8.8 beside fastapi 0.163.2",
    happens="doctor names both and what breaks, and how to install what is pinned",
)
def test_a_pair_that_clashes(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"prefect": "3.8.8", "fastapi": "0.163.2", "sqlalchemy": "2.0.1"}
    monkeypatch.setattr(doctor, "_installed", lambda name: found.get(name, ""))
    monkeypatch.setattr(environment, "check", lambda _: None)
    one("packages", "prefect 3.8.8 with fastapi 0.163.2", "no flow starts")


def test_a_package_that_is_missing(toy: Path) -> None:
    wanted = ["numpy>=1", "no-such-package>=1", "of-another-system; sys_platform == 'plan9'"]
    (toy / "pyproject.toml").write_text(f"[project]\ndependencies = {json.dumps(wanted)}\n")
    one("packages", "not installed, and pyproject.toml requires it: no-such-package", "make setup")


@pytest.mark.parametrize("name", ["dvc.yaml", "params.yaml", "dvc.lock"])
def test_a_file_that_cannot_be_read(name: str, toy: Path) -> None:
    (toy / name).write_text("stages: [")
    one("project", f"{name} cannot be read", f"git checkout {name}")


def test_a_disk_without_room(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(toy)
    monkeypatch.setattr(guards.shutil, "disk_usage", lambda _: usage._replace(free=10**9))
    one("disk", "0.9 GB free", "preflow prune")


@pytest.mark.faults(
    36,
    injected="`.dvc/tmp/rwlock` cut short, or of a process that is gone",
    happens="doctor names it; --fix removes it",
)
@pytest.mark.parametrize("text", ['{"wri', '{"write": {"data/x": {"pid": 999999999, "cmd": "dvc repro"}}, "read": {}}'])
def test_a_lock_that_a_dead_dvc_left(text: str, toy: Path) -> None:
    (toy / ".dvc/tmp").mkdir(exist_ok=True)
    (toy / dvc.RWLOCK).write_text(text)
    one("locks", "blocks every other", dvc.RWLOCK)
    mended("locks")
    assert not (toy / dvc.RWLOCK).exists()


def test_an_empty_lock_is_what_dvc_leaves(toy: Path) -> None:
    (toy / ".dvc/tmp").mkdir(exist_ok=True)
    (toy / dvc.RWLOCK).write_text("{}")
    assert said(code=0) == []


@pytest.fixture
def at_work(toy: Path) -> Iterator[None]:
    with guards.held(home(toy) / "run.lock", "run x"):
        yield


@pytest.mark.usefixtures("at_work")
def test_what_a_run_is_writing_is_no_ailment(toy: Path) -> None:
    draft = home(toy) / "scratch/rl-0123/checkpoints/.tmp-000010"
    draft.mkdir(parents=True)
    assert said("--fix", code=0) == []
    assert draft.exists()


@pytest.mark.faults(36, injected="`.dvc/tmp/rwlock` cut short while a run is alive", happens="left alone")
@pytest.mark.usefixtures("at_work")
def test_a_lock_is_no_matter_while_a_run_goes_on(toy: Path) -> None:
    (toy / ".dvc/tmp").mkdir(exist_ok=True)
    (toy / dvc.RWLOCK).write_text('{"wri')
    assert said(code=0) == []


def test_worktrees_that_nobody_works_in(toy: Path) -> None:
    folder = home(toy) / "worktrees"
    for name in ("dead", "kept", "busy"):
        workspace.git(toy, "worktree", "add", "-q", "--detach", str(folder / name))
    (folder / "kept.keep").touch()
    with guards.held(folder / "busy.lock", "run busy"):
        one("runs", "the worktree is left", "dead")
        mended("runs")
        assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["busy", "kept"]


def test_runs_whose_process_is_gone(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Path] = []
    monkeypatch.setattr(tracking, "reconcile", told.append)
    for name, pid in (("dead", 999_999_999), ("alive", os.getpid())):
        owner = {"host": platform.node(), "pid": pid, "started": psutil.Process().create_time()}
        (home(toy) / "journal" / name).mkdir(parents=True)
        (home(toy) / "journal" / name / "run.json").write_text(json.dumps({"owner": owner, "info": {}, "begun": 1.0}))
    one("runs", "MLflow does not know it", "dead")
    assert [found["mended"] for found in said("--fix", code=1)] == [False], "it was not told, as here, and said so"
    assert told == [toy]


def test_checkpoints_that_nothing_reads(toy: Path) -> None:
    folder = home(toy) / "scratch/rl-0123/checkpoints"
    for name in (".tmp-000010", "broken-step-000005", "step-000007"):
        (folder / name).mkdir(parents=True)
    one("checkpoints", "nothing will read", "broken-step-000005")
    mended("checkpoints")
    assert [path.name for path in folder.iterdir()] == ["step-000007"]


@pytest.mark.faults(
    14, injected="`doctor --fix` where a checkpoint that was set aside is whole, or cannot be read just now",
    happens="it is left, and doctor says how to have it gone on with",
)  # fmt: skip
@pytest.mark.parametrize("unreadable", [False, True])
def test_a_checkpoint_set_aside_that_may_be_good_is_left(
    unreadable: bool, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home(toy) / "scratch/rl-0123/checkpoints/broken-step-000005"
    folder.mkdir(parents=True)
    for name in (manifests.TENSORS, manifests.STATE):
        (folder / name).write_text("whole")
    named = {name: manifests.fingerprint(folder / name) for name in (manifests.TENSORS, manifests.STATE)}
    (folder / manifests.MANIFEST).write_text(json.dumps(named))

    def failing(_: Path) -> None:
        raise OSError(5, "Input/output error")

    if unreadable:
        monkeypatch.setattr(manifests, "fingerprint", failing)
    one("checkpoints", "broken-step-000005 was set aside", "name it step-000005 again")
    assert [found["mended"] for found in said("--fix", code=1)] == [False]
    assert folder.exists()


@pytest.mark.parametrize(
    ("variable", "path", "words"),
    [
        ("PREFECT_API_URL", "/api", "no Prefect server answers"),
        ("MLFLOW_TRACKING_URI", "", "no MLflow server answers"),
    ],
)
def test_a_server_that_does_not_answer(
    variable: str, path: str, words: str, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f"http://127.0.0.1:{free_ports(1)[0]}{path}")
    one("servers", words, f"unset {variable}")
    assert [found["mended"] for found in said("--fix", code=1)] == [False]


@pytest.mark.faults(
    37,
    injected="a DVC remote whose bytes are not hashed on arrival",
    happens="doctor names it; --fix sets `verify true`",
)
def test_a_remote_taken_at_its_word(toy: Path, tmp_path: Path) -> None:
    assert dvc.call(toy, "remote", "add", "-d", "store", str(tmp_path / "store")).returncode == 0
    one("remotes", "store is not hashed", "dvc remote modify store verify true")
    mended("remotes")
    assert "verify = true" in (toy / ".dvc/config").read_text()


def test_settings_that_dvc_cannot_read(toy: Path) -> None:
    with (toy / ".dvc/config").open("a") as file:
        file.write("<<<<<<< HEAD\n    remote = mine\n=======\n    remote = yours\n>>>>>>> theirs\n")
    one("remotes", "`dvc remote list` failed: configuration error", ".dvc/config")


def test_where_there_is_no_dvc_all_else_is_told(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy / "constraints.txt").write_text("numpy==0.1\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/git").symlink_to(shutil.which("git") or "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python"))
    found = {ailment["check"]: ailment["what"] for ailment in said(code=1)}
    assert found.keys() == {"packages", "remotes"} and found["remotes"].startswith("no dvc beside")
