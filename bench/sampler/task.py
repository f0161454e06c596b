"""What both sides are given: a model, 64 prompts, and completions whose lengths are uneven and alike on both sides."""

import random
from dataclasses import dataclass

import torch

from bench.sentiment.task import model_folder
from bench.speed.cells import TINY
from rlhf.chat import Chat
from rlhf.models import Policy, adapt_policy, new_policy
from rlhf.sampler import sample

SEED = 5
MODELS = ("tiny", "stories3M")
PROMPTS, GROUP, NEW_TOKENS = 64, 8, 128
SHORTEST, LONGEST = 4, 32
"""Tokens of a prompt."""
STOP_SCALE = 6.0
"""By what the tiny model's embedding of the stop token is multiplied, so that it is likely now and then."""
NEWLINE = "<0x0A>"
"""A completion of stories3M ends with its paragraph."""


@dataclass(frozen=True)
class Task:
    """A policy that can stop, and the prompts it is asked to go on with."""

    policy: Policy
    prompts: list[list[int]]


def task(model: str) -> Task:
    """The task of one of MODELS; the same in every process."""
    lengths = random.Random(SEED)
    sizes = [lengths.randint(SHORTEST, LONGEST) for _ in range(PROMPTS)]
    return _tiny(sizes) if model == "tiny" else _stories(sizes)


def _tiny(sizes: list[int]) -> Task:
    controls = Chat.from_words([]).vocab_size
    chat = Chat.from_words([f"w{number}" for number in range(TINY.vocab - controls)])
    policy = new_policy(
        chat, SEED, hidden_size=TINY.hidden, num_layers=TINY.layers, num_heads=TINY.heads,
        intermediate_size=TINY.intermediate, max_tokens=TINY.positions, init_std=TINY.init_std,
    )  # fmt: skip
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[chat.stop_id] *= STOP_SCALE
    words = random.Random(SEED)
    return Task(policy, [[words.randrange(controls, TINY.vocab) for _ in range(size)] for size in sizes])


def _stories(sizes: list[int]) -> Task:
    """Prompts are the beginnings of stories that the model tells; a stop token past the vocabulary never comes."""
    policy = adapt_policy(model_folder(), seed=SEED)
    policy.chat.stop_id = policy.chat.vocab_size
    begun = sample(
        policy, [[policy.chat.bos_id]], max_new_tokens=LONGEST, temperature=1.0, group_size=PROMPTS, seed=SEED
    )
    policy.chat.stop_id = policy.chat.tokenizer.token_to_id(NEWLINE)
    prompts = [[policy.chat.bos_id, *one.ids][:size] for one, size in zip(begun, sizes, strict=True)]
    return Task(policy, prompts)
