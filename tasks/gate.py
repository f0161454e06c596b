"""Stage `gate`: may this run's best policy replace the one that serves? A pure function of numbers already on disk.

In: scores.json of `evaluate`, the metrics of `validate`, and those of `reward_model` where the run has one. Out:
`gate.json` with every check, its value and its limit. The candidate is compared with the champion, not with the best of
the batch; without a champion it must beat SFT by the same checks. Moving the registry's alias is a side effect and
belongs to the flow.

    python -m tasks.gate --help
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.comparison import JUDGED_BY
from rlhf.errors import PreflowError
from rlhf.records import write_json
from tasks.config.gate import Gate
from tasks.journal import Log
from tasks.stage import main

Scores = Mapping[str, Any]
Check = dict[str, Any]


def gate(
    config: Gate, *, scores: Path, reward_metrics: Path | None = None, validation: Path, out: Path, log: Log
) -> None:
    """Write `gate.json`: promote or not, for which candidate, against whom, check by check."""
    verdict = decide(config, _read(scores), _read(reward_metrics) if reward_metrics else None, _read(validation))
    log.table("gate", verdict["checks"])
    write_json(out / "gate.json", verdict)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def decide(
    config: Gate, scores: Scores, reward_metrics: Mapping[str, Any] | None, validation: Mapping[str, Any]
) -> Check:
    """The verdict. Every check is made even after one failed, so that one reading tells all there is to mend."""
    candidate = choose(config, scores)
    against = "sft" if scores["champion"] is None else "champion"
    checks = [
        *_comparable(scores),
        *_gains(config, scores, candidate, against),
        *_budgets(config, scores, candidate),
        *_trust(config, scores, reward_metrics, validation),
    ]
    return {
        "promote": all(check["passed"] for check in checks),
        "candidate": candidate,
        "against": against,
        "judge": scores["judge"],
        "checks": checks,
        "reason": _reason(scores, candidate, against, checks),
    }


def choose(config: Gate, scores: Scores) -> str:
    """The policy put forward. `best` reads the selection scores on `val` only; ties go to the first by name."""
    standing = {name: score["mean"] for name, score in scores["selection"]["policies"].items()}
    if not standing:
        raise PreflowError("gate: no policy to choose from; give evaluate at least one with --policies, no control")
    if config.candidate == "best":
        return min(standing, key=lambda name: (-standing[name], name))
    if config.candidate not in standing:
        raise PreflowError(
            f"gate.candidate is {config.candidate}, but the candidates are {', '.join(sorted(standing))}; "
            "name one of them or set it to best"
        )
    return config.candidate


def _comparable(scores: Scores) -> list[Check]:
    """A champion of another base has other tokens and other positions, unless it answered again in this run's terms.

    That it answered the same prompts, and was scored by the same scorers, `evaluate` makes sure of.
    """
    champion = scores["champion"]
    if champion is None:
        return []
    same_base = champion["base"] == scores["base"] or champion["resampled"]
    return [_check("same_base", champion["base"], scores["base"], same_base)]


def _gains(config: Gate, scores: Scores, candidate: str, against: str) -> list[Check]:
    """Significantly better by the judge, and no reward bought by losing what the reward stands for."""
    gains = scores["differences"][against][candidate]
    gain = gains[JUDGED_BY[scores["judge"]]]["ci_low"]
    checks = [_check(f"gain_over_{against}", gain, config.min_gain, gain > config.min_gain)]
    # Of one that nobody knows, or that is no number, take the worst.
    reward_rose = gains["reward"] is None or not gains["reward"]["mean"] <= 0
    for metric in ("gold_reward", "held_out_reward"):
        if gains[metric] is not None:
            change = gains[metric]["mean"]
            checks.append(_check(f"{metric}_not_down", change, 0.0, not reward_rose or change >= 0))
    return checks


def _budgets(config: Gate, scores: Scores, candidate: str) -> list[Check]:
    policy, sft = scores["policies"][candidate], scores["policies"]["sft"]
    kl, stop_rate = policy["kl"]["mean"], policy["stop_rate"]["mean"]
    length = policy["length"]["mean"] / max(sft["length"]["mean"], 1e-9)
    # Without demonstrations to forget: how much less fluent its answers are to SFT than SFT's own.
    change = scores["differences"]["sft"][candidate]
    loss, further = ("nll", "nll_increase") if change["nll"] else ("answer_nll", "answer_nll_increase")
    forgetting = change[loss]["mean"]
    return [
        _check("kl", kl, config.max_kl, kl <= config.max_kl),
        _check("length_ratio", length, config.max_length_ratio, length <= config.max_length_ratio),
        _check("stop_rate", stop_rate, config.min_stop_rate, stop_rate >= config.min_stop_rate),
        _check(further, forgetting, config.max_nll_increase, forgetting <= config.max_nll_increase),
    ]


def _trust(
    config: Gate, scores: Scores, reward_metrics: Mapping[str, Any] | None, validation: Mapping[str, Any]
) -> list[Check]:
    """The numbers above are worth what the reward model and the data behind them are worth."""
    used = any(scores["scorers"].values())
    if reward_metrics is None:
        found = "metrics not given: --reward-metrics" if used else "no reward model in this graph"
    else:
        found = "trusted" if reward_metrics["trusted"] else "; ".join(reward_metrics["reasons"])
    counts = [count for count in validation.values() if isinstance(count, Mapping)]
    share = max((count["set_aside"] / max(count["rows"], 1) for count in counts), default=0.0)
    limit = config.max_quarantine_share
    return [
        _check("reward_model", found, "trusted", found == "trusted" or (reward_metrics is None and not used)),
        _check("quarantine_share", share, limit, share <= limit),
    ]


def _check(name: str, value: Any, limit: Any, passed: bool) -> Check:
    return {"name": name, "value": value, "limit": limit, "passed": bool(passed)}


def _reason(scores: Scores, candidate: str, against: str, checks: list[Check]) -> str:
    gain = scores["differences"][against][candidate][JUDGED_BY[scores["judge"]]]
    shown = f"{gain['mean']:+.3f} [{gain['ci_low']:+.3f}, {gain['ci_high']:+.3f}] by {scores['judge']}"
    failed = [check for check in checks if not check["passed"]]
    if not failed:
        return f"{candidate} beats {against} by {shown}; all {len(checks)} checks passed"
    causes = "; ".join(f"{check['name']} {_shown(check['value'])}, limit {_shown(check['limit'])}" for check in failed)
    return f"{candidate} is not promoted ({shown} over {against}): {causes}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, int | float) else str(value)


if __name__ == "__main__":
    main(gate)
