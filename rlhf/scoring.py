"""One number a completion from a model: length-sorted micro-batches, equal texts once, and the reward of cut ones."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from rlhf.batching import Batch, collate
from rlhf.chat import Chat
from rlhf.cutting import micro_batches
from rlhf.spending import spent

Ids = Sequence[int]


class Scorer(Protocol):
    """A reward model, or several as one."""

    chat: Chat

    def __call__(self, batch: Batch) -> Tensor:
        """Scores [B]."""
        ...


@spent("score")
@torch.no_grad()
def by_batch(
    function: Callable[[Batch], Tensor], texts: Sequence[tuple[Ids, Ids]], pad_id: int, max_tokens: int
) -> Tensor:
    """`function` of (prompt ids, completion ids), one number each, [B] in the order given."""
    keys = [(tuple(prompt), tuple(completion)) for prompt, completion in texts]
    unique = list(dict.fromkeys(keys))
    sequences = [([*prompt, *ids], [False] * len(prompt) + [True] * len(ids)) for prompt, ids in unique]
    place: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    parts: list[Tensor] = []
    prompts = [prompt for prompt, _ in unique]
    for rows in micro_batches([len(ids) for ids, _ in sequences], max_tokens, prompts):
        for row in rows:
            place[unique[row]] = len(place)
        parts.append(function(collate([sequences[row] for row in rows], pad_id)))
    return torch.cat(parts)[torch.tensor([place[key] for key in keys])]


def rewards_of(
    reward_model: Scorer,
    texts: Sequence[tuple[Ids, Ids]],
    stopped: Sequence[bool],
    unfinished_reward: float,
    max_tokens: int,
) -> Tensor:
    """Normalised rewards [B] of (prompt ids, completion ids); `unfinished_reward` where a completion was cut off.

    A reward model reads the stop token and has never seen a completion without one: its score of such text is noise.
    """
    scores = by_batch(reward_model, texts, reward_model.chat.pad_id, max_tokens)
    return torch.where(torch.tensor(stopped), scores, unfinished_reward)
