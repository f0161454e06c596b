"""What a kind of instruction is. `copying` and `knowing` hold the kinds themselves."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Args = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of instruction, as four functions over its arguments (a plain dict that travels in a row's `meta`)."""

    draw: Callable[[random.Random], Args]
    """Arguments of a new instruction."""
    prompts: Callable[[Args], list[str]]
    """Ways to ask."""
    answers: Callable[[Args], list[str]]
    """Every right answer."""
    mistake: Callable[[Args, random.Random], str]
    """A typical wrong answer; its error can be seen in its words."""


def another(rng: random.Random, pool: tuple[str, ...], *not_these: str) -> str:
    """A word of the pool other than those named."""
    return rng.choice([word for word in pool if word not in not_these])
