"""Only what orchestrates dies, while a stage is at work: dvc's starter, Prefect's server. Never two write at a time."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows import dvc, server
from tests.faults import waiting

pytestmark = pytest.mark.slow
TEXT = "a row\ncopied\ncopied\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    found = waiting.make(tmp_path / "project")
    yield found
    server.stop(found)


def whole(root: Path) -> None:
    """All is there, by dvc.lock too."""
    assert (root / "data/second/text").read_text() == TEXT
    assert dvc.status(root) == {}


@pytest.mark.faults(
    7,
    injected="kill -9 of `preflow run` alone, its stage at work",
    happens="dvc and the stage die with it; the next run begins the stage anew and ends as it should",
)
@pytest.mark.faults(
    33,
    injected="the same: the run held the workspace and a slot, the stage its key",
    happens="nothing is held any more when they are gone: the next run waits for nothing",
)
def test_a_stage_does_not_outlive_the_run(root: Path) -> None:
    first = waiting.start(root)
    stage = waiting.at_work(root, first)
    supervisor, server_ = waiting.servers(root)  # which is meant to outlive a run
    below = set(psutil.Process(first.pid).children(recursive=True)) - {supervisor, *server_}
    assert stage in below
    first.kill()
    first.communicate()
    _, left = psutil.wait_procs(below, timeout=60)
    assert left == []
    second = waiting.start(root)
    waiting.let_go(root)
    code, states, said = waiting.ended(second)
    assert (code, states) == (0, {"first": "ran", "second": "ran"}), said
    assert "waiting" not in said
    events = waiting.began(root)
    assert [what for _, what in events] == ["begins", "begins", "ends", "begins", "ends"]
    assert events[0] == (stage.pid, "begins") and events[1][0] == events[2][0] != stage.pid
    whole(root)


@pytest.mark.faults(
    31,
    injected="kill -9 of Prefect's server, with and without what watches over it, a stage at work",
    happens="the stage ends and is kept; the run goes on, or ends with 87 and is typed again, which runs only the rest",
)
@pytest.mark.parametrize("supervised", [True, False])
def test_a_server_that_dies_costs_no_stage(supervised: bool, root: Path) -> None:
    first = waiting.start(root)
    stage = waiting.at_work(root, first)
    supervisor, below = waiting.servers(root)
    victims = below if supervised else [supervisor, *below]
    for victim in victims:
        victim.kill()
    psutil.wait_procs(victims, timeout=60)
    waiting.let_go(root)
    code, states, said = waiting.ended(first)
    assert states["first"] == "ran", said
    assert (code, states["second"]) in ((0, "ran"), (87, "failed")), said
    again = waiting.ended(waiting.start(root))
    assert again[:2] == (0, {"first": "cached", "second": "cached" if code == 0 else "ran"}), again
    events = waiting.began(root)
    assert events[:2] == [(stage.pid, "begins"), (stage.pid, "ends")] and len(events) == 4
    whole(root)
