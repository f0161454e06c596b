"""Rollouts of stage `rl`: prompts asked, answered by the policy, scored, and made into what an update learns from."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from rlhf import online
from rlhf.algorithms import Algorithm, Experience, Rollouts
from rlhf.dynamic_sampling import Answered, fill, scorable
from rlhf.epochs import full_batch
from rlhf.errors import PreflowError
from rlhf.models import Policy, ValueModel, token_logprobs
from rlhf.records import in_pool, read_rows, val_half
from rlhf.rewards import Asked, Component, Score
from rlhf.sampler import Sampler
from rlhf.seeding import derive
from tasks.config.algorithms.on_policy import OnPolicy
from tasks.config.generation import Generation
from tasks.config.rl import Rl
from tasks.journal import Log
from tasks.prompts import usable_prompts
from tasks.solve_rates import Solvable

TRIES = 4
"""Times that an update of an algorithm with dynamic sampling asks for more prompts before it makes do with fewer."""


@dataclass(frozen=True)
class Run:
    """What an update needs."""

    config: Rl
    generation: Generation
    batches: OnPolicy
    method: Algorithm
    policy: Policy
    sampler: Sampler
    reference: Policy
    critic: ValueModel | None
    score: Score
    held_out: Component | None
    """The reward that is only watched."""
    train: list[Asked]
    val: list[Asked]
    seed: int
    scratch: Path
    log: Log


def asked_prompts(
    policy: Policy,
    generation: Generation,
    path: Path,
    knob: str,
    solvable: Solvable | None = None,
    *,
    limit: int | None = None,
) -> tuple[list[Asked], dict[str, float]]:
    """The prompts meant for RL, in the order of their ids, and how many the policy has no room for.

    Of val only the half that is not kept for the choice of the gate's candidate. With `solvable` only the prompts that
    are neither too hard nor too easy, and how many were.
    """
    rows = in_pool(read_rows(path), "rl") if path.exists() else []
    if path.stem == "val":
        rows = val_half(rows, "rl")
    if not rows:
        raise PreflowError(
            f"{path.name} holds 0 prompts of pool `rl` or `any` for this stage, expected at least 1: collect more "
            f"prompts, or mend {knob}"
        )
    rows, by_rate = (rows, {}) if solvable is None else solvable(rows)
    usable, dropped = usable_prompts(rows, policy, generation.max_new_tokens, pool="rl", limit=limit)
    return [Asked.from_row(row, policy.chat.encode_prompt(row["messages"])) for row in usable], dropped | by_rate


def experience_of(run: Run, kl_coef: float, update: int) -> tuple[Experience | None, Mapping[str, float]]:
    """What one update learns from, sampled from the policy as it is now, and its metrics.

    With dynamic sampling the metrics are of the groups kept, but for `reward_sampled` and `dropped_groups`.

    None where dynamic sampling found no group with anything to teach: such an update is passed over. At the very first
    one it is an error, as the reward then cannot tell completions apart at all.
    """
    answered, gathered = _gather(run, update)
    if answered is None:
        if update == 0:
            raise PreflowError(
                f"no prompt of {TRIES} tries had completions of different rewards, expected at least 1: raise the "
                f"algorithm's group_size ({run.batches.group_size}) or generation.temperature "
                f"({run.generation.temperature}), take other prompts, or look at rl.rewards"
            )
        return None, gathered
    rollouts = measure(run, answered, run.critic)
    importance: Tensor | None = None
    corrected: dict[str, float] = {}
    if run.batches.importance_cap is not None:
        rollouts, importance, corrected = online.importance_weights(
            rollouts,
            lambda batch: token_logprobs(run.policy.model, batch, run.generation.temperature),
            run.batches.importance_cap,
            run.config.max_batch_tokens,
        )
    experience = replace(run.method.prepare(rollouts, kl_coef), importance=importance)
    components = {f"reward_{name}": one.mean().item() for name, one in answered.scored.components.items()}
    return experience, online.rollout_metrics(rollouts, experience) | components | gathered | corrected


def answer(run: Run, prompts: Sequence[Asked], group_size: int, seed: int) -> tuple[Answered, dict[str, float]]:
    """Completions of the policy as it is now with their rewards, and the seconds that took."""
    started = time.perf_counter()
    completions = run.sampler(
        run.policy,
        [prompt.ids for prompt in prompts],
        max_new_tokens=run.generation.max_new_tokens,
        temperature=run.generation.temperature,
        group_size=group_size,
        seed=seed,
    )
    sampled = time.perf_counter()
    scored = run.score(prompts, completions)
    seconds = {"seconds_sampling": sampled - started, "seconds_scoring": time.perf_counter() - sampled}
    return Answered(list(prompts), completions, scored), seconds


def measure(run: Run, answered: Answered, critic: ValueModel | None) -> Rollouts:
    """The completions with the log-probabilities of the reference and the values of the critic."""
    return online.collect(
        [prompt.ids for prompt in answered.prompts],
        answered.completions,
        rewards=answered.scored.total,
        reference=lambda batch: token_logprobs(run.reference.model, batch, run.generation.temperature),
        critic=critic,
        group_size=answered.group_size,
        pad_id=run.policy.chat.pad_id,
        max_tokens=run.config.max_batch_tokens,
    )


def _gather(run: Run, update: int) -> tuple[Answered | None, dict[str, float]]:
    """The update's own prompts answered; with dynamic sampling, those that teach nothing replaced by others.

    The metrics are of all that was sampled: seconds, what the scorers say of themselves (a judge's share of replies
    without a verdict), and with dynamic sampling those of `fill`.
    """
    rows = full_batch(update, len(run.train), run.batches.prompts_per_update, run.seed)
    if not run.method.dynamic_sampling:
        prompts = [run.train[row] for row in rows]
        answered, seconds = answer(run, prompts, run.batches.group_size, derive(run.seed, "rollouts", update))
        return scorable(answered), seconds | answered.scored.figures
    shuffled = np.random.default_rng(derive(run.seed, "more prompts", update)).permutation(len(run.train))
    own = set(rows)
    order = [*rows, *(int(row) for row in shuffled if row not in own)]
    spent = {"seconds_sampling": 0.0, "seconds_scoring": 0.0}

    def next_ones(attempt: int, first: int, count: int) -> Answered | None:
        prompts = [run.train[row] for row in order[first : first + count]]
        if not prompts:
            return None
        seed = derive(run.seed, "rollouts", update, attempt)
        some, seconds = answer(run, prompts, run.batches.group_size, seed)
        for name in spent:
            spent[name] += seconds[name]
        return some

    filled, sampled = fill(next_ones, len(rows), TRIES)
    return filled, sampled | spent
