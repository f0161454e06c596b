"""On-policy reinforcement learning, as pieces that a stage puts together: sample, score, weigh, learn.

A batch of rollouts is P prompts with G completions each, prompt-major, B = P*G sequences of T tokens (prompt and
completion, padded on the right). Log-probabilities and everything else that belongs to a sampled token sits at that
token's place and is 0 elsewhere. What an algorithm is, is in `rlhf.algorithms`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rlhf import distributed
from rlhf.advantages import zero_std_share
from rlhf.algorithms import Algorithm, Experience, Rollouts, rows_of, sequence_kl
from rlhf.batching import Batch, collate, prompts_of
from rlhf.cutting import micro_batches
from rlhf.errors import NumericsError
from rlhf.kl import k3
from rlhf.losses.policy_gradient import truncated_importance
from rlhf.masks import denominator, masked_mean, masked_var
from rlhf.ptx import Demonstrations
from rlhf.sampler import Completion
from rlhf.spending import spent
from rlhf.trainer import Metrics, Progress, StepBatch

MAX_SAMPLER_GAP = 0.05
"""Nats a token by which sampler and trainer may differ on average before rollouts no longer count as on-policy."""


def to_batch(prompts: Sequence[Sequence[int]], completions: Sequence[Completion], pad_id: int) -> tuple[Batch, Tensor]:
    """Prompts with their completions as one batch [B, T], and the sampler's log-probabilities [B, T] in place."""
    sequences, old_logprobs = [], []
    for completion in completions:
        prompt = prompts[completion.prompt_index]
        mask = [False] * len(prompt) + [True] * len(completion.ids)
        sequences.append(([*prompt, *completion.ids], mask))
        old_logprobs.append(torch.tensor(completion.logprobs))
    batch = collate(sequences, pad_id)
    placed = torch.zeros(batch.input_ids.shape).masked_scatter(batch.loss_mask, torch.cat(old_logprobs))
    return batch, placed


@spent("score")
@torch.no_grad()
def in_micro_batches(function: Callable[[Batch], Tensor], batch: Batch, max_tokens: int) -> Tensor:
    """`function` of the whole batch, [B] or [B, T], computed without gradient in micro-batches.

    Several processes take a share each, and all have the same values in the end.
    """
    group, (count, width) = distributed.group(), batch.input_ids.shape
    results = [(rows, function(rows_of(batch, rows))) for rows in group.share(_cut(batch, max_tokens))]
    kinds = group.everyones([results[0][1].dim(), str(results[0][1].dtype)] if results else None)
    dim, dtype = next(kind for kind in kinds if kind is not None)
    found = torch.zeros((count, width)[:dim], dtype=getattr(torch, dtype.removeprefix("torch.")))
    for rows, part in results:
        found[(rows, slice(part.shape[1])) if dim == 2 else rows] = part
    group.add_up([found])
    return found


def collect(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Completion],
    *,
    rewards: Tensor,
    reference: Callable[[Batch], Tensor],
    critic: Callable[[Batch], Tensor] | None,
    group_size: int,
    pad_id: int,
    max_tokens: int,
) -> Rollouts:
    """Completions just sampled and scored, with the reference's log-probabilities and, for a critic, its values."""
    batch, old_logprobs = to_batch(prompts, completions, pad_id)
    return Rollouts(
        batch=batch,
        old_logprobs=old_logprobs,
        ref_logprobs=in_micro_batches(reference, batch, max_tokens),
        rewards=rewards,
        stopped=_stopped(completions),
        group_size=group_size,
        values=in_micro_batches(critic, batch, max_tokens) if critic else None,
    )


def importance_weights(
    rollouts: Rollouts, learner: Callable[[Batch], Tensor], cap: float, max_tokens: int
) -> tuple[Rollouts, Tensor, dict[str, float]]:
    """Truncated importance sampling, for a sampler that is not quite the learner: w_t = min(π_learner/π_sampler, cap).

    The learner's log-probabilities [B, T] are computed once, before the first inner step. They take the place of
    `old_logprobs`, so that the clipped ratio is of the learner alone, and w_t [B, T] corrects for what was sampled
    (Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025; RLHF book, chapter 6).

    Returns:
        The rollouts with the learner's log-probabilities, the weights (0 outside the completions), and metrics.
    """
    mask = rollouts.batch.loss_mask
    logprobs = in_micro_batches(learner, rollouts.batch, max_tokens)
    _sampler_gap(logprobs[mask], rollouts.old_logprobs[mask])
    weights, measured = truncated_importance(logprobs, rollouts.old_logprobs, mask, cap)
    metrics = {
        name: float(values.max() if name.endswith("_max") else values.mean()) for name, values in measured.items()
    }
    return replace(rollouts, old_logprobs=logprobs), weights, metrics


Part = Experience | Demonstrations
"""A micro-batch of an on-policy step."""


