"""Supervised training of a policy on token sequences: the loop that pretraining, SFT and rejection sampling share."""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from rlhf.batching import Batch, collate
from rlhf.checkpoints import Checkpoints
from rlhf.cutting import micro_batches, two_micro_batches
from rlhf.epochs import epoch_batches, num_steps
from rlhf.losses.supervised import completion_nll
from rlhf.models import Policy, token_logprobs
from rlhf.optimizer import OptimizerSettings
from rlhf.spending import spent
from rlhf.trainer import FitResult, Metrics, Progress, StepBatch, fit

Sequences = Sequence[tuple[Sequence[int], Sequence[bool]]]
"""(token ids, loss mask) of each row."""


def fit_supervised(
    policy: Policy,
    sequences: Sequences,
    *,
    epochs: int,
    batch_size: int,
    max_batch_tokens: int,
    optimizer: OptimizerSettings,
    seed: int,
    name: str,
    checkpoints: Checkpoints | None = None,
    log: Callable[[dict[str, float], int], None] | None = None,
    progress: Progress | None = None,
    halved: bool = False,
) -> FitResult:
    """Minimise the mean NLL of the masked tokens: every token of a step weighs the same, whatever its micro-batch.

    `halved`: a step is cut in two at least, which go through a small model at once (`rlhf.lanes`); one that is trained
    whole and without dropout.
    """

    lengths = [len(ids) for ids, _ in sequences]
    steps = num_steps(len(sequences), batch_size, epochs)

    @cache
    def batches(epoch: int) -> list[list[int]]:
        return epoch_batches(lengths, batch_size, seed, epoch)

    def batch_at(step: int) -> StepBatch[Batch]:
        epoch, index = divmod(step, steps // epochs)
        chosen = [sequences[row] for row in batches(epoch)[index]]
        cut = two_micro_batches if halved else micro_batches
        parts = cut([len(ids) for ids, _ in chosen], max_batch_tokens)
        return StepBatch(
            [collate([chosen[row] for row in part], policy.chat.pad_id) for part in parts],
            denominator=sum(sum(mask) for _, mask in chosen),
        )

    return fit(
        {"policy": policy.model},
        steps=steps,
        batch_at=batch_at,
        loss=loss_of(policy),
        optimizer=optimizer,
        seed=seed,
        name=name,
        checkpoints=checkpoints,
        log=log,
        progress=progress,
        at_once=list(policy.model.parameters()) if halved else (),
    )


def loss_of(policy: Policy) -> Callable[[Batch], tuple[Tensor, Metrics]]:
    """`loss` for `fit`: the sum of −log π over the masked tokens."""

    def loss(batch: Batch) -> tuple[Tensor, Metrics]:
        losses, metrics = completion_nll(token_logprobs(policy.model, batch), batch.loss_mask)
        return losses.sum(), metrics

    return loss


@spent("score")
@torch.no_grad()
def mean_nll(policy: Policy, sequences: Sequences, max_batch_tokens: int) -> float:
    """Mean −log π of all trained tokens of held-out sequences, in nats."""
    total, count = 0.0, 0
    for rows in micro_batches([len(ids) for ids, _ in sequences], max_batch_tokens):
        batch = collate([sequences[row] for row in rows], policy.chat.pad_id)
        total -= token_logprobs(policy.model, batch).sum().item()
        count += int(batch.loss_mask.sum())
    return total / count
