"""A checkout of the last commit with a pipeline of all thirteen stages, cut to about a minute."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows.reproduce_restore import Locked

ROOT = Path(__file__).parents[2]
SHORT: dict[str, Any] = {
    "collect.world.num_documents": 4000,
    "collect.world.num_demonstrations": 500,
    "collect.world.num_offline_pairs": 200,
    "collect.world.num_prompts": 1000,
    "base.checkpoint_every": 20,
    "sft.checkpoint_every": 10,
    "annotate.num_prompts": 200,
    "reward_model.min_accuracy": 0.0,
    "reward_model.max_calibration_error": 1.0,
    "reward_model.max_length_correlation": 1.0,
    "reward_model.min_length_bin_accuracy": 0.0,
    "reward_model.checkpoint_every": 5,
    "sample.num_prompts": 64,
    "sample.group_size": 4,
    "rejection_sampling.checkpoint_every": 2,
    "rl.num_updates": 6,
    "rl.num_val_prompts": 16,
    "rl.val_every": 3,
    "rl.checkpoint_every": 1,
    "dpo.max_pairs": 64,
    "evaluate.num_prompts": 24,
    "evaluate.samples_per_prompt": 2,
}
PREFLOW = [sys.executable, "-m", "flows.cli"]
OWN = ("PREFECT_API_URL", "PREFLOW_HOME", "MLFLOW_TRACKING_URI")
"""Variables by which a project would use what is not its own."""


def clone(place: Path) -> None:
    """A fresh one at `place`, with the short settings committed."""
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    git(ROOT, "clone", "-q", str(ROOT), str(place))
    yaml = YAML()
    params = yaml.load((place / "params.yaml").read_text("utf-8"))
    for key, value in SHORT.items():
        *path, last = key.split(".")
        section = params
        for part in path:
            section = section[part]
        if last not in section:
            raise SystemExit(f"params.yaml has no {key}: bring bench/kills/checkout.py up to date")
        section[last] = value
    yaml.dump(params, place / "params.yaml")
    git(place, "-c", "user.name=bench", "-c", "user.email=bench@example.org", "commit", "-qam", "short")


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=root, check=True, stdout=subprocess.DEVNULL)


def environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in OWN}


def stop(place: Path) -> None:
    """End the project's server."""
    subprocess.run([*PREFLOW, "stop"], cwd=place, env=environ(), check=False, capture_output=True)


def lock_of(place: Path) -> Locked:
    """Entries of dvc.lock by stage."""
    found: Locked = (YAML(typ="safe").load((place / "dvc.lock").read_text("utf-8")) or {})["stages"]
    return found
