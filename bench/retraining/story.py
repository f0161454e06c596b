"""A schedule with real training, shortened: what each firing did, and what the gate said of good and of swapped labels.

    python -m bench.retraining.story FOLDER

FOLDER is made: a checkout of the present tree below it, with a git remote and a DVC remote beside it, and a schedule
of 20 s that a real Prefect server fires. The first firing has 600 preferences, of old answers. Then come shards of
people's judgements on answers of the SFT policy, from which RL starts: 3600 pairs, 4200 whose sides are swapped, some
with a secret in one, and, after three slots without a server and with those two taken away, another 1500 good ones. A
row for each of these: stages that ran, seconds, the reward model's accuracy, gold rewards, the outcome and its reason.
Four of them train; the caches spare what no preference reaches.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from flows import dvc
from rlhf.models import load_policy
from rlhf.records import Row, in_pool, read_rows, write_rows
from rlhf.sampler import sample
from rlhf.world.labels import label
from tests.flows.firings import executed, firings, preflow, remembered, seconds, served, until
from tests.test_end_to_end import SHORT, copied, sh

SLOT = 20
"""Seconds between slots."""
PATIENCE = 3600
"""Seconds for one training; an idle machine needs 200."""
GROUP = 4
"""Answers a question, of which people compare every two."""
ANSWERS = ("Promoted", "NotPromoted", "DataRefused", "RunFailed")
"""States of firings that had something to do."""
FEW_LABELS = SHORT | {
    "collect.world.num_offline_pairs": 600,
    "annotate.train_on": "offline",  # the shards, rather than a panel that is asked anew
    "annotate.num_prompts": 1,
    "rl.allow_untrusted": True,
    "reward_model.epochs": 4,
    "rl.num_updates": 30,
    "rl.val_every": 10,
    "evaluate.num_prompts": 400,
}


def project(folder: Path) -> Path:
    """A checkout whose commits and champions have somewhere to go."""
    root = copied(folder / "checkout", FEW_LABELS)
    sh(folder, "git", "init", "-q", "--bare", "origin.git")
    sh(root, "git", "remote", "add", "origin", str(folder / "origin.git"))
    sh(root, str(dvc.program()), "remote", "add", "-q", "-d", "store", str(folder / "store"))
    sh(root, "git", "-c", "user.name=story", "-c", "user.email=story@example.org", "commit", "-qam", "a DVC remote")
    return root


def shard(root: Path, name: str, rows: list[Row]) -> Path:
    """The rows in the inbox."""
    target = root / "data" / "inbox" / "preferences" / f"{name}.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    made = root.parent / f"{name}.jsonl"
    write_rows(made, rows)
    made.replace(target)  # at once: a slot may come due meanwhile
    return target


def judged(root: Path, seed: int, pairs: int) -> list[Row]:
    """What the world's people say of answers of the SFT policy, pair by pair; of finished ones that differ. A question
    keeps the name of its group, by which it is known wherever it stands."""
    policy = load_policy(root / "data/05_sft/policy")
    prompts = in_pool(list(read_rows(root / "data/03_validated/prompts/train.jsonl")), "preference")
    asked = [policy.chat.encode_prompt(prompt["messages"]) for prompt in prompts]
    said: list[set[str]] = [set() for _ in prompts]
    for one in sample(policy, asked, max_new_tokens=48, temperature=1.0, group_size=GROUP, seed=seed):
        if one.stop_reason == "stop":
            said[one.prompt_index].add(policy.chat.decode(one.ids))
    rows = [
        {key: row[key] for key in ("messages", "chosen", "rejected", "annotator")} | {"group": prompt["group"]}
        for prompt, texts in zip(prompts, said, strict=True)
        for row in label(prompt, [(text, True) for text in sorted(texts)], "default", seed)
    ]
    assert len(rows) >= pairs, f"{len(rows)} pairs, {pairs} were wanted"
    return rows[:pairs]


def swapped(rows: list[Row]) -> list[Row]:
    """The worse answer of each pair is called the better one."""
    return [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]


def answers(root: Path) -> list[dict[str, Any]]:
    """Firings that had something to do and have done it."""
    return [one for one in firings(root) if one["state_name"] in ANSWERS]


def tell(root: Path, what: str, firing: dict[str, Any]) -> None:
    """Print its row."""
    state = firing["state_name"]
    row: dict[str, Any] = {
        "what": what, "state": state, "message": firing["state"]["message"], "seconds": round(seconds(firing), 1)
    }  # fmt: skip
    if state in ANSWERS:
        row["ran"] = sorted(executed(root, remembered(root, "labels")["run"]))
    if state in ("Promoted", "NotPromoted"):
        reward_model = json.loads((root / "data/07_reward_model/metrics.json").read_text())["policy_rm"]
        policies = json.loads((root / "data/12_evaluation/scores.json").read_text())["policies"]
        row["reward_model_accuracy"] = reward_model["accuracy"]
        row["gold_reward"] = {name: round(one["gold_reward"]["mean"], 3) for name, one in policies.items()}
    row["champion"] = sh(
        root, "git", "for-each-ref", "--format=%(objectname:short)", "refs/preflow/policy/champion"
    ).strip()
    print(json.dumps(row), flush=True)


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    root = project(folder)
    with served(root):
        preflow(root, "schedule", "create", "labels", "--every", f"{SLOT}s")
        told = 0

        def answer(what: str) -> None:
            nonlocal told
            told += 1
            tell(root, what, until(what, lambda: answers(root)[told - 1 : told], PATIENCE)[0])

        answer("600 labels")
        tell(root, "nothing new", until("idle slot", lambda: firings(root, "NothingNew"))[0])
        shard(root, "good", judged(root, 7, 3600))
        answer("3600 good ones")
        turned = shard(root, "swapped", swapped(judged(root, 8, 4200)))
        answer("4200 swapped ones")
        more = judged(root, 9, 1500)
        turned.unlink()
        leaking = shard(root, "leaking", [more[0] | {"chosen": "my key is hf_" + "abcDEF123" * 3}, *more[1:50]])
        answer("a secret in a row")
    leaking.unlink()
    shard(root, "more", more)
    time.sleep(3 * SLOT)
    with served(root):
        answer("1500 more after an outage of three slots")
        idle = len(firings(root, "NothingNew"))
        until("a slot after it", lambda: len(firings(root, "NothingNew")) > idle)
        assert len(answers(root)) == told, "exactly one run after the outage"


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
