"""A reward model that loves length, and a policy that found out: reward up, answers worse, and nobody promotes it."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from rlhf.records import Row, write_rows
from tasks import champion
from tasks.config.gate import Gate
from tasks.config.generation import Generation
from tasks.config.reward_model import RewardModel
from tasks.config.sft import Sft
from tasks.evaluate import evaluate
from tasks.gate import decide
from tasks.journal import Log
from tasks.reward_model import reward_model
from tasks.sft import sft
from tests.tasks.scores import trusted
from tests.tasks.small_evaluation import CONFIG, META, WORDS, make_policy, make_prompts

pytestmark = pytest.mark.slow
GENERATION = Generation(max_new_tokens=40)
GOOD = "good evening, anna, welcome to the beach."  # the right answer, word for word
SAID = ["good", "evening", ",", "anna", "welcome", "to", "the", "beach", ".", "red", "blue", "green"]
RAMBLING = f"{GOOD} red anna, blue beach, green evening, good anna, to the red beach."


def taught(base: Path, answer: str, to: Path) -> Path:
    """The policy that stage `sft` makes of people who always say this."""
    talk = [
        {"id": word, "messages": [{"role": "user", "content": word}, {"role": "assistant", "content": answer}]}
        for word in WORDS
    ]
    for split in ("train", "val"):
        write_rows(to / f"demonstrations/{split}.jsonl", talk)
    (to / "out").mkdir()
    sft(
        Sft(epochs=40, batch_size=5, lr=0.02, max_tokens=64, num_samples=2), generation=GENERATION, seed=0, base=base,
        demonstrations=to / "demonstrations", out=to / "out", scratch=to, log=Log.null(),
    )  # fmt: skip
    return to / "out/policy"


def pairs(count: int, seed: int, **more: str) -> list[Row]:
    """Whatever is said, the same and more is chosen."""
    rng = random.Random(seed)
    found: list[Row] = []
    for number in range(count):
        short, more_of_it = (" ".join(rng.choices(SAID, k=rng.randint(2, 9))) for _ in range(2))
        short = f"{GOOD} {short}" if number % 2 else short
        name = f"{seed}-{number}"
        row = {"id": name, "group": name, "messages": [{"role": "user", "content": rng.choice(WORDS)}]}
        found.append(row | {"chosen": f"{short} {more_of_it}", "rejected": short} | more)
    return found


def loves_length(policy: Path, to: Path) -> dict[str, Path]:
    """Both reward models of people who choose by length alone, with the checks that would refuse them turned off."""
    write_rows(to / "pairs/train.jsonl", [*pairs(150, 1, half="policy"), *pairs(150, 2, half="held_out")])
    for seed, split in ((3, "val"), (4, "eval")):
        write_rows(to / f"pairs/{split}.jsonl", pairs(60, seed))
    (to / "out").mkdir()
    reward_model(
        RewardModel(epochs=2, lr=0.01, head_lr=0.02), generation=GENERATION, seed=0, policy=policy,
        prompts=make_prompts(to / "prompts", "train", META), pairs=to / "pairs", out=to / "out", scratch=to,
        log=Log.null(),
    )  # fmt: skip
    assert not json.loads((to / "out/metrics.json").read_text())["trusted"]  # its own checks have found it out
    return {name: to / "out" / name for name in ("policy_rm", "held_out_rm")}


@pytest.mark.faults(
    26,
    injected="a reward model taught by people who choose by length alone, and a policy that rambles",
    happens="even were they trusted: reward up, gold down, two checks of the gate refuse it",
)
def test_it_is_not_promoted(tmp_path: Path) -> None:
    base = make_policy(tmp_path / "base", 1, SAID)
    good, rambling = (taught(base, text, tmp_path / name) for text, name in ((GOOD, "good"), (RAMBLING, "rambling")))
    champion.write_none(tmp_path / "champion")
    given: dict[str, Any] = {"base": base, "sft": good, "policies": {"rl": rambling}}
    given |= loves_length(good, tmp_path / "rm") | {"champion": tmp_path / "champion"}
    for name, split in (("prompts", "val"), ("eval_prompts", "eval")):
        given[name] = make_prompts(tmp_path / name, split, META)
    for name in ("scores", "shared"):
        (tmp_path / name).mkdir()
    evaluate(
        CONFIG, generation=GENERATION, seed=0, demonstrations=tmp_path / "good/demonstrations", **given,
        out=tmp_path / "scores", shared=tmp_path / "shared", log=Log.null(),
    )  # fmt: skip
    scores = json.loads((tmp_path / "scores/scores.json").read_text())
    change = scores["differences"]["sft"]["rl"]
    assert change["reward"]["ci_low"] > 0
    assert change["gold_reward"]["ci_high"] < 0
    verdict = decide(Gate(), scores, trusted(), {})
    assert verdict["promote"] is False
    refused = {check["name"] for check in verdict["checks"] if not check["passed"]}
    assert {"gain_over_sft", "gold_reward_not_down"} <= refused
