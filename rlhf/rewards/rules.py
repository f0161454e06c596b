"""Rewards that are rules: right or wrong, in the asked form or not, how it sounds, too long, never finished.

Each is on a scale of its own (said in its docstring); the weight in `compose` brings it to that of the others.
"""

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from rlhf.errors import PreflowError
from rlhf.rewards.base import Asked, Component
from rlhf.sampler import Completion
from rlhf.sentiment import Lexicon, compound
from rlhf.verifiers import check_of

Decode = Callable[[Sequence[int]], str]
"""Token ids to text without control tokens (`Chat.decode`)."""


def verifier(decode: Decode, name: str | None = None) -> Component:
    """1 where a finished completion is right, else 0 (RLHF book, chapter 7: rewards that can be verified).

    `name` is a verifier of `rlhf.verifiers`; without one each prompt's own counts. A completion that was cut off has
    given no answer: 0. Raises PreflowError where a prompt says too little to be verified.
    """

    def component(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Tensor:
        checks = {index: check_of(prompts[index].meta, name) for index in {one.prompt_index for one in completions}}

        def right(one: Completion) -> bool:
            return one.stop_reason == "stop" and checks[one.prompt_index](decode(one.ids))

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # programs are run, each in a process of its own
            return torch.tensor([float(verdict) for verdict in pool.map(right, completions)])

    return component


def sentiment(decode: Decode, lexicon: Lexicon) -> Component:
    """How positive a completion sounds by itself, −1 to 1 (`rlhf.sentiment`).

    The prompt is not looked at. A completion that was cut off is scored as far as it goes: a story need not be over to
    be a happy one.
    """

    def component(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Tensor:
        return torch.tensor([compound(decode(one.ids), lexicon) for one in completions], dtype=torch.float32)

    return component


def form(decode: Decode, pattern: str) -> Component:
    """1 where a finished completion has, as a whole, the form of the regular expression `pattern`, else 0.

    For example `<think>.*</think>.*` (DeepSeek-R1, 2501.12948); the dot takes line breaks. A completion that was cut
    off has no form yet: 0. Raises PreflowError where the pattern is none.
    """
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise PreflowError(f"format_pattern {pattern!r} is no regular expression: {error}") from None

    def component(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Tensor:
        fits = [one.stop_reason == "stop" and compiled.fullmatch(decode(one.ids)) is not None for one in completions]
        return torch.tensor(fits, dtype=torch.float32)

    return component


def length(budget: int) -> Component:
    """−max(0, tokens − budget), the stop token counted.

    With budget L_max − L_cache and weight 1/L_cache this is the soft overlong penalty of DAPO (2503.14476), which
    reaches −1 at L_max.
    """

    def component(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Tensor:
        return torch.tensor([-float(max(0, len(one.ids) - budget)) for one in completions])

    return component


def missing_stop(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Tensor:
    """−1 where a completion was cut off, else 0."""
    return torch.tensor([-float(one.stop_reason != "stop") for one in completions])
