"""Rewards that are rules: right or wrong, in the asked form or not, how it sounds, too long, never finished.

Each is on a scale of its own (said in its docstring); the weight in `compose` brings it to that of the others.
"""

import math
import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlhf.parallel import in_parallel
from rlhf.rewards.base import Asked, Component
from rlhf.sampler import Completion
from rlhf.sentiment import Lexicon, compound
from rlhf.verifiers import check_of
from rlhf.verifiers.patterns import found, refuse_unreadable

Decode = Callable[[Sequence[int]], str]
"""Token ids to text without control tokens (`Chat.decode`)."""


def verifier(decode: Decode, name: str | None = None) -> Component:
    """1 where a finished completion is right, else 0 (RLHF book, chapter 7: rewards that can be verified).

    `name` is a verifier of `rlhf.verifiers`; without one each prompt's own counts. A completion that was cut off has
    given no answer: 0; NaN where nobody can say. Raises PreflowError where a prompt says too little to be verified.
    """

    def component(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Tensor:
        checks = {index: check_of(prompts[index].meta, name) for index in {one.prompt_index for one in completions}}

        def right(one: Completion) -> bool | None:
            return one.stop_reason == "stop" and checks[one.prompt_index](decode(one.ids))

        # Programs are run, each in a process of its own: as many as there are cores for us.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return _as_tensor(in_parallel(right, completions, cores))

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
    off has no form yet: 0; NaN where the pattern takes too long to tell. Raises PreflowError where it is none.
    """
    refuse_unreadable([pattern], "format_pattern")

    def component(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Tensor:
        fits = iter(found([pattern], [decode(one.ids) for one in completions if one.stop_reason == "stop"], whole=True))
        return _as_tensor([next(fits) if one.stop_reason == "stop" else False for one in completions])

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


def _as_tensor(verdicts: Sequence[bool | None]) -> Tensor:
    return torch.tensor([math.nan if verdict is None else float(verdict) for verdict in verdicts])
