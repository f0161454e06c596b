"""A policy as others load it: plain Hugging Face folders, and what they must do once they are loaded again.

A policy of adapters is written as two folders, of which the first is a whole model and PEFT lays the second over it:

    base/      the model below the adapters, with the rows of the control tokens that were trained
    adapter/   all adapters as one. They add up, so their A stand below each other and their B side by side:
               Σ_i (α_i/r_i) B_i A_i = [α_1/r_1 B_1, α_2/r_2 B_2, …] [A_1; A_2; …]
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.chat import Chat, Message
from rlhf.errors import PreflowError
from rlhf.models import Policy, merged, save_policy
from rlhf.models.adapted import Adapted
from rlhf.models.adapter_files import write_adapter
from rlhf.models.adapters import Adapter, Shape
from rlhf.models.policy import load_base
from rlhf.models.pretrained import room
from rlhf.sampler import sample

PROBES = (
    "Hello!",
    "What is the capital of France?",
    "Write one sentence about a small dog.\nThen write another one.",
)
ANSWER = "That is a good question."
TOKENS = 24
"""Greedy tokens that are compared for each conversation, or as many as a small model has room for."""


def is_adapted(policy: Policy) -> bool:
    """Whether it has adapters."""
    return isinstance(policy.model, Adapted)


def write_model(policy: Policy, folder: Path) -> Policy:
    """One model, adapters merged into it: weights, tokenizer, template, generation config; gives what was written."""
    whole = merged(policy)
    save_policy(whole, folder)
    return whole


def write_base_and_adapter(policy: Policy, folder: Path) -> int:
    """`folder`/base and `folder`/adapter of a policy with adapters; gives the rank of the one adapter."""
    adapters: Sequence[Adapter] = policy.model.adapters
    base = load_base(replace(policy.model.base.origin, quantised=False))
    with torch.no_grad():
        for path, rows in adapters[-1].rows.items():
            matrix = base.matrices[path]
            matrix[adapters[-1].ids] = rows.to(matrix)
    save_policy(Policy(base.model, policy.chat), folder / "base")
    rank = sum(adapter.shape.rank for adapter in adapters)
    targets = sorted({name for adapter in adapters for name in adapter.shape.targets})
    write_adapter(folder / "adapter", Shape(rank, rank, 0.0, tuple(targets), ()), {}, as_one(adapters))
    return rank


def as_one(adapters: Sequence[Adapter]) -> dict[str, Tensor]:
    """The tensors of one adapter of weight α/r = 1 that does what these do together, by PEFT's names.

    Where one of them leaves a layer alone it has zeros, so that all layers have the same rank.
    """
    shapes = {
        name.removesuffix(".lora_A.weight"): (one.weights[name].shape[1], one.weights[_b(name)].shape[0])
        for one in adapters
        for name in one.weights
        if name.endswith(".lora_A.weight")
    }
    found = {}
    for layer, (inputs, outputs) in sorted(shapes.items()):
        halves = [_halves(adapter, layer, inputs, outputs) for adapter in adapters]
        found[f"base_model.model.{layer}.lora_A.weight"] = torch.cat([a for a, _ in halves])
        found[f"base_model.model.{layer}.lora_B.weight"] = torch.cat([b for _, b in halves], dim=1)
    return found


def _halves(adapter: Adapter, layer: str, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """A [rank, in] and α/r B [out, rank] of one layer."""
    name, rank = f"{layer}.lora_A.weight", adapter.shape.rank
    if name not in adapter.weights:
        return torch.zeros(rank, inputs), torch.zeros(outputs, rank)
    return adapter.weights[name].detach().cpu(), adapter.shape.alpha / rank * adapter.weights[_b(name)].detach().cpu()


def _b(name: str) -> str:
    return name.replace("lora_A", "lora_B")


def expectations(policy: Policy, own: Sequence[Sequence[Message]] = ()) -> dict[str, Any]:
    """What `rlhf.export_check` compares: for a few conversations the prompt's ids and the greedy answer to them.

    `own` are prompts that the policy knows, which join the `probes`. `nf4` is the precision that a base in 4 bits
    computes in, "" where there is none. Raises PreflowError where the model has no room for a question and an answer.
    """
    asked = [*probes(policy.chat), *(messages for messages in own if policy.chat.knows(messages))]
    conversations = [(messages, policy.chat.encode_prompt(messages)) for messages in asked]
    positions, shortest = room(policy.model), min(len(ids) for _, ids in conversations)
    tokens = min(TOKENS, positions - shortest)
    if tokens < 1:
        raise PreflowError(
            f"the model has room for {positions} tokens and the shortest question to check it with makes {shortest}, "
            "which leaves none for an answer: export a policy with more positions"
        )
    fitting = [(messages, ids) for messages, ids in conversations if len(ids) + tokens <= positions]
    answers = sample(policy, [ids for _, ids in fitting], max_new_tokens=tokens, temperature=0.0, group_size=1, seed=0)
    cases = [
        {"messages": messages, "ids": ids, "greedy": answer.ids, "text": _as_read(policy.chat, answer.ids)}
        for (messages, ids), answer in zip(fitting, answers, strict=True)
    ]
    origin = policy.model.base.origin if is_adapted(policy) else None
    return {"cases": cases, "tokens": tokens, "nf4": origin.dtype if origin and origin.quantised else ""}


def _as_read(chat: Chat, ids: Sequence[int]) -> str:
    """The text as tokenizers of transformers show it, which count the unknown word among the special tokens."""
    return chat.decode([token_id for token_id in ids if token_id != chat.unk_id])


def probes(chat: Chat) -> list[Sequence[Message]]:
    """Ordinary conversations of one to three turns, with and without a system message where the template has one."""
    asked: list[Sequence[Message]] = [[_said("user", text)] for text in PROBES]
    asked.append([_said("user", PROBES[0]), _said("assistant", ANSWER), _said("user", PROBES[1])])
    asked.append([*asked[-1], _said("assistant", ANSWER), _said("user", PROBES[2])])
    if "system" in chat.roles:
        asked += [[_said("system", "Answer in one sentence."), *messages] for messages in (asked[0], asked[-1])]
    return [messages for messages in asked if chat.knows(messages)]


def _said(role: str, content: str) -> Message:
    return {"role": role, "content": content}
