"""Looks of stage `rl` at the val prompts: how the policy does, which one is kept, when training had better stop.

Nothing here, nor anywhere in the stage, sees the eval prompts, nor gold where a model is the reward. With the verifier
`world` it is the correctness part of gold that is optimised, and looked at on val: gold is then no independent judge.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf import distributed
from rlhf.algorithms import sequence_kl
from rlhf.dynamic_sampling import scorable
from rlhf.models import Policy, save_policy
from rlhf.seeding import derive
from tasks.rl_rollouts import Run, answer, measure

Look = Mapping[str, Any]
"""update, reward, held_out_reward (None without a second model), kl, length, stop_rate."""


def look(run: Run, looks: list[dict[str, Any]], update: int) -> None:
    """Append how the policy does on the val prompts, by the reward and by the one only watched; keep the best so far.

    The random numbers are the same each time, so that looks differ by the policy alone.
    """
    answered = scorable(answer(run, run.val, 1, derive(run.seed, "val"))[0])
    rollouts = measure(run, answered, None)

    def held_out() -> float | None:
        return run.held_out(answered.prompts, answered.completions).mean().item() if run.held_out else None

    figures = {
        "reward": rollouts.rewards.mean().item(),
        "held_out_reward": distributed.group().told(held_out),
        "kl": sequence_kl(rollouts).mean().item(),
        "length": rollouts.batch.loss_mask.sum(dim=1).float().mean().item(),
        "stop_rate": rollouts.stopped.float().mean().item(),
    }
    components = {f"reward_{name}": one.mean().item() for name, one in answered.scored.components.items()}
    shown = {f"rl/val_{name}": value for name, value in (figures | components).items() if value is not None}
    shown |= {f"rl/val_{name}": value for name, value in answered.scored.figures.items()}
    run.log(shown, update * run.batches.inner_steps)
    looks.append({"update": update} | figures)
    if best(looks) is looks[-1]:
        _keep(run.policy, best_folder(run.scratch, update))
        _forget(run, looks, update)
    if run.config.keep_looks:
        _keep(run.policy, folder_of(run.scratch, update))


def best(looks: Sequence[Look]) -> Look:
    """The first of those with the highest held-out reward on val.

    Without a held-out model it is the optimised reward itself that decides, a weaker rule: it cannot tell a better
    policy from one that has found what the reward overrates.
    """
    return max(looks, key=_merit)


def parted(looks: Sequence[Look], patience: int) -> bool:
    """Whether reward and held-out reward go apart: over-optimisation (Bai et al., 2204.05862; RLHF book, chapter 14).

    True where in each of the last `patience` looks the held-out reward was below its best so far while the reward was
    above what it was at that best. Without a held-out reward it can never be seen.
    """
    top = best(looks)
    since = [one for one in looks if one["update"] > top["update"]][-patience:]
    if len(since) < patience or top["held_out_reward"] is None:
        return False
    return all(one["held_out_reward"] < top["held_out_reward"] and one["reward"] > top["reward"] for one in since)


def folder_of(parent: Path, update: int) -> Path:
    """Where the policy of a look is kept."""
    return parent / "looks" / f"{update:04d}"


def best_folder(scratch: Path, update: int) -> Path:
    """Where the policy of a look is kept that was the best so far."""
    return scratch / f"best-{update:04d}"


def _forget(run: Run, looks: Sequence[Look], update: int) -> None:
    """Remove what no checkpoint can name as best again.

    Two checkpoints stay; training may go on from the older one, with the looks before it, and rewards need not come out
    the same: a judge may change its mind.
    """
    every = run.config.checkpoint_every
    settled = [one for one in looks if one["update"] < (update // every - 1) * every]
    for folder in run.scratch.glob("best-*") if settled else ():
        if folder.name < best_folder(run.scratch, best(settled)["update"]).name:
            shutil.rmtree(folder)


def _merit(one: Look) -> float:
    return float(one["reward"] if one["held_out_reward"] is None else one["held_out_reward"])


def _keep(policy: Policy, folder: Path) -> None:
    """Save beside and swap; a kill in between is made good when the look is taken again."""
    draft = folder.with_name("draft")
    shutil.rmtree(draft, ignore_errors=True)
    save_policy(policy, draft)
    if distributed.group().rank > 0:
        return
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
