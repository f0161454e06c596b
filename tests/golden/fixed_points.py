"""Where each way of learning ends, from its exact expected gradient: no sampling, and no code of the library.

By the policy-gradient theorem, with samples held fixed, the expected gradient by the logit of token a after prefix s is

    d(s) π(a|s) [q(s, a) − Σ_b π(b|s) q(s, b)],   q(s, a) = E[A(y) | s, a] − β g(Δ(s, a)),   Δ = log π − log π_ref,

where A is what the whole sentence is credited with, and g is what the KL estimate of the token itself adds once it is
differentiated: d k1 = 1, d k2 = Δ, d k3 = 1 − exp(−Δ) times ∇ log π. A fixed point is where all brackets are 0.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from tests.golden.language import Language, log_table

Kl = Literal["reward", "k1", "k2", "k3", "k2 in reward", "k3 in reward", "none"]
"""`reward` is k1 in the reward; k1, k2 and k3 alone are in the loss."""
Credit = Callable[[Tensor, Tensor], Tensor]
"""(π(y), R(y)) to A(y), all flat."""

SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": torch.ones_like,
    "k2": lambda delta: delta,
    "k3": lambda delta: 1.0 - (-delta).exp(),
}
VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "reward": lambda delta: delta,
    "k2 in reward": lambda delta: delta**2 / 2,
    "k3 in reward": lambda delta: (-delta).exp() - 1 + delta,
}


def plain(table: Tensor, objective: Tensor) -> Tensor:
    """Any baseline: it has no expected gradient."""
    return objective


def standardised(table: Tensor, objective: Tensor) -> Tensor:
    """(R − mean) / (std + 1e-4) in a large group."""
    mean = (table * objective).sum()
    return (objective - mean) / ((table * (objective - mean) ** 2).sum().sqrt() + 1e-4)


def of_two(table: Tensor, objective: Tensor) -> Tensor:
    """The mean over the other one of a group of two: (R − R')/2 over (|R − R'|/2 + 1e-4), so little but the sign."""
    half = (objective[:, None] - objective[None, :]) / 2
    return (table * half / (half.abs() + 1e-4)).sum(-1)


def centred_of_two(table: Tensor, objective: Tensor) -> Tensor:
    """R − (R + R')/2: centring within a group of G takes a G-th of the reward away."""
    return objective / 2


def gradient(conditionals: list[Tensor], language: Language, beta: float, kl: Kl, credit: Credit) -> list[Tensor]:
    """The brackets above, for every place: shaped as the conditionals."""
    deltas = [here - logits.double().log_softmax(-1) for here, logits in zip(conditionals, language.logits)]
    log_probabilities = log_table(conditionals)
    objective = language.rewards.double()
    if kl.endswith("reward"):
        objective = objective - beta * log_table([VALUES[kl](delta) for delta in deltas])  # a sum over places
    credited = credit(log_probabilities.exp().flatten(), objective.flatten()).view(objective.shape)
    brackets = []
    for place in reversed(range(len(conditionals))):
        q = credited - beta * SLOPES[kl](deltas[place]) if kl in SLOPES else credited
        chances = conditionals[place].exp()
        brackets.append(q - (chances * q).sum(-1, keepdim=True))
        credited = (chances * credited).sum(-1)  # E[A | the tokens before this place]
    return brackets[::-1]


def fixed_point(language: Language, beta: float, kl: Kl, credit: Credit) -> Tensor:
    """π [4] * L where the exact expected gradient ends, from the reference: all brackets 0, or one sentence alone.

    Ascent by the brackets themselves (the natural gradient of a table). Raises ValueError where it has not settled.
    """
    logits = [logits.double() for logits in language.logits]
    for _ in range(4000):
        conditionals = [each.log_softmax(-1) for each in logits]
        brackets = gradient(conditionals, language, beta, kl, credit)
        alone = log_table(conditionals).max() > math.log(0.99999)
        if alone or max(bracket.abs().max().item() for bracket in brackets) < 1e-10:
            break
        logits = [each + 0.05 / max(beta, 0.1) * bracket for each, bracket in zip(conditionals, brackets)]
    table = log_table(conditionals).exp()
    if max(bracket.abs().max().item() for bracket in brackets) > 1e-6 and table.max() < 0.9999:
        raise ValueError(f"no fixed point after 4000 steps: gradient still {brackets}")
    return table
