"""Retraining with real training, shortened: what the gate says of good labels, of swapped ones, and of more good ones.

    python -m bench.retraining.story FOLDER

FOLDER is made: a checkout of the present tree below it, whose first retrain has few preferences. Then come shards of
1500 good pairs, of 1800 pairs whose sides are swapped, and, with those taken away, of 1500 good ones again. A row each:
what was new, the stages that ran, seconds, the reward model's accuracy, gold rewards, and the outcome. It trains
four times; all but the first take from the cache what no preference reaches.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rlhf.records import read_rows, write_rows
from rlhf.world.generate import write_world
from tests.test_end_to_end import SHORT, copied, environ

FEW_LABELS = SHORT | {
    "collect.world.num_offline_pairs": 300,
    "annotate.train_on": "offline",  # the shards, rather than a panel that is asked anew
    "annotate.num_prompts": 1,
    "rl.allow_untrusted": True,
    "rl.num_updates": 8,
}


def shard(root: Path, name: str, seed: int, pairs: int, *, swapped: bool = False) -> Path:
    """Preferences of another world in the inbox; swapped, the worse answer of each is called the better one."""
    made = root.parent / "worlds" / name
    write_world(
        made,
        seed=seed,
        num_documents=100,
        num_demonstrations=10,
        num_offline_pairs=pairs,
        num_prompts=min(2 * pairs, 4600),
    )
    rows = list(read_rows(made / "preferences"))
    if swapped:
        rows = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    target = root / "data" / "inbox" / "preferences" / f"{name}.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_rows(target, rows)
    return target


def retrain(root: Path, what: str) -> None:
    """Fire, and print the row."""
    began = time.monotonic()
    argv = [sys.executable, "-m", "flows.cli", "retrain", "--json"]
    done = subprocess.run(argv, cwd=root, env=environ(), text=True, stdout=subprocess.PIPE, check=False)
    if not done.stdout:
        raise SystemExit(f"{what}: `preflow retrain` ended with {done.returncode}")
    outcome: dict[str, Any] = json.loads(done.stdout)
    stages = outcome["report"].get("stages", [])
    row = {
        "what": what,
        "state": outcome["state"],
        "message": outcome["message"],
        "seconds": round(time.monotonic() - began),
        "ran": [stage["name"] for stage in stages if stage["state"] == "ran"],
        "cached": [stage["name"] for stage in stages if stage["state"] == "cached"],
    }
    if outcome["report"].get("gate"):
        reward_model = json.loads((root / "data/07_reward_model/metrics.json").read_text())["policy_rm"]
        policies = json.loads((root / "data/12_evaluation/scores.json").read_text())["policies"]
        row["reward_model_accuracy"] = reward_model["accuracy"]
        row["gold_reward"] = {name: round(one["gold_reward"]["mean"], 3) for name, one in policies.items()}
    print(json.dumps(row), flush=True)


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    root = copied(folder / "checkout", FEW_LABELS)
    try:
        retrain(root, "few labels")
        retrain(root, "nothing new")
        shard(root, "good", 7, 1500)
        retrain(root, "good shard")
        swapped = shard(root, "swapped", 8, 1800, swapped=True)
        retrain(root, "swapped shard")
        swapped.unlink()
        shard(root, "more", 9, 1500)
        retrain(root, "more good ones")
    finally:
        subprocess.run([sys.executable, "-m", "flows.cli", "stop"], cwd=root, env=environ(), check=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
