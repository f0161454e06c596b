"""Families of models through the training stages, in full and with adapters: two steps each, at a few thousand weights.

The table of docs/adapters.md comes from here:

    python -m tests.tasks.architectures --write
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.batching import collate
from rlhf.errors import PreflowError
from rlhf.models import Policy, RewardModel, adapt_policy, load_policy, save_policy, token_logprobs
from rlhf.records import Row, write_rows
from rlhf.rewards import Asked, Score, Scored
from rlhf.sampler import Completion, sample
from tasks import dpo, reward_model, rl, sft
from tasks import rewards as tasks_rewards
from tasks.config.algorithms.direct import Dpo
from tasks.config.algorithms.on_policy import Grpo, Ppo
from tasks.config.dpo import DirectAlignment
from tasks.config.generation import Generation
from tasks.config.reward_model import RewardModel as RewardModelConfig
from tasks.config.rl import Rl
from tasks.config.sft import Sft
from tasks.config.training import Training
from tasks.journal import Log
from tests.rlhf.tiny_models import ARCHITECTURES

PAGE = Path(__file__).parents[2] / "docs" / "adapters.md"
BEGIN, END = "<!-- architectures: begin -->", "<!-- architectures: end -->"
METHODS = {
    "full": Training(),
    "lora": Training(method="lora", rank=2, gradient_checkpointing=True),
    "qlora": Training(method="qlora", rank=2, optimizer="adamw_8bit", dtype="bfloat16"),
}
STAGES = ("sft", "rm", "ppo", "grpo", "dpo")
QUESTIONS = ["Say hello.", "What is your name?", "How are you today?", "Is the dog little?"]
GENERATION = Generation(max_new_tokens=12)
BATCH: dict[str, Any] = {"warmup_steps": 0, "max_batch_tokens": 2048}
RATE = 0.01


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def save_rows(folder: Path) -> None:
    """Demonstrations, pairs and prompts; nothing that a tiny model could learn in two steps."""
    answer = [{"role": "assistant", "content": "I am fine."}]
    shown: list[Row] = [{"id": text, "messages": [*asked(text), *answer]} for text in QUESTIONS]
    pairs: list[Row] = [
        {"id": f"{half} {text}", "group": text, "half": half, "messages": asked(text), "chosen": "I am fine.",
         "rejected": "The red ball."}
        for half in ("policy", "held_out") for text in QUESTIONS
    ]  # fmt: skip
    prompts = [{"id": f"{number}", "pool": "rl", "messages": asked(f"How is {number}?")} for number in range(64)]
    for split in ("train", "val", "eval"):
        write_rows(folder / f"demonstrations/{split}.jsonl", shown)
        write_rows(folder / f"pairs/{split}.jsonl", pairs)
        write_rows(folder / f"prompts/{split}.jsonl", prompts)


def run_sft(folder: Path, training: Training, out: Path) -> None:
    config = Sft(epochs=2, batch_size=4, lr=RATE, num_samples=2, **BATCH)
    sft.sft(
        config, generation=GENERATION, training=training, seed=0, demonstrations=folder / "demonstrations",
        base=folder / "base", out=out, scratch=out / "scratch", log=Log.null(),
    )  # fmt: skip


def run_reward_model(folder: Path, training: Training, out: Path) -> None:
    config = RewardModelConfig(epochs=2, batch_size=4, lr=RATE, head_lr=RATE, **BATCH)
    reward_model.reward_model(
        config, generation=Generation(max_new_tokens=32), training=training, seed=0, policy=folder / "sft/policy",
        prompts=folder / "prompts", pairs=folder / "pairs", out=out, scratch=out / "scratch", log=Log.null(),
    )  # fmt: skip


def run_rl(folder: Path, training: Training, out: Path, algorithm: Any) -> None:
    config = Rl(
        algorithm=algorithm.name, num_updates=2, val_every=2, num_val_prompts=4, select_best=False,
        allow_untrusted=True, final_lr_fraction=1.0, **BATCH,
    )  # fmt: skip
    rl.rl(
        config, generation=GENERATION, algorithm=algorithm, training=training, seed=0, policy=folder / "sft/policy",
        reference=folder / "sft/policy", prompts=folder / "prompts", reward_model=folder / "rm/policy_rm",
        held_out=folder / "rm/held_out_rm", out=out, scratch=out / "scratch", log=Log.null(),
    )  # fmt: skip


def run_dpo(folder: Path, training: Training, out: Path) -> None:
    config = DirectAlignment(epochs=2, batch_size=4, **BATCH)
    dpo.dpo(
        config, algorithm=Dpo(lr=RATE), training=training, seed=0, policy=folder / "sft/policy",
        pairs=folder / "pairs", out=out, scratch=out / "scratch", log=Log.null(),
    )  # fmt: skip


SMALL: dict[str, Any] = {"prompts_per_update": 4, "group_size": 2, "inner_steps": 1, "lr": RATE}
RUNS: dict[str, Callable[[Path, Training, Path], None]] = {
    "sft": run_sft,
    "rm": run_reward_model,
    "ppo": lambda folder, training, out: run_rl(folder, training, out, Ppo(value_lr=RATE, **SMALL)),
    "grpo": lambda folder, training, out: run_rl(folder, training, out, Grpo(**SMALL)),
    "dpo": run_dpo,
}


def batch_of(policy: Policy) -> Any:
    rows = [policy.chat.encode_prompt(asked(text)) for text in QUESTIONS]
    return collate([(ids, [False, *[True] * (len(ids) - 1)]) for ids in rows], policy.chat.pad_id)


@torch.no_grad()
def logprobs_of(policy: Policy) -> Tensor:
    return token_logprobs(policy.model, batch_of(policy))


def samples_of(policy: Policy) -> list[Completion]:
    prompts = [policy.chat.encode_prompt(asked(text)) for text in QUESTIONS]
    return sample(policy, prompts, max_new_tokens=8, temperature=1.0, group_size=2, seed=1)


def varied(*given: Any, **named: Any) -> Score:
    """The reward of the stage, and something of no meaning, so that completions that were cut off differ in worth."""
    build = tasks_rewards.build(*given, **named)

    def score(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Scored:
        scored = build(prompts, completions)
        return replace(scored, total=scored.total + torch.tensor([sum(one.ids) % 7 / 7 for one in completions]))

    return score


@contextmanager
def in_memory() -> Iterator[dict[Path, Any]]:
    """What models said just before stages saved them, by the folder they went to."""
    said: dict[Path, Any] = {}

    def saving(policy: Policy, folder: Path) -> None:
        said[folder] = (logprobs_of(policy), samples_of(policy))
        save_policy(policy, folder)

    save = RewardModel.save

    def saving_scores(model: RewardModel, folder: Path) -> None:
        with torch.no_grad():
            said[folder] = model(batch_of(model.policy))
        save(model, folder)

    with pytest.MonkeyPatch.context() as patch:
        for stage in (sft, rl, dpo):
            patch.setattr(stage, "save_policy", saving)
        patch.setattr(RewardModel, "save", saving_scores)
        patch.setattr(rl, "build", varied)
        yield said


def check(folder: Path, stage: str, said: Mapping[Path, Any], start: Policy) -> None:
    """What was saved is what was in memory, and two steps away from what it started from."""
    if stage == "rm":
        for name in ("policy_rm", "held_out_rm"):
            loaded = RewardModel.load(folder / "rm" / name)
            with torch.no_grad():
                assert torch.equal(loaded(batch_of(loaded.policy)), said[folder / "rm" / name]), f"{name}: other scores"
        return
    policy = load_policy(folder / stage / "policy")
    logprobs, samples = said[folder / stage / "policy"]
    assert torch.equal(logprobs_of(policy), logprobs), f"{stage}: reloaded, log-probabilities differ"
    assert samples_of(policy) == samples, f"{stage}: reloaded, samples differ"
    assert not torch.allclose(logprobs, logprobs_of(start), atol=1e-4), f"{stage}: nothing was learnt"


def outcomes(architecture: str, method: str, folder: Path) -> dict[str, str]:
    """What became of each stage: "yes", or why it was refused."""
    ARCHITECTURES[architecture](folder / "checkpoint")
    save_policy(adapt_policy(folder / "checkpoint", seed=0), folder / "base")
    save_rows(folder)
    found = {}
    with in_memory() as said:
        for stage in STAGES:
            (folder / stage / "scratch").mkdir(parents=True)
            try:
                RUNS[stage](folder, METHODS[method], folder / stage)
            except PreflowError as error:
                found[stage] = str(error)
                continue
            start = load_policy(folder / ("base" if stage == "sft" else "sft/policy"))
            check(folder, stage, said, start)
            found[stage] = "yes"
    return found


def table() -> str:
    """One row an architecture and method, one column a stage."""
    lines = ["| model | method | " + " | ".join(STAGES) + " |", "|---|---|" + "---|" * len(STAGES)]
    for architecture in ARCHITECTURES:
        for method in METHODS:
            with tempfile.TemporaryDirectory() as folder:
                found = outcomes(architecture, method, Path(folder))
            lines.append(f"| {architecture} | {method} | " + " | ".join(found[stage] for stage in STAGES) + " |")
    return "\n".join(lines)


def write() -> None:
    """Put the table into the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
