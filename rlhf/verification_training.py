"""Training outcome and process reward models: rows with what is known to be right, and the two loops."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rlhf.batching import Batch, collate
from rlhf.checkpoints import Checkpoints
from rlhf.cutting import micro_batches
from rlhf.epochs import num_steps, rows_at
from rlhf.losses.verification import outcome_by_sequence, outcome_by_token, process_binary, process_three_way
from rlhf.models.token_rewards import TokenRewardModel
from rlhf.optimizer import OptimizerSettings
from rlhf.rewards.base import Asked
from rlhf.rewards.rules import Decode
from rlhf.sampler import Completion
from rlhf.trainer import FitResult, Metrics, Progress, StepBatch, fit
from rlhf.verifiers import verify


@dataclass(frozen=True, slots=True)
class Labelled:
    """One completion with what is known of it."""

    prompt_ids: list[int]
    completion_ids: list[int]
    """The stop token included."""
    labels: list[int]
    """One label of the whole (1 right, 0 not), or one of each step in order (1 and 0, or ratings −1, 0, 1)."""


def outcomes(
    prompts: Sequence[Asked], completions: Sequence[Completion], decode: Decode, verifier: str | None = None
) -> list[Labelled]:
    """Sampled completions with the verdict of a verifier as label; those that were cut off, or that it cannot say
    anything of, are left out."""
    return [
        Labelled(asked.ids, one.ids, [int(verdict)])
        for one in completions
        if one.stop_reason == "stop"
        for asked in (prompts[one.prompt_index],)
        if not math.isnan(verdict := verify(asked.meta, decode(one.ids), verifier))
    ]


def process(model: TokenRewardModel, row: Mapping[str, Any]) -> Labelled:
    """A row with `messages`, `steps` (texts) and `ratings` (as many) as tokens: steps, a separator after each but the
    last unless the step ends with one, and the stop token.

    Raises ValueError where steps and ratings differ in number, a step holds the separator inside, or the model is none
    of process rewards.
    """
    steps, ratings = row["steps"], row["ratings"]
    if model.separator_id is None:
        raise ValueError("the model has no step separator: it is one of outcomes")
    if len(steps) != len(ratings) or not steps:
        raise ValueError(f"{len(steps)} steps and {len(ratings)} ratings, expected as many and at least 1")
    ids: list[int] = []
    for number, step in enumerate(steps):
        ids += model.chat.encode_text(step)
        if number + 1 < len(steps) and ids[-1:] != [model.separator_id]:
            ids.append(model.separator_id)
    labelled = Labelled(model.chat.encode_prompt(row["messages"]), [*ids, model.chat.stop_id], list(ratings))
    ends = int(model.spoken(_batch([labelled], model.chat.pad_id)).sum())
    if ends != len(steps):
        raise ValueError(f"{len(steps)} steps have {ends} ends: a step is empty or holds {model.separator!r} inside")
    return labelled


def fit_token_rewards(
    model: TokenRewardModel,
    rows: Sequence[Labelled],
    *,
    form: Literal["token", "sequence"] = "token",
    epochs: int,
    batch_size: int,
    max_batch_tokens: int,
    optimizer: OptimizerSettings,
    seed: int,
    name: str,
    checkpoints: Checkpoints | None = None,
    log: Callable[[dict[str, float], int], None] | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Minimise the outcome loss (mean over completions, `form` by token or by sequence), or for a model with a
    separator the process loss (mean over steps).

    `optimizer.lr` names the rates of `backbone` and `head`.
    """

    def batch_at(step: int) -> StepBatch[list[Labelled]]:
        chosen = [rows[row] for row in rows_at(step, len(rows), batch_size, seed)]
        lengths = [len(one.prompt_ids) + len(one.completion_ids) for one in chosen]
        parts = micro_batches(lengths, max_batch_tokens)
        return StepBatch(
            [[chosen[row] for row in part] for part in parts], denominator=sum(len(one.labels) for one in chosen)
        )

    def loss(part: list[Labelled]) -> tuple[Tensor, Metrics]:
        batch = _batch(part, model.chat.pad_id)
        logits, spoken = model(batch), model.spoken(batch)
        if model.separator_id is None:
            labels = torch.tensor([one.labels[0] for one in part])
            by_form = outcome_by_token if form == "token" else outcome_by_sequence
            losses, metrics = by_form(logits, labels, spoken)
        else:
            given = torch.tensor([label for one in part for label in one.labels])
            ratings = torch.zeros(spoken.shape, dtype=torch.long).masked_scatter(spoken, given)
            by_classes = process_binary if model.classes == 1 else process_three_way
            losses, metrics = by_classes(logits, ratings, spoken)
        return losses.sum(), metrics

    return fit(
        {"backbone": model.model, "head": model.head},
        steps=num_steps(len(rows), batch_size, epochs),
        batch_at=batch_at,
        loss=loss,
        optimizer=optimizer,
        seed=seed,
        name=name,
        checkpoints=checkpoints,
        log=log,
        progress=progress,
    )


def _batch(rows: Sequence[Labelled], pad_id: int) -> Batch:
    return collate(
        [
            ([*one.prompt_ids, *one.completion_ids], [False] * len(one.prompt_ids) + [True] * len(one.completion_ids))
            for one in rows
        ],
        pad_id,
    )
