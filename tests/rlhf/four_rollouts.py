"""Four completions with every number chosen, and algorithms built as the configuration says."""

import inspect
from typing import Any

import torch
from torch import Tensor

from rlhf.algorithms import ALGORITHMS, Algorithm, Experience, Rollouts
from rlhf.batching import Batch
from tasks.config.params import Algorithms

LENGTHS = [3, 1, 2, 4]
MASK = (torch.arange(6) >= 1) & (torch.arange(6) < 1 + torch.tensor(LENGTHS)[:, None])
"""One token of prompt, then the completion, then padding."""
OLD = torch.tensor(
    [[0, -0.5, -1.0, -1.5, 0, 0], [0, -2.0, 0, 0, 0, 0], [0, -0.25, -0.75, 0, 0, 0], [0, -1.0, -1.0, -1.0, -1.0, 0]]
)
DELTA = torch.tensor(
    [[0, 0.1, 0.2, -0.3, 0, 0], [0, 0.4, 0, 0, 0, 0], [0, -0.2, 0.5, 0, 0, 0], [0, 0.1, 0.1, 0.1, 0.3, 0]]
)
"""log π − log π_ref of each token; 0, 0.4, 0.3 and 0.6 of the completions."""
CLIPS = {"clip_low": 0.2, "clip_high": 0.2}


def rollouts(rewards: tuple[float, ...] = (1.0, 3.0, 2.0, 8.0), group_size: int = 2, values: float = 0.25) -> Rollouts:
    ids = torch.arange(24).view(4, 6)
    return Rollouts(
        batch=Batch(ids, torch.arange(6) < 1 + torch.tensor(LENGTHS)[:, None], MASK),
        old_logprobs=OLD,
        ref_logprobs=OLD - DELTA,
        rewards=torch.tensor(rewards),
        stopped=torch.ones(4, dtype=torch.bool),
        group_size=group_size,
        values=values * MASK,
    )


def build(name: str, **knobs: Any) -> Algorithm:
    """With the knobs of the configuration."""
    return ALGORITHMS[name](**{**getattr(Algorithms(), name).knobs(), "fixed_length": 5, **knobs})


def with_kl(name: str) -> bool:
    return "kl_in" in inspect.signature(ALGORITHMS[name]).parameters


def by_completion(experience: Experience) -> Tensor:
    """Advantages [B] that are the same on all tokens of a completion and 0 elsewhere."""
    first = experience.advantages[:, 1]
    assert torch.equal(experience.advantages, first[:, None] * MASK)
    return first


def gradient(
    algorithm: Algorithm, experience: Experience, logprobs: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    logprobs = logprobs.clone().requires_grad_()
    losses, metrics = algorithm.loss(experience, logprobs, experience.old_values)
    assert losses.shape == (4,)
    assert all(not values.requires_grad and values.dim() == 1 for values in metrics.values())
    return losses.detach(), torch.autograd.grad(losses.sum(), logprobs)[0], metrics
