"""From raw values of several policies to the numbers that are reported: means, win rates, paired differences.

Every policy answered the same prompts, so values are arrays [P, G] (P prompts, G completions a prompt) or [P] (one
value a prompt or demonstration); None where a metric is unknown. Intervals resample prompts, see `rlhf.statistics`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.statistics import bootstrap_mean, paired_bootstrap, win_rate

Measured = Mapping[str, NDArray[np.float64] | None]
"""Metric to values, of one policy."""

METRICS = (
    "gold_reward",
    "reward",
    "held_out_reward",
    "kl",
    "length",
    "stop_rate",
    "nll",
    "greedy_gold_reward",
    "rule_reward",
    "answer_nll",
)
GIVEN = ("base", "sft", "champion")
"""Policies that every evaluation has, or may have."""
JUDGED_BY = {"gold": "gold_reward", "held_out_rm": "held_out_reward", "rules": "rule_reward"}
"""Who may judge, and by which metric. The reward model that was optimised is none of them; a verifier of the embedded
world shares correctness with gold, though, so after verifiable rewards gold says more of manners than of the method.
Rules judge where nobody else can: of a verifier that is what was asked for, of a score like sentiment it is the very
number that was optimised, and what it cost (`kl`, `answer_nll`) belongs beside it."""


def pairs_of(policies: Sequence[str], further: Sequence[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """Which differences are worth having, as (policy, against), of those that are there.

    Everyone against SFT; candidates against the champion; rejection sampling against its random control, which tells
    what the reward added; rl against rejection sampling, which it usually starts from; and `further` ones.
    """
    wanted = [(name, "sft") for name in policies if name != "sft"]
    wanted += [(name, "champion") for name in candidates_of(policies)]
    wanted += [("rejection_sampling", "random_control"), ("rl", "rejection_sampling"), *further]
    return [pair for pair in dict.fromkeys(wanted) if set(pair) <= set(policies)]


def candidates_of(policies: Iterable[str]) -> list[str]:
    """Those that were trained to be better: neither where training began, nor a control, nor the champion."""
    return [name for name in policies if name not in GIVEN and not name.endswith("control")]


def standings(policies: Mapping[str, Measured], judge: str, seed: int, samples: int) -> dict[str, dict[str, Any]]:
    """For each policy every metric, and win rates against SFT and the champion where there is one; with intervals."""
    metric = JUDGED_BY[judge]
    opponents = [name for name in ("sft", "champion") if name in policies]
    result: dict[str, dict[str, Any]] = {}
    for name, measured in policies.items():
        row: dict[str, Any] = {key: interval(measured[key], seed, samples) for key in METRICS}
        for opponent in opponents:
            wins = win_rate(measured[metric], policies[opponent][metric])
            row[f"win_rate_vs_{opponent}"] = interval(wins, seed, samples)
        result[name] = row
    return result


def differences(
    policies: Mapping[str, Measured], pairs: Sequence[tuple[str, str]], seed: int, samples: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Paired differences `name` − `against` of every metric that both have: {against: {name: {metric: interval}}}.

    `pairs` are (name, against); those with a policy that was not evaluated are left out.
    """
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for name, against in pairs:
        if name in policies and against in policies:
            row = result.setdefault(against, {})[name] = {}
            for key in METRICS:
                ours, theirs = policies[name][key], policies[against][key]
                known = ours is not None and theirs is not None
                row[key] = (
                    paired_bootstrap(by_prompt(ours), by_prompt(theirs), seed, samples).as_dict() if known else None
                )
    return result


def frontier(policies: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The points of the over-optimisation plot (Gao et al., 2210.10760): rewards of each policy against √KL to SFT."""
    kept = ("gold_reward", "reward", "held_out_reward", "rule_reward")
    return {
        name: {"sqrt_kl": math.sqrt(max(row["kl"]["mean"], 0.0)), **{metric: row[metric] for metric in kept}}
        for name, row in policies.items()
    }


def interval(values: NDArray[np.float64] | None, seed: int, samples: int) -> dict[str, float] | None:
    """Mean and interval over prompts of values [P, G] or [P]; None stays None."""
    return None if values is None else bootstrap_mean(by_prompt(values), seed, samples).as_dict()


def by_prompt(values: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """One value a prompt, [P]: the mean over its completions."""
    data = np.asarray(values, dtype=np.float64)
    return data.mean(axis=1) if data.ndim == 2 else data
