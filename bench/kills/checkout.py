"""A checkout of the last commit with a pipeline of all thirteen stages, cut to about a minute."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

from bench.kills.victims import gone, living
from bench.orchestration.__main__ import PREFLOW
from bench.orchestration.watch import environ
from flows import profiles
from flows.workspace import git

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


def clone(place: Path) -> None:
    """A fresh one at `place`, with the short settings committed."""
    gone(
        list(living(place)), 60.0
    )  # who tells MLflow of a run that was killed may be at it still, and would write there
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    git(ROOT, "clone", "-q", str(ROOT), str(place))
    settings = [f"{key}={value}" for key, value in SHORT.items()]
    (place / "params.yaml").write_text(profiles.resolve(place, settings=settings).text, encoding="utf-8")
    git(place, "-c", "user.name=bench", "-c", "user.email=bench@example.org", "commit", "-qam", "short")


def stop(place: Path) -> None:
    """End the project's server."""
    subprocess.run([*PREFLOW, "stop"], cwd=place, env=environ(), check=False, capture_output=True)
