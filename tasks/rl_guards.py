"""What ends stage `rl` before its time: a policy that has left its reference, and rewards that never differ.

Nothing is written then, so nothing of it can be promoted; checkpoints and the best policy so far stay in the scratch
folder. What is watched over several updates is kept in the checkpoints, so that a run that was killed ends there too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.errors import NumericsError
from tasks.config.rl import Rl

KL_PATIENCE = 3
"""Updates in a row above `rl.kl_limit`."""


def watched() -> dict[str, Any]:
    """Before the first update."""
    return {"far": 0, "contrast": False}


def refuse_to_go_on(config: Rl, seen: dict[str, Any], update: int, metrics: Mapping[str, float], kept: Path) -> None:
    """Look at the metrics of one update's rollouts. Raises NumericsError where going on would be of no use."""
    seen["far"] = seen["far"] + 1 if config.kl_limit is not None and metrics["kl_token"] > config.kl_limit else 0
    if seen["far"] >= KL_PATIENCE:
        raise NumericsError(
            f"kl_diverged: up to update {update} the policy was {KL_PATIENCE} times in a row more than rl.kl_limit "
            f"({config.kl_limit}) nats a token from its reference, now {metrics['kl_token']:.1f}: lower the "
            "algorithm's lr, or raise rl.kl_coef; the best policy on val before that is the highest best-* in "
            f"{kept}"
        )
    seen["contrast"] = seen["contrast"] or _differ(metrics) or config.ptx_coef > 0  # which learns from demonstrations
    over = config.signal_within is not None and config.signal_within <= update + 1 < config.num_updates
    if over and not seen["contrast"]:
        raise NumericsError(
            f"no_signal: in {update + 1} updates from the first on no two completions of a prompt had different "
            f"rewards (now all about {metrics['reward']:.3g}), so there is nothing to learn: look at rl.rewards, raise "
            "the algorithm's group_size or generation.temperature, or take prompts that are neither too hard nor too "
            "easy (rl.min_solve_rate, max_solve_rate)"
        )


def _differ(metrics: Mapping[str, float]) -> bool:
    """Within a group; with one completion a prompt, within the batch."""
    return metrics["zero_std_groups"] < 1.0 if "zero_std_groups" in metrics else metrics["reward_std"] > 0.0
