"""Prompts by how often they are solved: those that always or never are have nothing to teach a group of answers.

The rate of a prompt is the mean reward of its completions in a rollout store (stage `sample`), which must lie between
0 and 1, as that of a verifier with weight 1 does.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from rlhf.errors import PreflowError
from rlhf.records import Row
from rlhf.rollouts import read_rollouts
from tasks.config.rl import Rl
from tasks.rl_refusals import samples_for, solve_limits

Solvable = Callable[[Sequence[Row]], tuple[list[Row], dict[str, float]]]
"""Prompt rows to those that are kept, and the counts of the others."""


def solvable(config: Rl, samples: Path | None) -> Solvable | None:
    """What keeps the prompts with a solve rate from min_solve_rate to max_solve_rate; None where any is welcome.

    A prompt that was not sampled has no rate, and is left out where rates count. Raises PreflowError where the limits
    say something and there are no samples, where rewards are no rates, and, when called, where no prompt is left.
    """
    store = samples_for(config, samples)
    if store is None:
        return None
    low, high, limits = config.min_solve_rate, config.max_solve_rate, solve_limits(config)
    rates = solve_rates(store)

    def keep(rows: Sequence[Row]) -> tuple[list[Row], dict[str, float]]:
        kept = [row for row in rows if row["id"] in rates and low <= rates[row["id"]] <= high]
        known = [rates[row["id"]] for row in rows if row["id"] in rates]
        counts = {
            "dropped_hard": float(sum(rate < low for rate in known)),
            "dropped_easy": float(sum(rate > high for rate in known)),
            "dropped_unmeasured": float(len(rows) - len(known)),
        }
        if not kept:
            raise PreflowError(
                f"0 of {len(rows)} prompts are left by {limits}: {counts['dropped_hard']:.0f} were solved less often, "
                f"{counts['dropped_easy']:.0f} more often, {counts['dropped_unmeasured']:.0f} were not sampled; "
                "widen the limits, raise sample.num_prompts and group_size, or train a better policy first"
            )
        return kept, counts | {"kept_by_solve_rate": float(len(kept))}

    return keep


def solve_rates(folder: Path) -> dict[str, float]:
    """Mean reward of each prompt's completions in `rollouts.jsonl`, by the id of the prompt."""
    rewards: dict[str, list[float]] = {}
    for one in read_rollouts(folder / "rollouts.jsonl"):
        if one.reward is None or not 0 <= one.reward <= 1:
            raise PreflowError(
                f"a completion of prompt {one.prompt_id} has the reward {one.reward}, a solve rate is 0 to 1: sample "
                "with the verifier alone, with weight 1"
            )
        rewards.setdefault(one.prompt_id, []).append(one.reward)
    return {name: sum(found) / len(found) for name, found in rewards.items()}
