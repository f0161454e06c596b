"""A DVC remote that lacks an object: what was pulled is half of the data, and nobody trains on that."""

import hashlib
import subprocess
import threading
from pathlib import Path

import pytest

from flows import dvc, inputs, server
from flows.runner import Place, run_stage
from rlhf.errors import DataRefused
from tasks.graph import load_graph
from tests.faults import waiting
from tests.flows.again_toy import lose
from tests.flows.toy import dvc_repro, git, make_toy

pytestmark = pytest.mark.slow
MORE = "more rows\n"
LOST = hashlib.md5(MORE.encode()).hexdigest()
TWO_FILES = f"\nif name == 'collect':\n    (out / 'more').write_text({MORE!r})\n"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a project whose run was pushed to a remote that has lost one of the two files of data/collect since."""
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    root = make_toy(tmp_path / "project")
    with (root / "stage.py").open("a") as file:
        file.write(TWO_FILES)
    dvc_repro(root)
    command = [dvc.program(), "remote", "add", "-q", "-d", "store", str(tmp_path / "store")]
    subprocess.run(command, cwd=root, check=True)
    subprocess.run([dvc.program(), "push", "-q"], cwd=root, check=True)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "run")
    lose(tmp_path / "store", LOST)
    git(tmp_path, "clone", "-q", str(root), "clone")
    return tmp_path / "clone"


def pull(clone: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [dvc.program(), "pull"], cwd=clone, env=dvc.environ(), text=True, capture_output=True, check=False
    )


@pytest.mark.faults(
    38,
    injected="one object of a folder gone from the DVC remote; pulled into a fresh clone, then run there",
    happens="the pull fails, naming it; the run makes that data again before anything reads it: dvc.lock is the same",
)
def test_a_run_makes_again_what_could_not_be_pulled(clone: Path) -> None:
    pulled = pull(clone)
    assert pulled.returncode != 0
    assert LOST in pulled.stderr
    assert not (clone / "data/collect/more").exists()
    before = (clone / "dvc.lock").read_bytes()
    try:
        code, states, said = waiting.ended(waiting.start(clone))
    finally:
        server.stop(clone)
    assert (code, states["collect"]) == (0, "ran"), said
    assert (clone / "data/collect/more").read_text() == MORE
    assert "more rows" in (clone / "data/sft/text").read_text()
    assert (clone / "dvc.lock").read_bytes() == before
    assert dvc.status(clone) == {}


@pytest.mark.faults(
    38,
    injected="the same, and a single stage is run on the half that was pulled",
    happens="its result is refused: it read something else than the stage before it wrote",
)
def test_what_was_made_of_half_of_it_does_not_count(clone: Path) -> None:
    pull(clone)
    (clone / "data/collect").mkdir(parents=True, exist_ok=True)
    (clone / "data/collect/text").write_text("collect 0\n")
    result = run_stage(Place(clone, clone, "r"), "sft", on_line=print, cancel=threading.Event())
    assert result.state == "ran"
    with pytest.raises(DataRefused, match="data/collect was changed after stage collect wrote it"):
        inputs.hold(clone, load_graph(clone), "sft")
