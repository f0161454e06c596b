"""No room for DVC's copy of an output: what was trained stays where it is, and the next try has it all."""

import shutil
import threading
from pathlib import Path

import pytest

from flows import dvc
from flows.runner import Place, run_stage
from tasks.outcome import StageResult
from tests.faults.full_disk import full_beyond
from tests.flows.toy import git, make_toy

MODEL = """
import resource
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, [resource.getrlimit(resource.RLIMIT_FSIZE)[1]] * 2)  # it has room
with Path("trained").open("a") as file:
    file.write("once\\n")
Path("data/model").mkdir(parents=True, exist_ok=True)
Path("data/model/weights").write_bytes(bytes(range(256)) * 8192)
"""
GRAPH = "stages:\n  model:\n    cmd: python model.py\n    deps: [model.py]\n    outs: [data/model]\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    found = make_toy(tmp_path / "project")
    (found / "model.py").write_text(MODEL)
    (found / "dvc.yaml").write_text(GRAPH)
    git(found, "add", "-A")
    return found


def model(root: Path) -> StageResult:
    return run_stage(Place(root, root, "r"), "model", on_line=print, cancel=threading.Event())


@pytest.mark.faults(
    11,
    injected="no room for a trained model in DVC's cache, of which `dvc repro` says that all went well",
    happens="the stage fails and says that it is done, why it was not kept and what to do; then it is kept as it lies",
)
@pytest.mark.slow
def test_no_room_in_the_cache(root: Path) -> None:
    with full_beyond(1_000_000):
        result = model(root)
    assert (result.state, result.exit_code) == ("failed", 1)
    assert result.reason.startswith("it is done, and DVC could not keep it in its cache (File too large); make room")
    changed = dvc.status(root)
    assert changed == {"model": ["data/model not in cache"]}
    assert dvc.keep(root, changed)
    assert (dvc.status(root), model(root).state) == ({}, "cached")
    assert (root / "trained").read_text() == "once\n"


@pytest.mark.slow
def test_what_was_changed_meanwhile_is_not_kept(root: Path) -> None:
    with full_beyond(1_000_000):
        model(root)
    with (root / "data/model/weights").open("ab") as file:
        file.write(b"more")
    changed = dvc.status(root)
    assert not dvc.keep(root, changed)
    assert dvc.status(root) == changed == {"model": ["data/model not in cache"]}
    assert model(root).state == "ran"
    assert (root / "data/model/weights").stat().st_size == 2 * 2**20


@pytest.mark.slow
def test_what_is_nowhere_is_not_looked_for(root: Path) -> None:
    model(root)
    shutil.rmtree(root / "data/model")
    shutil.rmtree(root / ".dvc/cache")
    changed = dvc.status(root)
    assert changed == {"model": ["data/model not in cache"]}
    assert not dvc.keep(root, changed)
