"""Hand-made scores.json of a run whose RL policy ought to be promoted; tests spoil one number each."""

from typing import Any

GOLD = {"base": 0.42, "sft": 0.56, "random_control": 0.57, "rejection_sampling": 0.66, "dpo": 0.67, "rl": 0.73}
KL = {"base": 30.0, "sft": 0.0, "random_control": 0.4, "rejection_sampling": 0.8, "dpo": 1.3, "rl": 2.2}
METRICS = ("gold_reward", "reward", "held_out_reward", "kl", "length", "stop_rate", "nll", "greedy_gold_reward")


def interval(mean: float, half: float = 0.02) -> dict[str, float]:
    return {"mean": mean, "ci_low": mean - half, "ci_high": mean + half}


def policy(name: str, gold: float) -> dict[str, Any]:
    return {
        "gold_reward": interval(gold),
        "reward": interval(4 * gold - 2, 0.1),
        "held_out_reward": interval(3 * gold - 1.5, 0.1),
        "win_rate_vs_sft": interval(0.5 + gold - GOLD["sft"]),
        "kl": interval(KL.get(name, 2.0), 0.2),
        "length": interval(16.0 + gold, 0.3),
        "stop_rate": interval(0.99, 0.005),
        "nll": interval(0.9 + KL.get(name, 2.0) / 20),
        "greedy_gold_reward": interval(gold + 0.05),
    }


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    return {
        metric: interval(ours[metric]["mean"] - theirs[metric]["mean"])
        for metric in METRICS
        if ours[metric] and theirs[metric]
    }


def healthy(champion_gold: float | None = None) -> dict[str, Any]:
    """A run in which all is well; with a champion of that gold reward where one is given."""
    golds = GOLD | ({} if champion_gold is None else {"champion": champion_gold})
    policies = {name: policy(name, gold) for name, gold in golds.items()}
    against = {
        "sft": [name for name in golds if name != "sft"],
        "random_control": ["rejection_sampling"],
        "rejection_sampling": ["rl"],
        "champion": ["rejection_sampling", "rl", "dpo"],
    }
    scorers = {"policy_rm": "rm-one", "held_out_rm": "rm-two"}
    kept = {"version": 3, "resampled": False, "base": "base-a"}
    return {
        "judge": "gold",
        "policies": policies,
        "differences": {
            other: {name: difference(policies[name], policies[other]) for name in names}
            for other, names in against.items()
            if other in policies
        },
        "selection": {
            "split": "val",
            "judge": "gold",
            "prompts": 200,
            "policies": {"rejection_sampling": interval(0.64), "rl": interval(0.71), "dpo": interval(0.66)},
        },
        "evaluation_set": {
            "digest": "questions",
            "split": "eval",
            "prompts": 400,
            "samples_per_prompt": 4,
            "temperature": 1.0,
            "max_new_tokens": 48,
        },
        "scorers": scorers,
        "base": "base-a",
        "chat": "chat-a",
        "champion": None if champion_gold is None else kept,
    }


def trusted() -> dict[str, Any]:
    """Metrics of a reward model that may be believed."""
    accuracy = {"mean": 0.72, "ci_low": 0.69, "ci_high": 0.75}
    return {"trusted": True, "reasons": [], "policy_rm": {"accuracy": accuracy, "ceiling": 0.85, "pairs": 1000}}
