"""Stage `rl`: policy gradients against a reward, with a KL leash to a reference.

    max E[r(x, y)] − kl_coef · KL(π ‖ π_ref)

In: `policy` to start from, `reference` (the KL anchor, usually SFT), the reward model that is optimised (not needed
where `rl.rewards` gives it no weight), a second one that is only watched, prompts, demonstrations for PPO-ptx, the
rollouts that say how hard each prompt is (for `rl.min_solve_rate` and `max_solve_rate`), and a lexicon for sentiment.
Out: `policy/`, `metrics.json`, and `looks/` where `rl.keep_looks` says so. The algorithm is `rl.algorithm`;
`rlhf.algorithms` says what each does and how it differs from its paper. What to look at: `rl/val_reward` going up while
`rl/val_held_out_reward` goes down is over-optimisation, and ends the training; `rl/kl` is the price paid, in nats a
completion.

    python -m tasks.rl --help
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf import distributed, online, rewards
from rlhf.algorithms import ALGORITHMS, Experience
from rlhf.batching import Batch
from rlhf.checkpoints import Checkpoints
from rlhf.kl import adapt_kl_coef
from rlhf.models import (
    Policy,
    ValueModel,
    load_reference,
    logprobs_and_entropy,
    room,
    save_policy,
    token_logprobs,
    trainable,
)
from rlhf.models.adapter_files import link_or_copy
from rlhf.models.ensembles import backbone_folder, load_reward_model
from rlhf.ptx import Demonstrations, demonstrations_at
from rlhf.records import read_rows, write_json
from rlhf.rewards import Asked, Component
from rlhf.together import scored_by_one
from rlhf.trainer import OptimizerSettings, fit
from tasks.config.algorithms.on_policy import OnPolicyAlgorithm, Ppo
from tasks.config.generation import Generation
from tasks.config.rl import Rl
from tasks.config.training import FULL, Training
from tasks.journal import Log
from tasks.prompts import fitting, prefixed
from tasks.rewards import build, refuse_unverifiable
from tasks.rl_guards import refuse_to_go_on, watched
from tasks.rl_looks import best, best_folder, folder_of, look, parted
from tasks.rl_refusals import refuse_undemonstrated, refuse_unfit, refuse_untrusted
from tasks.rl_rollouts import Run, asked_prompts, experience_of
from tasks.samplers import sampler_of
from tasks.solve_rates import solvable
from tasks.stage import main


def rl(
    config: Rl,
    *,
    generation: Generation,
    algorithm: OnPolicyAlgorithm,
    training: Training = FULL,
    seed: int,
    policy: Path,
    reference: Path,
    prompts: Path,
    out: Path,
    scratch: Path,
    log: Log,
    reward_model: Path | None = None,
    reward_metrics: Path | None = None,
    held_out: Path | None = None,
    demonstrations: Path | None = None,
    samples: Path | None = None,
    lexicon: Path | None = None,
) -> None:
    """Sample, score, learn, look at val prompts; the first lines of the module name the files."""
    refuse_unfit(
        config, algorithm, training, reward_model=reward_model, reward_metrics=reward_metrics, held_out=held_out,
        demonstrations=demonstrations, samples=samples, lexicon=lexicon,
    )  # fmt: skip
    refuse_untrusted(config, reward_metrics)
    learner = trainable(policy, training, seed, "rl")
    sampler = sampler_of(config, generation, learner, scratch)
    method = ALGORITHMS[config.algorithm](**algorithm.knobs(), fixed_length=generation.max_new_tokens)
    train, val, dropped = _prompts(config, generation, learner, prompts, samples)
    anchor = load_reference(reference, learner)
    critic = _critic(training, seed, reward_model or policy, learner) if method.critic else None
    score = build(
        config.rewards, generation, reward_model, learner.chat, lexicon=lexicon, over=learner,
        max_batch_tokens=config.max_batch_tokens, max_unscorable=config.max_unscorable,
        replies=scratch / "replies.jsonl",
    )  # fmt: skip
    run = Run(
        config=config,
        generation=generation,
        batches=algorithm,
        method=method,
        policy=learner,
        sampler=sampler,
        reference=anchor,
        critic=critic,
        score=scored_by_one(score),
        held_out=_witness(config, generation, held_out, learner),
        train=train,
        val=val,
        seed=seed,
        scratch=scratch,
        log=log,
    )
    state: dict[str, Any] = {"kl_coef": config.kl_coef, "val": [], "stopped_early": None, "watched": watched()}
    nonfinite = _train(run, training, state, _ptx(config, learner, seed, demonstrations))
    del state["watched"]
    if state["stopped_early"] is None:
        look(run, state["val"], config.num_updates)
    kept = _save(run, state, out)
    counts = dropped | {"kept": kept, "nonfinite": nonfinite}
    write_json(out / "metrics.json", {"algorithm": config.algorithm} | counts | state)


def _prompts(
    config: Rl, generation: Generation, learner: Policy, folder: Path, samples: Path | None
) -> tuple[list[Asked], list[Asked], dict[str, float]]:
    """Prompts to learn from and to look at, and how many of both were dropped, by why."""
    train, dropped = asked_prompts(
        learner, generation, folder / "train.jsonl", "prepare.val_share and eval_share", solvable(config, samples)
    )
    val, val_dropped = asked_prompts(
        learner, generation, folder / "val.jsonl", "prepare.val_share", limit=config.num_val_prompts
    )
    refuse_unverifiable(config.rewards, (prompt.meta for prompt in [*train, *val]))
    return train, val, prefixed(dropped, "train") | prefixed(val_dropped, "val")


def _critic(training: Training, seed: int, folder: Path, learner: Policy) -> ValueModel:
    """A critic that starts from the reward model of `folder`, or from the policy where there is none."""
    return ValueModel(trainable(backbone_folder(folder), training, seed, "value", learner).model)


def _witness(config: Rl, generation: Generation, held_out: Path | None, learner: Policy) -> Component | None:
    if held_out is None:
        return None
    model = load_reward_model(held_out, learner)
    return rewards.reward_model(model, generation.unfinished_reward, config.max_batch_tokens)


def _ptx(
    config: Rl, policy: Policy, seed: int, folder: Path | None
) -> Callable[[int, float], Sequence[Demonstrations]] | None:
    """The demonstrations of each optimiser step; None where they are not asked for."""
    if not config.ptx_coef:
        return None
    rows = list(read_rows(folder / "train.jsonl")) if folder is not None else []
    refuse_undemonstrated(config, bool(rows))
    positions = min(room(policy.model), config.max_batch_tokens)
    usable = fitting(
        "demonstrations",
        rows,
        policy.chat,
        lambda row: policy.chat.encode_conversation(row["messages"]),
        lambda encoded: len(encoded[0]),
        positions,
        "the model's positions, or rl.max_batch_tokens",
    )
    return demonstrations_at(
        usable.tokens,
        ptx_coef=config.ptx_coef,
        batch_size=config.ptx_batch_size,
        pad_id=policy.chat.pad_id,
        max_tokens=config.max_batch_tokens,
        seed=seed,
    )


def _train(
    run: Run,
    training: Training,
    state: dict[str, Any],
    demonstrations: Callable[[int, float], Sequence[Demonstrations]] | None,
) -> int:
    """All updates, or fewer where it stops early; how many optimiser steps were skipped as not finite."""
    config, inner_steps = run.config, run.batches.inner_steps

    def forward(batch: Batch) -> tuple[Tensor, Tensor]:
        return logprobs_and_entropy(run.policy.model, batch, run.generation.temperature)

    modules: dict[str, torch.nn.Module] = {"policy": run.policy.model}
    rates = {"policy": run.batches.lr}
    if run.critic is not None and isinstance(run.batches, Ppo):
        modules["value"], rates["value"] = run.critic, run.batches.value_lr
    result = fit(
        modules,
        steps=config.num_updates * inner_steps,
        batch_at=online.step_batches(
            lambda update: _collect(run, state, update),
            run.method,
            inner_steps,
            config.max_batch_tokens,
            demonstrations,
        ),
        loss=online.loss_of(run.method, forward, run.critic, lambda batch: token_logprobs(run.policy.model, batch)),
        optimizer=OptimizerSettings(
            lr=rates,
            warmup_steps=config.warmup_steps,
            final_lr_fraction=config.final_lr_fraction,
            betas=(0.9, config.beta2),
            eps=config.eps,
            max_grad_norm=config.max_grad_norm,
            kind=training.optimizer,
            shard=training.shard,
        ),
        seed=run.seed,
        name="rl",
        checkpoints=Checkpoints(
            run.scratch / "checkpoints",
            every=config.checkpoint_every * inner_steps,
            unit=inner_steps,
            of={"vocabulary": run.policy.chat.fingerprint},
        ),
        log=run.log,
        progress=online.per_update(run.log.progress, inner_steps),
        extra=state,
    )
    return result.nonfinite


def _collect(run: Run, state: dict[str, Any], update: int) -> tuple[Experience | None, Mapping[str, float]] | None:
    """What an update learns from; None where training ends here, as the val looks say.

    An adaptive kl_coef goes by the KL of the completions that are learnt from: with dynamic sampling, the groups kept.
    """
    if update % run.config.val_every == 0:
        look(run, state["val"], update)
        if run.config.stop_early and parted(state["val"], run.config.patience):
            state["stopped_early"] = update
            return None
    experience, metrics = experience_of(run, state["kl_coef"], update)
    if experience is not None:
        refuse_to_go_on(run.config, state["watched"], update, metrics, run.scratch)
    if run.config.kl_target is not None and experience is not None:
        state["kl_coef"] = adapt_kl_coef(state["kl_coef"], metrics["kl"], run.config.kl_target)
    return experience, metrics


def _save(run: Run, state: Mapping[str, Any], out: Path) -> int:
    """Write the policy that is kept, and those of the looks where asked; the update that the kept one is from.

    Of several processes the first has them all.
    """
    kept = int(best(state["val"])["update"]) if run.config.select_best else int(state["val"][-1]["update"])
    if distributed.group().rank > 0:
        return kept
    if run.config.keep_looks:
        for one in state["val"]:
            shutil.copytree(
                folder_of(run.scratch, one["update"]), folder_of(out, one["update"]), copy_function=link_or_copy
            )
    if run.config.select_best:
        shutil.copytree(best_folder(run.scratch, kept), out / "policy", copy_function=link_or_copy)
    else:
        save_policy(run.policy, out / "policy")
    return kept


if __name__ == "__main__":
    main(rl)
