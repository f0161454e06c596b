"""Worktrees that one command works in: gone with it, however it ends, or out of the way of the next."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.flows.toy import REPO, git
from tests.pools.hosts import until

# `preflow rollback policy/3` with a DVC remote of a few lines, which hangs as long as there is a file `hang`.
ROLLBACK = """
import json, shutil, subprocess, sys, time
from pathlib import Path
from flows import champion, dvc, policies, rollback
from tests.flows.toy import Nobody

root = Path.cwd()

def call(tree, *words):
    if words[0] == "fetch":
        (root / "fetching").touch()
        while (root / "hang").exists():
            time.sleep(0.05)
        shutil.copytree(root / "remote", root / "cache", dirs_exist_ok=True)
    return subprocess.CompletedProcess(words, 0, "", "")

dvc.call, dvc.cache = call, lambda _: root / "cache"
champion.reigning = lambda *_: None
policies.version_of = lambda *_: json.loads((root / "told.json").read_text())
rollback.tracking = Nobody()
from flows.cli import main
sys.argv[1:] = ["rollback", "policy/3"]
main()
"""


@pytest.fixture
def away(toy: Path) -> Path:
    """A project whose policy v3 is on the DVC remote alone."""

    def put(content: str) -> str:
        md5 = hashlib.md5(content.encode()).hexdigest()
        there = toy / "remote" / "files" / "md5" / md5[:2] / md5[2:]
        there.parent.mkdir(parents=True)
        there.write_text(content)
        return md5

    listing = json.dumps([{"md5": put("weights"), "relpath": "weights"}])
    md5 = f"{put(listing)}.dir"
    there = toy / "remote" / "files" / "md5" / md5[:2] / md5[2:]
    there.with_suffix("").rename(there)
    commit = git(toy, "rev-parse", "HEAD").strip()
    told = {"version": 3, "ref": "refs/preflow/runs/r1", "commit": commit, "run": "r1", "candidate": "rl"}
    told |= {"path": "data/rl", "md5": md5, "digests": {"data/rl": md5}, "profile": "", "scores": {}}
    (toy / "told.json").write_text(json.dumps(told))
    return toy


@contextmanager
def begun(root: Path) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", ROLLBACK]
    environ = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        argv, cwd=root, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def left(root: Path) -> list[str]:
    """Worktrees, by git's word and by what lies there."""
    known = git(root, "worktree", "list", "--porcelain").count("worktree ") - 1
    return [f"{known} of git", *sorted(path.name for path in (root / ".preflow/worktrees").iterdir())]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_was_ended_in_its_worktree_can_be_typed_again(away: Path, sign: signal.Signals) -> None:
    (away / "hang").touch()
    with begun(away) as rollback:
        until(lambda: (away / "fetching").exists() or rollback.poll() is not None, lambda: "it never fetched")
        assert len(left(away)) > 1, "it is at work in one"
        rollback.send_signal(sign)
        said, _ = rollback.communicate()
    if sign == signal.SIGTERM:
        assert (rollback.returncode, said.splitlines()[-1]) == (85, "preflow: stopped; the same command starts over")
        assert left(away) == ["0 of git"]
    (away / "hang").unlink()
    with begun(away) as rollback:
        said, _ = rollback.communicate()
    assert (rollback.returncode, said.splitlines()[-1]) == (0, "policy: champion is v3"), said
    assert left(away) == ["0 of git"]


def test_one_that_git_alone_knows_makes_room_too(away: Path) -> None:
    """Left by a kill while it was being removed, or by somebody who has deleted the folder."""
    commit = git(away, "rev-parse", "HEAD").strip()
    tree = away / ".preflow/worktrees" / f"fetch-{commit[:12]}"
    git(away, "worktree", "add", "--quiet", "--detach", str(tree), commit)
    shutil.rmtree(tree)
    with begun(away) as rollback:
        said, _ = rollback.communicate()
    assert rollback.returncode == 0, said
