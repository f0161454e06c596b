"""Models of a few thousand weights over a vocabulary of a dozen words, for stages that are run whole in a test."""

import json
import random
from pathlib import Path

from rlhf.chat import Chat
from rlhf.models import Policy, RewardModel, load_policy, new_policy, save_policy
from rlhf.records import write_rows

WORDS = ["red", "green", "blue", "one", "two", "three", "yes", "no", "please", "thanks"]


def chat() -> Chat:
    return Chat.from_words(WORDS)


def policy(seed: int = 0) -> Policy:
    return new_policy(
        chat(), seed, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, max_tokens=64, init_std=0.1
    )


def save_models(folder: Path) -> None:
    """policy/, policy_rm/, held_out_rm/ and reward_metrics.json."""
    save_policy(policy(), folder / "policy")
    for seed, name in enumerate(("policy_rm", "held_out_rm"), start=1):
        RewardModel(load_policy(folder / "policy"), seed).save(folder / name)
    (folder / "reward_metrics.json").write_text(json.dumps({"trusted": True, "reasons": []}))


def save_prompts(folder: Path, num_train: int = 12, num_val: int = 8) -> None:
    rng = random.Random(0)
    for split, count in (("train", num_train), ("val", num_val)):
        rows = [
            {
                "id": f"{split}{number:03d}",
                "pool": "rl",
                "messages": [{"role": "user", "content": " ".join(rng.choices(WORDS, k=rng.randint(1, 4)))}],
            }
            for number in range(count)
        ]
        write_rows(folder / f"{split}.jsonl", rows)


def save_demonstrations(folder: Path, count: int = 12) -> Path:
    """Whatever is asked, the answer is `blue blue`."""
    rng = random.Random(1)
    asked = [" ".join(rng.choices(WORDS, k=rng.randint(1, 4))) for _ in range(count)]
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "blue blue"}]}
        for text in asked
    ]
    write_rows(folder / "train.jsonl", rows)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
