"""A worker whose remotes are away for a moment waits for them, as the run does that sent it a stage."""

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import dvc
from flows.pools import patience, stage_work
from flows.pools.exchange import Exchange
from flows.pools.orders import REFS, Order
from flows.pools.stage_work import Attempt
from rlhf.errors import DependencyDown, Preempted
from tasks.outcome import StageResult
from tests.flows.toy import git, make_toy

pytestmark = pytest.mark.e2e


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker's checkout; beside it `hub` and `store`, which have what `sft` starts from and reads."""
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    monkeypatch.setattr(patience, "AGAIN", 0.0)
    here, there = make_toy(tmp_path / "here"), tmp_path / "there"
    dvc.call(here, "remote", "add", "--default", "store", str(tmp_path / "store"))
    subprocess.run([dvc.program(), "repro", "--quiet", "collect"], cwd=here, env=dvc.environ(), check=True)
    assert dvc.call(here, "push", "--quiet").returncode == 0
    git(here, "add", ".dvc/config", "dvc.lock")
    git(here, "commit", "-qm", "collected")
    git(tmp_path, "clone", "-q", "--bare", str(here), "hub")
    git(tmp_path, "clone", "-q", "hub", str(there))
    git(here, "push", "-q", str(tmp_path / "hub"), f"HEAD:{REFS}/r/sft")
    return there


def attempt(there: Path, cancel: threading.Event) -> Attempt:
    commit = git(there, "rev-parse", "HEAD").strip()
    order = Order("r", "sft", f"{REFS}/r/sft", commit, "mail/r/sft-1", "", planned=False)
    return Attempt(there, order, Exchange("memory://exchange"), "one", cancel)


def hears(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> list[str]:
    said: list[str] = []

    def tell(_place: object, _stage: str, line: str) -> None:
        said.append(line)
        do()

    monkeypatch.setattr(stage_work, "_tell", tell)
    return said


def test_remotes_that_are_away_for_a_moment_cost_nothing(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = [there.with_name(name) for name in ("store", "hub")]
    for folder in away:
        folder.rename(folder.with_suffix(".aside"))

    def back() -> None:
        folder = away.pop()
        folder.with_suffix(".aside").rename(folder)

    said, read = hears(monkeypatch, back), list[str]()

    def look(place: object, stage: str, **_: object) -> StageResult:
        read.append((place.tree / "data" / "collect" / "text").read_text())  # type: ignore[attr-defined]
        return StageResult(stage, "failed", reason="looked", exit_code=1)

    monkeypatch.setattr(stage_work, "run_stage", look)
    assert attempt(there, threading.Event()).do().result.reason == "looked"
    assert read == ["collect 0\n"]
    assert [line.partition(" did not give")[0] for line in said] == ["the git remote origin", "the DVC remote"]


def test_who_is_asked_to_end_while_it_waits_is_lost_and_has_not_failed(
    there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.with_name("hub").rename(there.with_name("aside"))
    cancel = threading.Event()
    hears(monkeypatch, cancel.set)
    answer = attempt(there, cancel).do()
    assert (answer.result.state, answer.result.exit_code) == ("stopped", Preempted.exit_code)


def test_a_remote_that_stays_away_is_named_in_the_end(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE", -1.0)
    there.with_name("hub").rename(there.with_name("aside"))
    with pytest.raises(DependencyDown, match=f"the git remote origin did not give {REFS}/r/sft"):
        attempt(there, threading.Event()).do()
