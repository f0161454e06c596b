"""Which pictures the page of a run has, drawn from its numbers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flows.page.facts import Facts, Numbers
from flows.page.svg import Figure, Point, Series, chart, number
from tasks.outcome import in_story_order

LABELS = {
    "gold_reward": "gold reward",
    "held_out_reward": "held-out reward",
    "reward": "reward that was optimised",
    "rule_reward": "reward by rules",
}
OWN = ("base", "sft", "random_control", "rejection_sampling", "dpo", "rl", "champion")
SPARE = 8
"""Colours for policies that have none of their own."""
Figures = list[Figure]


def colours(names: Iterable[str]) -> dict[str, str]:
    """A class of the page's style for each policy."""
    others = sorted(name for name in names if name not in OWN)
    return {name: f"p-{name}" for name in OWN} | {name: f"p-{index % SPARE}" for index, name in enumerate(others)}


def over_optimisation(facts: Facts) -> Figures:
    """What is wanted and what was optimised against √KL: where they part, the reward model is being exploited."""
    curves = facts.curves
    if not curves:
        return []
    by_name, paint = curves["policies"], colours(curves["policies"])
    shown = [metric for metric in LABELS if any(point.get(metric) for point in by_name.values())]
    figures = []
    for metric in shown:
        names = [name for name in in_story_order(by_name) if name != "base" and by_name[name].get(metric)]
        series = [Series("best of n from sft", _best_of_n(curves, metric), "p-path")] if curves["best_of_n"] else []
        series += [
            Series(name, [_point(by_name[name]["sqrt_kl"], by_name[name][metric], name)], paint[name], joined=False)
            for name in names
        ]
        figures.append(chart(LABELS[metric], series, x="√KL to sft"))
    return _there(figures)


def best_of_n(facts: Facts) -> Figures:
    """What the reward model's favourite of n answers is worth."""
    curve = (facts.curves or {}).get("best_of_n") or []
    figures = []
    for metric in LABELS:
        points = [_point(one["n"], one[metric], f"n={one['n']}") for one in curve if one.get(metric)]
        figures.append(chart(LABELS[metric], [Series("", points, "p-rl")], x="n", doubling=True))
    return _there(figures)


def trajectory(facts: Facts) -> Figures:
    """The looks at one RL run, by how far each has gone from SFT."""
    looks = (facts.trajectory or {}).get("looks") or []
    series = [
        Series(
            LABELS[metric], [_point(one["sqrt_kl"], one[metric], f"update {one['update']}") for one in looks], colour
        )
        for metric, colour in (("gold_reward", "p-champion"), ("held_out_reward", "p-dpo"), ("reward", "p-rl"))
        if all(one.get(metric) for one in looks)
    ]
    return _there([chart("rewards along the RL run", series, x="√KL to sft")])


def rl_curves(facts: Facts) -> Figures:
    """How the policy of each rl stage did on val while it was trained."""
    figures = []
    for stage, metrics in facts.metrics_of("rl").items():
        looks = metrics.get("val") or []

        def line(name: str, key: str, colour: str, looks: Sequence[Numbers] = looks) -> Series:
            points = [Point(one["update"], one[key]) for one in looks if one.get(key) is not None]
            return Series(name if points else "", points, colour)

        rewards = [line("reward", "reward", "p-rl"), line("held-out reward", "held_out_reward", "p-dpo")]
        kept = f"kept: update {metrics['kept']}" if metrics.get("kept") is not None else ""
        figures += [
            chart(f"{stage}: reward on val", [one for one in rewards if one.points], x="update", note=kept),
            chart(f"{stage}: KL to its reference", [line("", "kl", "p-champion")], x="update"),
            chart(f"{stage}: length in tokens", [line("", "length", "p-rejection_sampling")], x="update"),
        ]
    return _there(figures)


def trust(report: Numbers) -> Figures:
    """Does a reward model keep what it claims, and does length mislead it?"""
    parts = report.get("reliability") or []
    most = max((part["pairs"] for part in parts), default=1)
    calibration = [
        Point(
            part["claimed"],
            part["accuracy"],
            says=_pairs(part, "claims", part["claimed"]),
            size=3 + 6 * part["pairs"] / most,
        )
        for part in parts
    ]
    error = report.get("calibration_error")
    said = "" if error is None else f"expected calibration error {number(error)}; the larger a dot, the more pairs"
    lengths = report.get("by_length_difference") or []
    by_length = [
        Point(index, part["accuracy"], says=f"chosen is {_pairs(part, part['chosen_is'])}", size=5)
        for index, part in enumerate(lengths)
    ]
    note = "from left: " + ", ".join(f"{part['chosen_is']} ({part['pairs']})" for part in lengths)
    return _there(
        [
            chart(
                "calibration",
                [Series("", calibration, "p-rl")],
                x="claimed probability",
                y="accuracy",
                note=said,
                reference=((0.5, 0.5), (1.0, 1.0)),
            ),
            chart(
                "accuracy by difference in length",
                [Series("", by_length, "p-rejection_sampling")],
                x="chosen shorter → longer",
                y="accuracy",
                note=note,
                reference=((0.0, 0.5), (max(len(lengths) - 1, 1), 0.5)),
                numbered=False,
            ),
        ]
    )


def standing(facts: Facts, metric: str) -> list[dict[str, Any]]:
    """A bar a policy for what the judge says: name, colour, mean, interval, and where these lie in percent."""
    policies = (facts.scores or {"policies": {}})["policies"]
    rows = [(name, policies[name][metric]) for name in in_story_order(policies) if policies[name].get(metric)]
    if not rows:
        return []
    low, high = min(point["ci_low"] for _, point in rows), max(point["ci_high"] for _, point in rows)
    low, width = low - 0.05 * (high - low or 1.0), 1.1 * (high - low or 1.0)
    paint = colours(policies)

    def at(value: float) -> float:
        return round(100 * (value - low) / width, 2)

    return [
        {
            "name": name,
            "colour": paint[name],
            "mean": f"{point['mean']:.2f}".replace("-", "−"),
            "at": at(point["mean"]),
            "from": at(point["ci_low"]),
            "wide": round(at(point["ci_high"]) - at(point["ci_low"]), 2),
        }
        for name, point in rows
    ]


def _best_of_n(curves: Mapping[str, Any], metric: str) -> list[Point]:
    return [
        Point(
            one["kl_bound"] ** 0.5,
            one[metric]["mean"],
            says=f"best of {one['n']}: {number(one[metric]['mean'])}",
            size=2.5,
        )
        for one in curves["best_of_n"]
        if one.get(metric)
    ]


def _point(x: float, value: Numbers, name: str) -> Point:
    between = f"{number(value['ci_low'])} to {number(value['ci_high'])}"
    return Point(x, value["mean"], value["ci_low"], value["ci_high"], f"{name}: {number(value['mean'])}, {between}")


def _pairs(part: Numbers, what: str, value: float | None = None) -> str:
    claimed = "" if value is None else f" {number(value)}"
    return f"{what}{claimed}: right in {number(part['accuracy'])} of {part['pairs']} pairs"


def _there(figures: Iterable[Figure | None]) -> Figures:
    return [figure for figure in figures if figure is not None]