def step_batches(
    collect_update: Callable[[int], tuple[Experience | None, Mapping[str, float]] | None],
    algorithm: Algorithm,
    inner_steps: int,
    max_tokens: int,
    demonstrations: Callable[[int, float], Sequence[Demonstrations]] | None = None,
) -> Callable[[int], StepBatch[Part] | None]:
    """`batch_at` for `fit`: `inner_steps` optimiser steps on each batch of rollouts that `collect_update` makes.

    `collect_update(update)` samples from the policy as it is, so only its first step is exactly on-policy. It gives
    None where training is to end; an experience that is None has nothing to learn from, and the update is passed over
    but for the demonstrations. These are those of `rlhf.ptx.demonstrations_at`.
    """
    held: dict[int, tuple[Experience | None, Mapping[str, float]] | None] = {}

    def batch_at(step: int) -> StepBatch[Part] | None:
        update, inner = divmod(step, inner_steps)
        if inner == 0:
            held.clear()
            held[update] = collect_update(update)
        elif update not in held:
            raise ValueError(
                f"resumed at step {step}, between the {inner_steps} inner steps of an update: "
                f"`every` of the checkpoints must be a multiple of {inner_steps}"
            )
        collected = held[update]
        if collected is None:
            return None
        experience, metrics = collected
        parts: list[Part] = []
        total = 1.0
        if experience is not None:
            parts += [
                replace(experience.rows(indices), fresh=inner == 0) for indices in _cut(experience.batch, max_tokens)
            ]
            total = denominator(experience.batch.loss_mask, algorithm.aggregation)
        if demonstrations is not None:
            parts += demonstrations(step, total)
        return StepBatch(micro_batches=parts, denominator=total, metrics=metrics if inner == 0 else {})

    return batch_at


def per_update(progress: Progress, inner_steps: int) -> Progress:
    """`progress` for `fit`, which counts optimiser steps, told in updates: after the last step of each."""

    def told(done: int, total: int, **figures: float) -> None:
        if done % inner_steps == 0:
            progress(done // inner_steps, total // inner_steps, **figures)

    return told


def loss_of(
    algorithm: Algorithm,
    policy: Callable[[Batch], tuple[Tensor, Tensor]],
    critic: Callable[[Batch], Tensor] | None,
    demonstrated: Callable[[Batch], Tensor] | None = None,
) -> Callable[[Part], tuple[Tensor, Metrics]]:
    """`loss` for `fit`: the algorithm's, after one forward pass of policy and critic; of demonstrations their −log π.

    `policy` gives log-probabilities at the temperature of sampling and entropy [B, T], `critic` values [B, T].
    `demonstrated` gives log-probabilities [B, T] at temperature 1, whatever the sampling's; needed where there are
    demonstrations, else ValueError. On fresh rollouts the policy is the one
    that was sampled, so its log-probabilities must be the sampler's (`sampler_gap`); NumericsError where they are not.
    """

    def loss(part: Part) -> tuple[Tensor, Metrics]:
        mask = part.batch.loss_mask
        if isinstance(part, Demonstrations):
            if demonstrated is None:
                raise ValueError("there are demonstrations and no `demonstrated` to give their log-probabilities")
            nll = -demonstrated(part.batch)[mask]
            return part.scale * nll.sum(), {"ptx_nll": nll.detach()}
        logprobs, entropy = policy(part.batch)
        losses, metrics = algorithm.loss(part, logprobs, critic(part.batch) if critic else None)
        metrics["entropy"] = entropy[mask]
        if part.fresh and part.importance is None:
            gap = _sampler_gap(logprobs.detach()[mask], part.old_logprobs[mask])
            metrics |= {"sampler_gap": gap, "sampler_gap_max": gap}
        return losses.sum(), metrics

    return loss


def rollout_metrics(rollouts: Rollouts, experience: Experience) -> dict[str, float]:
    """What to watch in a batch of rollouts; per-sequence KL in nats, lengths in tokens, the stop token included."""
    mask = rollouts.batch.loss_mask
    groups = rollouts.rewards.view(-1, rollouts.group_size)
    kl = sequence_kl(rollouts)
    metrics = {
        "reward": rollouts.rewards.mean(),
        "reward_std": rollouts.rewards.std(correction=0),
        "objective": (rollouts.rewards - experience.kl_coef * kl).mean(),
        "kl": kl.mean(),
        "kl_k3": (k3(rollouts.old_logprobs, rollouts.ref_logprobs) * mask).sum(dim=1).mean(),
        "kl_token": kl.sum() / mask.sum(),
        "length": mask.sum(dim=1).float().mean(),
        "stop_rate": rollouts.stopped.float().mean(),
        "tokens": mask.sum(),
        "advantage_mean": masked_mean(experience.advantages, mask),
        "advantage_std": masked_var(experience.advantages, mask).sqrt(),
    }
    if rollouts.group_size > 1:
        metrics["zero_std_groups"] = torch.tensor(zero_std_share(groups))
    if experience.returns is not None and rollouts.values is not None:
        residual = masked_var(experience.returns - rollouts.values, mask)
        metrics["return"] = masked_mean(experience.returns, mask)
        metrics["return_std"] = masked_var(experience.returns, mask).sqrt()
        metrics["explained_variance"] = 1.0 - residual / masked_var(experience.returns, mask).clamp(min=1e-8)
    return {name: float(value) for name, value in metrics.items()} | {"kl_coef": experience.kl_coef}


def _cut(batch: Batch, max_tokens: int) -> list[list[int]]:
    return micro_batches(batch.attention_mask.sum(dim=1).tolist(), max_tokens, prompts_of(batch))


def _stopped(completions: Sequence[Completion]) -> Tensor:
    return torch.tensor([completion.stop_reason == "stop" for completion in completions])


def _sampler_gap(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    gap = (logprobs - old_logprobs).abs()
    if gap.mean() > MAX_SAMPLER_GAP:
        raise NumericsError(
            f"sampler and trainer differ by {gap.mean():.3g} nats a token on one policy (limit {MAX_SAMPLER_GAP}): the "
            "rollouts are not on-policy; check that both use the same weights, temperature and precision"
        )
    return gap
