"""Who keeps others from removing objects is named."""

from pathlib import Path

import pytest

from flows import guards, objects
from rlhf.errors import Busy
from tasks.journal import home


def test_a_run_in_a_worktree_is_named_as_people_know_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    with (
        guards.held(home(tmp_path) / "worktrees" / "r9.lock", "run r9"),
        pytest.raises(Busy, match=r"^run r9, process \d+ on \S+ is going on; wait for it"),
    ):
        objects.refuse_if_worktree_busy(tmp_path)
