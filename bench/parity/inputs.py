"""The tiny model and the batches that both sides are given, drawn from one seed.

Models are policy folders as the product writes them, which transformers reads: what is trained (`policy`), what
sampled the rollouts (`old`), the frozen `reference`, and backbones of reward model and critics. Each is the one before
plus noise, so that ratios leave the clip range on both sides and no KL is near 0.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from rlhf.chat import Chat
from rlhf.models import Policy, new_policy
from rlhf.models.policy import save_policy
from rlhf.preferences import Labelled, mismatched

SEED = 7
WORDS = [f"w{number}" for number in range(40)]
PROMPT_LENGTHS, GROUP_SIZE = (6, 3, 5, 4), 4
RAGGED = (3, 7, 2, 5, 6, 4, 7, 1, 2, 2, 5, 3, 7, 6, 1, 4)
"""Lengths of the sampled completions, stop token included; those of the full 7 tokens were cut, unless all are."""


def main(folder: Path) -> None:
    """Write models, heads.safetensors and batches.json into `folder`."""
    chat = Chat.from_words(WORDS)
    draw = torch.Generator().manual_seed(SEED)
    start = new_policy(chat, SEED, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48, init_std=0.25)
    start.model.config.architectures = [type(start.model).__name__]  # by which TRL makes its reference model
    save_policy(start, folder / "reference")
    for name, scale in {"old": 0.02, "policy": 0.02, "reward": 0.05, "old_critic": 0.05, "critic": 0.02}.items():
        save_policy(moved(start, scale, draw), folder / name)
    heads = {name: torch.randn(32, generator=draw) / 4 for name in ("reward", "old_critic")}
    heads["critic"] = heads["old_critic"] + torch.randn(32, generator=draw) / 40
    save_file(heads, folder / "heads.safetensors")
    (folder / "batches.json").write_text(json.dumps(batches(chat, draw)), encoding="utf-8")


@torch.no_grad()
def moved(policy: Policy, scale: float, draw: torch.Generator) -> Policy:
    """The same policy object with noise added to every weight (each call goes on from the call before)."""
    for parameter in policy.model.parameters():
        parameter += scale * torch.randn(parameter.shape, generator=draw)
    return policy


def batches(chat: Chat, draw: torch.Generator) -> dict[str, Any]:
    """Token ids, labels and rewards. Rewards are eighths, which float32 holds exactly."""
    first, last = chat.vocab_size - len(WORDS), chat.vocab_size

    def words(count: int) -> list[int]:
        return torch.randint(first, last, (count,), generator=draw).tolist()

    def stopped(count: int) -> list[int]:
        return [*words(count - 1), chat.stop_id]

    def rollouts(lengths: tuple[int, ...], cut: int | None) -> dict[str, Any]:
        prompts = [[chat.bos_id, *words(length)] for length in PROMPT_LENGTHS]
        completions = [words(length) if length == cut else stopped(length) for length in lengths]
        rewards: Tensor = torch.randint(-8, 9, (len(lengths),), generator=draw) / 8
        rewards[GROUP_SIZE : 2 * GROUP_SIZE] = 0.5  # a group that has nothing to say
        return {"prompts": prompts, "completions": completions, "rewards": rewards.tolist(), "group_size": GROUP_SIZE}

    def pairs(sizes: list[tuple[int, int, int]]) -> list[dict[str, list[int]]]:
        """Of (words of the prompt, tokens of chosen, tokens of rejected)."""
        return [
            {"prompt": [chat.bos_id, *words(prompt)], "chosen": stopped(chosen), "rejected": stopped(rejected)}
            for prompt, chosen, rejected in sizes
        ]

    unpaired = [
        {"prompt": [chat.bos_id, *words(prompt)], "completion": stopped(completion), "label": label}
        for prompt, completion, label in [(5, 4, True), (3, 6, False), (6, 2, True), (4, 5, False), (7, 3, True)]
    ]
    width = max(RAGGED)
    return {
        "pad_id": chat.pad_id,
        "stop_id": chat.stop_id,
        "max_completion": width,
        "pairs": pairs([(5, 4, 6), (3, 7, 2), (6, 1, 3), (4, 5, 5), (7, 3, 6)]),
        "one_token_pairs": [
            {"prompt": [chat.bos_id, *words(length)], "chosen": words(1), "rejected": words(1)} for length in (5, 3, 6)
        ],
        "bare_pairs": pairs([(0, 4, 6), (0, 4, 2), (0, 4, 3)]),
        "unpaired": unpaired,
        "mismatched": mismatched_completions(unpaired),
        "ragged": rollouts(RAGGED, cut=width),
        "one_token": rollouts((1,) * len(RAGGED), cut=1),
        "one_length": rollouts((width,) * len(RAGGED), cut=None),
    }


def mismatched_completions(rows: list[dict[str, Any]]) -> list[list[int]]:
    """The completion that our KTO gives to each row's prompt; all prompts are different."""
    found = mismatched([Labelled(row["prompt"], row["completion"], row["label"]) for row in rows])
    by_prompt = {tuple(one.prompt_ids): one.completion_ids for one in found}
    return [by_prompt[tuple(row["prompt"])] for row in rows]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
