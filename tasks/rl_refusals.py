"""What stage `rl` refuses before it trains: rewards that nobody vouches for, and settings that would do nothing."""

import json
from pathlib import Path

from rlhf.errors import PreflowError
from tasks.config.algorithms.on_policy import OnPolicyAlgorithm
from tasks.config.rl import Rl
from tasks.config.training import Training
from tasks.reward_inputs import lexicon_for, model_for


def refuse_unfit(
    config: Rl,
    algorithm: OnPolicyAlgorithm,
    training: Training,
    *,
    reward_model: Path | None = None,
    reward_metrics: Path | None = None,
    held_out: Path | None = None,
    demonstrations: Path | None = None,
    samples: Path | None = None,
    lexicon: Path | None = None,
) -> None:
    """What its settings and the paths in its command alone say, before any file is there: a run asks it of a stage that
    it will come to in hours.

    Raises:
        PreflowError: a path that the settings need is not given, or settings that exclude each other.
    """
    metrics_for(config, reward_metrics)
    refuse_blind_choice(config, held_out)
    refuse_idle_target(config, algorithm)
    refuse_dropout(training)
    refuse_off_policy(config, algorithm)
    model_for(config.rewards, reward_model)
    lexicon_for(config.rewards, lexicon)
    samples_for(config, samples)
    refuse_undemonstrated(config, demonstrations is not None)


def metrics_for(config: Rl, reward_metrics: Path | None) -> Path | None:
    """The reward model's own checks, where it has to have passed them."""
    if not config.rewards.reward_model or config.allow_untrusted:
        return None
    if reward_metrics is None:
        raise PreflowError(
            "the reward model's own checks are not given: add --reward-metrics, set rl.rewards.reward_model to 0, or "
            "set rl.allow_untrusted to optimise it all the same"
        )
    return reward_metrics


def samples_for(config: Rl, samples: Path | None) -> Path | None:
    """The rollouts that say how often each prompt is solved; None where any is welcome."""
    if (config.min_solve_rate, config.max_solve_rate) == (0.0, 1.0):
        return None
    if samples is None:
        raise PreflowError(
            f"{solve_limits(config)} need the rewards of a rollout store: give --samples, or set them to 0 and 1"
        )
    return samples


def solve_limits(config: Rl) -> str:
    """In words."""
    return f"rl.min_solve_rate {config.min_solve_rate:g} and max_solve_rate {config.max_solve_rate:g}"


def refuse_undemonstrated(config: Rl, there: bool) -> None:
    """PPO-ptx learns from demonstrations too; `there` says whether there are any."""
    if config.ptx_coef and not there:
        raise PreflowError(
            f"rl.ptx_coef is {config.ptx_coef} and there are 0 demonstrations, expected at least 1: give "
            "--demonstrations a folder with train.jsonl, or set rl.ptx_coef to 0"
        )


def refuse_untrusted(config: Rl, reward_metrics: Path | None) -> None:
    """A reward model must have passed its own checks; those that it failed are named."""
    metrics = metrics_for(config, reward_metrics)
    if metrics is None:
        return
    verdict = json.loads(metrics.read_text(encoding="utf-8"))
    if not verdict["trusted"]:
        raise PreflowError(
            f"the reward model failed its own checks ({'; '.join(verdict['reasons'])}): "
            "improve its data, or set rl.allow_untrusted to optimise it all the same"
        )


def refuse_blind_choice(config: Rl, held_out: Path | None) -> None:
    """A judge compares completions of one prompt, so its mean is ½ for every policy: every look would be the best."""
    weights = config.rewards
    if weights.judge and config.select_best and held_out is None and not any((weights.reward_model, *weights.rules)):
        raise PreflowError(
            "the judge is the only reward and is the same for every policy, so the best one on val cannot be told: "
            "set rl.select_best to false, or give a held-out reward model with --held-out"
        )


def refuse_dropout(training: Training) -> None:
    """The sampler sees every input of an adapter; a trainer that does not would not be on-policy."""
    if training.method != "full" and training.dropout:
        raise PreflowError(f"training.dropout is {training.dropout}, and rl learns from what it samples: set it to 0")


def refuse_idle_target(config: Rl, algorithm: OnPolicyAlgorithm) -> None:
    """A coefficient that is not used, or is 0, cannot be adapted to a target."""
    where = getattr(algorithm, "kl_in", "none")
    if config.kl_target is not None and (where == "none" or not config.kl_coef):
        raise PreflowError(
            f"rl.kl_target is {config.kl_target}, and {config.algorithm} charges no KL (rl.kl_coef {config.kl_coef}, "
            f"kl_in {where}): nothing would hold to it; set rl.kl_target to null, or charge KL"
        )


def refuse_off_policy(config: Rl, algorithm: OnPolicyAlgorithm) -> None:
    """Another engine computes a little otherwise, and what it samples is learnt from as if the policy had."""
    if config.sampler != "ours" and algorithm.importance_cap is None:
        raise PreflowError(
            f"rl.sampler is {config.sampler}, whose numerics are not the trainer's, and nothing would correct for it: "
            f"set algorithms.{config.algorithm}.importance_cap (2 is usual), or rl.sampler to ours"
        )
