"""PPO-ptx: demonstrations learnt beside the reward, so that what they teach is not forgotten.

    loss = loss of the rollouts + ptx_coef · (−1/N) Σ_{t ∈ answers} log π(x_t | x_<t)

with N the answer tokens of this step's demonstrations and π at temperature 1, whatever that of the rollouts is
(InstructGPT, 2203.02155, equation 2; RLHF book, chapter 15).
Differs from the paper: demonstrations take the place of pretraining text, and the mean is over tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlhf.batching import Batch, collate
from rlhf.cutting import micro_batches
from rlhf.epochs import rows_at
from rlhf.seeding import derive


@dataclass(frozen=True)
class Demonstrations:
    """Some demonstrations of one optimiser step, as a micro-batch beside those of the rollouts."""

    batch: Batch
    scale: float
    """What the sum of their −log π is multiplied by. It undoes the rollouts' denominator, by which `fit` divides all
    sums of a step, and puts their own in its place."""


def demonstrations_at(
    sequences: Sequence[tuple[Sequence[int], Sequence[bool]]],
    *,
    ptx_coef: float,
    batch_size: int,
    pad_id: int,
    max_tokens: int,
    seed: int,
) -> Callable[[int, float], list[Demonstrations]]:
    """(optimiser step, denominator of its rollouts) to the micro-batches of its demonstrations.

    `sequences` are (token ids, loss mask). Each pass over them takes every one once, in an order of its own.
    """

    def at(step: int, denominator: float) -> list[Demonstrations]:
        chosen = [sequences[row] for row in rows_at(step, len(sequences), batch_size, derive(seed, "ptx"))]
        scale = ptx_coef * denominator / sum(sum(mask) for _, mask in chosen)
        parts = micro_batches([len(ids) for ids, _ in chosen], max_tokens)
        return [Demonstrations(collate([chosen[row] for row in part], pad_id), scale) for part in parts]

    return at
