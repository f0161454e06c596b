"""The story of `preflow reproduce` with real stages: trained here, restored and trained again in a fresh clone.

The clone has git and a DVC remote; no cache, no MLflow, no word of the first. Sizes are as small as every stage takes.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import dvc
from tasks.graph import load_graph
from tests.test_end_to_end import SHORT, STAGES, copied, environ, preflow, sh

TINY: dict[str, Any] = SHORT | {
    "collect.world.num_documents": 4000,
    "collect.world.num_demonstrations": 500,
    "collect.world.num_offline_pairs": 200,
    "collect.world.num_prompts": 1000,
    "annotate.num_prompts": 200,
    "sample.num_prompts": 64,
    "sample.group_size": 4,
    "rl.num_updates": 3,
    "rl.num_val_prompts": 16,
    "rl.val_every": 3,
    "dpo.max_pairs": 64,
    "evaluate.num_prompts": 24,
    "reward_model.min_accuracy": 0.0,
    "reward_model.max_calibration_error": 1.0,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `here` (trained, promoted), a DVC remote, `origin.git`, and `clone`, which nothing else is in."""
    folder = tmp_path_factory.mktemp("reproduce")
    root = copied(folder / "here", TINY)
    sh(root, str(dvc.program()), "remote", "add", "-q", "-d", "store", str(folder / "store"))
    sh(root, "git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "-qam", "remote")
    sh(root, "git", "branch", "-M", "main")
    sh(folder, "git", "init", "-q", "--bare", "-b", "main", "origin.git")
    sh(root, "git", "remote", "add", "origin", str(folder / "origin.git"))
    sh(root, "git", "push", "-q", "origin", "main")
    run = preflow(root)["run"]
    promote = (sys.executable, "-m", "flows.cli", "promote", run)
    sh(root, *promote, "--force", "whatever comes out of it: this is about bytes")  # sends it to both remotes
    sh(folder, "git", "clone", "-q", str(folder / "origin.git"), "clone")
    yield folder
    for tree in (root, folder / "clone"):
        subprocess.run([sys.executable, "-m", "flows.cli", "stop"], cwd=tree, env=environ(), check=False)


def reproduce(root: Path, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sh(root, sys.executable, "-m", "flows.cli", "reproduce", *words, "--json"))
    return found


@pytest.mark.e2e
@pytest.mark.slow
def test_a_fresh_clone_restores_the_champion_and_trains_it_again_to_the_same_bytes(made: Path) -> None:
    clone = made / "clone"
    outs = {out for stage in load_graph(clone).stages.values() for out in stage.outs}
    restored = reproduce(clone, "policy@champion")
    assert (restored["verdict"], restored["how"]) == ("byte-equal", "restored")
    assert {one["path"] for one in restored["outs"]} == outs
    shutil.rmtree(clone / ".dvc" / "cache")
    shutil.rmtree(made / "store")  # what is trained again needs neither
    again = reproduce(clone, "policy@champion", "--rerun")
    assert (again["verdict"], again["how"], again["lock_equal"]) == ("byte-equal", "rerun", True)
    assert again["not_rerun"] == {}
    assert {one["path"] for one in again["outs"]} == outs
    assert {one["stage"] for one in again["outs"]} == set(STAGES)
    assert not (clone / "mlruns" / "mlflow.db").exists()
    assert sh(clone, "git", "status", "--porcelain") == ""
