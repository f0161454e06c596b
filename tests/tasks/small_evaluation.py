"""Tiny policies, reward models and prompts for the tests of the evaluation, and the stage as they run it."""

import json
from pathlib import Path
from typing import Any

from rlhf.chat import Chat
from rlhf.models import RewardModel, new_policy, save_policy
from rlhf.records import write_rows
from tasks import champion as champions
from tasks.config.evaluate import Evaluate
from tasks.config.generation import Generation
from tasks.evaluate import evaluate
from tasks.journal import Log

CONFIG = Evaluate(
    samples_per_prompt=2,
    best_of_n=[1, 2, 4],
    best_of_n_prompts=4,
    bootstrap_samples=200,
)
GENERATION = Generation(max_new_tokens=6)
WORDS = ["good", "evening,", "anna,", "welcome", "to", "the", "beach.", "red", "blue", "green"]
META = {"kind": "greet", "args": {"name": "anna", "time": "evening", "place": "beach"}}
FIELDS = ("gold_reward", "reward", "win_rate_vs_sft", "kl", "length", "stop_rate")


def make_policy(folder: Path, seed: int, words: list[str] = WORDS) -> Path:
    model = new_policy(
        Chat.from_words(words), seed, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, init_std=0.3
    )
    save_policy(model, folder)
    return folder


def make_prompts(folder: Path, split: str, meta: dict[str, Any], count: int = 6) -> Path:
    rows = [
        {"id": f"{split}{number}", "messages": [{"role": "user", "content": WORDS[number]}], "meta": meta}
        for number in range(count)
    ]
    write_rows(folder / f"{split}.jsonl", rows)
    return folder


def make_world(root: Path, meta: dict[str, Any]) -> dict[str, Path]:
    """Everything the stage reads. `dpo` is SFT itself, so that its figures are known."""
    seeds = {"base": 1, "sft": 2, "rejection_sampling": 3, "rl": 4, "dpo": 2}
    given = {name: make_policy(root / name, seed) for name, seed in seeds.items()}
    for name, seed in (("policy_rm", 8), ("held_out_rm", 9)):
        small = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32}
        RewardModel(new_policy(Chat.from_words(WORDS), seed, init_std=0.3, **small), seed).save(root / name)
        given[name] = root / name
    given["prompts"] = make_prompts(root / "prompts", "val", meta)
    given["eval_prompts"] = make_prompts(root / "eval", "eval", meta)
    talk = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "blue green"}]
    write_rows(root / "demonstrations" / "val.jsonl", [{"id": str(number), "messages": talk} for number in range(3)])
    champions.write_none(root / "champion")
    return given | {"demonstrations": root / "demonstrations", "champion": root / "champion"}


def run(
    given: dict[str, Path], out: Path, config: Evaluate = CONFIG, log: Log | None = None, shared: Path | None = None
) -> dict[str, Any]:
    """All that is given and no model of the stage's own is a policy; `shared` None starts from an empty folder."""
    policies = {name: folder for name, folder in given.items() if name in ("rejection_sampling", "rl", "dpo")}
    others: dict[str, Any] = {name: folder for name, folder in given.items() if name not in policies}
    shared = shared or out.parent / f"{out.name}-shared"
    shared.mkdir(parents=True, exist_ok=True)
    evaluate(
        config, generation=GENERATION, seed=0, policies=policies, **others, out=out, shared=shared,
        log=log or Log.null(),
    )  # fmt: skip
    scores: dict[str, Any] = json.loads((out / "scores.json").read_text("utf-8"))
    return scores
