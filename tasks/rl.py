"""Stage `rl`: policy gradients against the reward model, with a KL leash to a reference.

    max E[r(x, y)] − kl_coef · KL(π ‖ π_ref)

In: `policy` to start from, `reference` (the KL anchor, usually SFT), the reward model that is optimised, a second one
that is only watched, and prompts. Out: `policy/` and `metrics.json`. The algorithm is `rl.algorithm`; `rlhf.algorithms`
says what each does and how it differs from its paper. What to look at: `rl/val_reward` going up while
`rl/val_held_out_reward` goes down is over-optimisation; `rl/kl` is the price paid, in nats a completion.

    python -m tasks.rl --help
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf import online
from rlhf.algorithms import ALGORITHMS, Algorithm, Experience, Rollouts, sequence_kl
from rlhf.batching import Batch
from rlhf.checkpoints import Checkpoints
from rlhf.epochs import rows_at
from rlhf.errors import PreflowError
from rlhf.kl import adapt_kl_coef
from rlhf.models import Policy, RewardModel, ValueModel, load_policy, logprobs_and_entropy, save_policy, token_logprobs
from rlhf.records import in_pool, read_rows, val_half, write_json
from rlhf.sampler import Completion, sample
from rlhf.seeding import derive
from rlhf.trainer import OptimizerSettings, fit
from tasks.config.algorithms.on_policy import Grpo, OnPolicy, Ppo, Reinforce, Rloo
from tasks.config.generation import Generation
from tasks.config.rl import Rl
from tasks.journal import Log
from tasks.prompts import prefixed, usable_prompts
from tasks.stage import main


@dataclass(frozen=True)
class _Run:
    """What an update needs."""

    config: Rl
    generation: Generation
    batches: OnPolicy
    method: Algorithm
    policy: Policy
    reference: Policy
    critic: ValueModel | None
    score: online.Score
    held_out_score: online.Score
    train: list[list[int]]
    val: list[list[int]]
    seed: int
    scratch: Path
    log: Log


def rl(
    config: Rl,
    *,
    generation: Generation,
    algorithm: Reinforce | Rloo | Grpo | Ppo,
    seed: int,
    policy: Path,
    reference: Path,
    reward_model: Path,
    held_out: Path,
    reward_metrics: Path,
    prompts: Path,
    out: Path,
    scratch: Path,
    log: Log,
) -> None:
    """Sample, score, learn, look at val prompts; the first lines of the module name the files."""
    _refuse_untrusted(config, reward_metrics)
    learner, proxy, witness = load_policy(policy), RewardModel.load(reward_model), RewardModel.load(held_out)
    method = ALGORITHMS[config.algorithm](**algorithm.knobs(), fixed_length=generation.max_new_tokens)
    train, dropped = _prompts(learner, generation, prompts / "train.jsonl", "prepare.val_share and prepare.eval_share")
    val, val_dropped = _prompts(learner, generation, prompts / "val.jsonl", "prepare.val_share", config.num_val_prompts)
    run = _Run(
        config=config,
        generation=generation,
        batches=algorithm,
        method=method,
        policy=learner,
        reference=load_policy(reference),
        critic=ValueModel.from_reward_model(proxy) if method.critic else None,
        score=online.score_with(proxy, generation.unfinished_reward, config.max_batch_tokens),
        held_out_score=online.score_with(witness, generation.unfinished_reward, config.max_batch_tokens),
        train=train,
        val=val,
        seed=seed,
        scratch=scratch,
        log=log,
    )
    state: dict[str, Any] = {"kl_coef": config.kl_coef, "val": []}
    nonfinite = _train(run, state)
    _look(run, state, config.num_updates)
    kept = _save(run, state, out / "policy")
    counts = prefixed(dropped, "train") | prefixed(val_dropped, "val") | {"kept": kept, "nonfinite": nonfinite}
    write_json(out / "metrics.json", {"algorithm": config.algorithm} | counts | state)


def _refuse_untrusted(config: Rl, reward_metrics: Path) -> None:
    verdict = json.loads(reward_metrics.read_text(encoding="utf-8"))
    if not verdict["trusted"] and not config.allow_untrusted:
        raise PreflowError(
            f"the reward model failed its own checks ({'; '.join(verdict['reasons'])}): "
            "improve its data, or set rl.allow_untrusted to optimise it all the same"
        )


def _prompts(
    policy: Policy, generation: Generation, path: Path, knob: str, limit: int | None = None
) -> tuple[list[list[int]], dict[str, float]]:
    """Token ids of the prompts meant for RL, in the order of their ids, and how many the policy has no room for.

    Of val only the half that is not kept for the choice of the gate's candidate.
    """
    rows = in_pool(read_rows(path), "rl") if path.exists() else []
    if path.stem == "val":
        rows = val_half(rows, "rl")
    if not rows:
        raise PreflowError(
            f"{path.name} holds 0 prompts of pool `rl` or `any` for this stage, expected at least 1: collect more "
            f"prompts, or mend {knob}"
        )
    usable, dropped = usable_prompts(rows, policy, generation.max_new_tokens, pool="rl", limit=limit)
    return [policy.chat.encode_prompt(row["messages"]) for row in usable], dropped


def _train(run: _Run, state: dict[str, Any]) -> int:
    """All updates; how many optimiser steps were skipped as not finite."""
    config, inner_steps = run.config, run.batches.inner_steps

    def forward(batch: Batch) -> tuple[Tensor, Tensor]:
        return logprobs_and_entropy(run.policy.model, batch, run.generation.temperature)

    modules: dict[str, torch.nn.Module] = {"policy": run.policy.model}
    rates = {"policy": config.lr}
    if run.critic is not None and isinstance(run.batches, Ppo):
        modules["value"], rates["value"] = run.critic, run.batches.value_lr
    result = fit(
        modules,
        steps=config.num_updates * inner_steps,
        batch_at=online.step_batches(
            lambda update: _collect(run, state, update), run.method, inner_steps, config.max_batch_tokens
        ),
        loss=online.loss_of(run.method, forward, run.critic),
        optimizer=OptimizerSettings(
            lr=rates,
            warmup_steps=config.warmup_steps,
            final_lr_fraction=config.final_lr_fraction,
            betas=(0.9, config.beta2),
            max_grad_norm=config.max_grad_norm,
        ),
        seed=run.seed,
        name="rl",
        checkpoints=Checkpoints(run.scratch / "checkpoints", every=config.checkpoint_every * inner_steps),
        log=run.log,
        progress=run.log.progress,
        extra=state,
    )
    return result.nonfinite


def _collect(run: _Run, state: dict[str, Any], update: int) -> tuple[Experience, Mapping[str, float]]:
    """The rollouts of one update with their targets, sampled from the policy as it is now."""
    if update % run.config.val_every == 0:
        _look(run, state, update)
    rows = rows_at(update, len(run.train), run.batches.prompts_per_update, run.seed)
    prompts = [run.train[row] for row in rows]
    completions = _sample(run, prompts, run.batches.group_size, derive(run.seed, "rollouts", update))
    rollouts = _measure(run, prompts, completions, run.batches.group_size, run.critic)
    experience = run.method.prepare(rollouts, state["kl_coef"])
    metrics = online.rollout_metrics(rollouts, experience)
    if run.config.kl_target is not None:
        state["kl_coef"] = adapt_kl_coef(state["kl_coef"], metrics["kl"], run.config.kl_target)
    return experience, metrics


def _look(run: _Run, state: dict[str, Any], update: int) -> None:
    """How the policy does on the val prompts, by both reward models; the best one so far is kept.

    The random numbers are the same each time, so that looks differ by the policy alone.
    """
    completions = _sample(run, run.val, 1, derive(run.seed, "val"))
    rollouts = _measure(run, run.val, completions, 1, None)
    figures = {
        "reward": rollouts.rewards.mean().item(),
        "held_out_reward": run.held_out_score(run.val, completions).mean().item(),
        "kl": sequence_kl(rollouts).mean().item(),
        "length": rollouts.batch.loss_mask.sum(dim=1).float().mean().item(),
        "stop_rate": rollouts.stopped.float().mean().item(),
    }
    run.log({f"rl/val_{name}": value for name, value in figures.items()}, update * run.batches.inner_steps)
    if figures["held_out_reward"] > max((look["held_out_reward"] for look in state["val"]), default=-torch.inf):
        _keep(run.policy, run.scratch / "best")
    state["val"].append({"update": update} | figures)


def _sample(run: _Run, prompts: Sequence[Sequence[int]], group_size: int, seed: int) -> list[Completion]:
    return sample(
        run.policy,
        prompts,
        max_new_tokens=run.generation.max_new_tokens,
        temperature=run.generation.temperature,
        group_size=group_size,
        seed=seed,
    )


def _measure(
    run: _Run,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Completion],
    group_size: int,
    critic: ValueModel | None,
) -> Rollouts:
    return online.collect(
        prompts,
        completions,
        score=run.score,
        reference=lambda batch: token_logprobs(run.reference.model, batch, run.generation.temperature),
        critic=critic,
        group_size=group_size,
        pad_id=run.policy.chat.pad_id,
        max_tokens=run.config.max_batch_tokens,
    )


def _keep(policy: Policy, folder: Path) -> None:
    """Save beside and swap; a kill in between is made good when the look is taken again."""
    draft = folder.with_name("draft")
    shutil.rmtree(draft, ignore_errors=True)
    save_policy(policy, draft)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def _save(run: _Run, state: dict[str, Any], folder: Path) -> int:
    """Write the policy that is kept; the update it is from."""
    if not run.config.select_best:
        save_policy(run.policy, folder)
        return run.config.num_updates
    shutil.copytree(run.scratch / "best", folder)
    best = max(state["val"], key=lambda look: look["held_out_reward"])  # the first of equals, as kept
    return int(best["update"])


if __name__ == "__main__":
    main(rl)
