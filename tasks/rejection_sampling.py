"""Stage `rejection_sampling`: fine-tune on the completions that the reward likes best.

In: the policy to start from and a rollout store (P prompts, N scored completions each). Out: `policy/`, trained on
argmax_j r_ij of each prompt; `random_control/`, trained in the same way on a random one of the same N: what the reward
adds is the difference of the two, not that to SFT; `selected/selected.jsonl`; `metrics.json` (RLHF book, chapter 9).
Both choose among completions that ended by themselves. In iterated rounds the rollouts come from the policy of the
round before, and training starts from the first checkpoint all the same, so that faults do not add up over rounds.

    python -m tasks.rejection_sampling --help
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.checkpoints import Checkpoints
from rlhf.errors import PreflowError
from rlhf.models import Policy, save_policy, trainable
from rlhf.records import write_json, write_rows
from rlhf.rollouts import Rollout, read_rollouts
from rlhf.selection import Pick, best_of_n, random_overall, random_per_prompt, top_overall, top_per_prompt
from rlhf.supervised import fit_supervised
from rlhf.trainer import FitResult, OptimizerSettings
from tasks.config.rejection_sampling import RejectionSampling
from tasks.config.training import FULL, Training
from tasks.journal import Log
from tasks.stage import main


def rejection_sampling(
    config: RejectionSampling,
    *,
    training: Training = FULL,
    seed: int,
    policy: Path,
    rollouts: Path,
    out: Path,
    scratch: Path,
    log: Log,
) -> None:
    """Select, train twice, compare; the first lines of the module name the files."""
    groups = _by_prompt(rollouts / "rollouts.jsonl")
    rewards = np.array([[rollout.reward for rollout in group] for group in groups])
    finished = np.array([[rollout.stop_reason == "stop" for rollout in group] for group in groups])
    best, random = _select(config, rewards, finished, seed)
    arms = {"rejection_sampling": ("policy", best), "random_control": ("random_control", random)}
    results = {}
    over: Policy | None = None
    for name, (folder, picks) in arms.items():
        chosen = [groups[prompt][index] for prompt, index in picks]
        # Both arms start from the same weights, those of a new adapter included: its label is the same.
        learner = trainable(policy, training, seed, "rejection_sampling", over)
        results[name] = _train(config, training, chosen, learner, name, seed, scratch, log)
        save_policy(learner, out / folder)
        over = learner if training.method != "full" else None  # a frozen base serves both arms, trained weights go
        del learner
    write_rows(out / "selected" / "selected.jsonl", _rows(groups, best, random))
    metrics = _metrics(groups, rewards, best, random) | {"dropped_prompts": float(len(groups) - len(best))}
    metrics |= {f"{name}_nonfinite": float(result.nonfinite) for name, result in results.items()}
    log({f"rejection_sampling/{name}": value for name, value in metrics.items()}, 0)
    curve = {str(n): float(best_of_n(rewards, rewards, n).mean()) for n in range(1, rewards.shape[1] + 1)}
    write_json(out / "metrics.json", metrics | {"best_of_n_reward": curve})


def _by_prompt(path: Path) -> list[list[Rollout]]:
    """Rollouts of each prompt, prompts in the order they first appear; as many for each, all with a reward."""
    groups: dict[str, list[Rollout]] = {}
    for rollout in read_rollouts(path):
        groups.setdefault(rollout.prompt_id, []).append(rollout)
    sizes = sorted({len(group) for group in groups.values()})
    if len(sizes) != 1:
        raise PreflowError(f"prompts have {sizes or 'no'} completions, expected the same number for each: sample again")
    unscored = sum(rollout.reward is None for group in groups.values() for rollout in group)
    if unscored:
        raise PreflowError(f"{unscored} completions have no reward: run stage `sample` with a reward model")
    return list(groups.values())


def _select(
    config: RejectionSampling, rewards: NDArray[np.float64], finished: NDArray[np.bool_], seed: int
) -> tuple[Sequence[Pick], Sequence[Pick]]:
    """The best completions and their random twins, one a prompt on average, all `finished`; arrays [P, N].

    Prompts without a completion that may be chosen are in neither: all were cut off, or below `min_reward`.
    """
    if not finished.any():
        raise PreflowError(
            f"0 of {rewards.size} completions ended by themselves: raise generation.max_new_tokens, or train sft longer"
        )
    good = finished if config.min_reward is None else finished & (rewards >= config.min_reward)
    usable = good.any(axis=1)
    if not usable.any():
        raise PreflowError(
            f"0 of {int(finished.sum())} finished completions reach rejection_sampling.min_reward="
            f"{config.min_reward}, the best has {rewards[finished].max():.3g}: lower it"
        )
    if config.selection == "top_per_prompt":
        return top_per_prompt(rewards, good), random_per_prompt(finished & usable[:, None], seed)
    count = int(usable.sum())
    return top_overall(rewards, good, count), random_overall(finished, count, seed)


def _train(
    config: RejectionSampling,
    training: Training,
    chosen: Sequence[Rollout],
    policy: Policy,
    name: str,
    seed: int,
    scratch: Path,
    log: Log,
) -> FitResult:
    return fit_supervised(
        policy,
        [
            ([*one.prompt_ids, *one.completion_ids], [False] * len(one.prompt_ids) + [True] * len(one.completion_ids))
            for one in chosen
        ],
        epochs=config.epochs,
        batch_size=config.batch_size,
        max_batch_tokens=config.max_batch_tokens,
        optimizer=OptimizerSettings(
            lr=config.lr,
            warmup_steps=config.warmup_steps,
            schedule="cosine",
            max_grad_norm=config.max_grad_norm,
            kind=training.optimizer,
            shard=training.shard,
        ),
        seed=seed,
        name=name,
        checkpoints=Checkpoints(
            scratch / f"checkpoints-{name}",
            every=config.checkpoint_every,
            of={"vocabulary": policy.chat.fingerprint},
        ),
        log=log,
        progress=log.progress,
    )


def _rows(groups: Sequence[Sequence[Rollout]], best: Sequence[Pick], random: Sequence[Pick]) -> list[dict[str, Any]]:
    rows = []
    for arm, picks in (("best", best), ("random", random)):
        for prompt, index in picks:
            one = groups[prompt][index]
            row = {"selection": arm, "prompt_id": one.prompt_id, "index": index, "text": one.text}
            rows.append(row | {"reward": one.reward, "stop_reason": one.stop_reason})
    return rows


def _metrics(
    groups: Sequence[Sequence[Rollout]], rewards: NDArray[np.float64], best: Sequence[Pick], random: Sequence[Pick]
) -> dict[str, float]:
    everything = [(prompt, index) for prompt in range(rewards.shape[0]) for index in range(rewards.shape[1])]
    metrics = {"prompts": float(rewards.shape[0]), "completions_per_prompt": float(rewards.shape[1])}
    metrics["zero_std_groups"] = float((rewards.max(axis=1) == rewards.min(axis=1)).mean())
    for name, picks in (("all", everything), ("selected", best), ("random", random)):
        chosen = [groups[prompt][index] for prompt, index in picks]
        metrics[f"{name}_reward"] = float(np.mean([rewards[pick] for pick in picks]))
        metrics[f"{name}_length"] = float(np.mean([len(one.completion_ids) for one in chosen]))
        metrics[f"{name}_stop_rate"] = float(np.mean([one.stop_reason == "stop" for one in chosen]))
    return metrics


if __name__ == "__main__":
    main(rejection_sampling)
