"""DVC's lock file in one order, and what a kill leaves of its locks."""

import json
import os
from pathlib import Path

import psutil

from flows import dvc
from tasks.graph import load_graph
from tasks.lockfile import ENTRY, HEAD, locked
from tests.flows.toy import dvc_repro


def test_dvcs_own_order_is_that_of_dvc_yaml_and_any_other_is_put_right(toy: Path) -> None:
    dvc_repro(toy)
    written = (toy / "dvc.lock").read_text()
    graph = load_graph(toy)
    assert not dvc.order_lock(toy, graph)
    assert (toy / "dvc.lock").read_text() == written
    head, *entries = written.split("\n  ")
    blocks: list[str] = []
    for line in entries:
        if line.startswith(" "):
            blocks[-1] += "\n  " + line
        else:
            blocks.append(line)
    collect, sft, dpo, rl, gate = (block.rstrip("\n") for block in blocks)
    stray = "gone:\n    cmd: true"
    (toy / "dvc.lock").write_text("\n  ".join([head, collect, rl, stray, gate, dpo, sft]) + "\n")
    assert dvc.order_lock(toy, graph)
    assert (toy / "dvc.lock").read_text() == written
    assert dvc.status(toy) == {}


def test_status_says_what_changed(toy: Path) -> None:
    dvc_repro(toy)
    (toy / "params.yaml").write_text((toy / "params.yaml").read_text().replace("5e-2", "1e-2"))
    assert dvc.status(toy) == {"rl": ["rl modified"]}


def test_its_lock_has_the_shape_that_is_read_by_entries(toy: Path) -> None:
    """Else the quick way is never taken, and nobody notices."""
    dvc_repro(toy)
    text = (toy / "dvc.lock").read_text()
    assert ENTRY.sub("", text) == HEAD
    assert set(locked(text)) == set(load_graph(toy).stages)


def test_locks_of_dead_dvcs_are_forgotten(toy: Path) -> None:
    path = toy / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(parents=True)
    free = next(pid for pid in range(2**22 - 1, 0, -1) if not psutil.pid_exists(pid))
    for held in (json.dumps(reader(free)), '{"wri', json.dumps(reader(os.getpid()))):
        path.write_text(held)
        dvc.mend_rwlock(toy)
        assert not path.exists()


def reader(pid: int) -> dict[str, object]:
    """DVC's note of a lock. This process is alive and no dvc, as happens when numbers are used again."""
    return {"read": {"x": [{"pid": pid, "cmd": "dvc repro"}]}}
