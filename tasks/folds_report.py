"""What stage `folds` found, as lines for people: printed by the stage, and again at the end of a run."""

from collections.abc import Mapping
from typing import Any


def lines(metrics: Mapping[str, Any]) -> list[str]:
    """A line a fold, the budget, both accuracies with their difference, and how much of it is length."""
    budget, dropped, length = metrics["budget"], metrics["dropped"], metrics["length"]
    left_out = ", ".join(f"{count:.0f} {name.removeprefix('dropped_')}" for name, count in sorted(dropped.items()))
    return [
        f"reward model by folds: {metrics['pairs']} pairs in {metrics['groups']} groups, left out: {left_out}",
        f"{'fold':>6}{'train':>8}{'held out':>10}{'reward model':>14}{'length rule':>13}  which prefers",
        *map(_fold, metrics["folds"]),
        f"training: {budget['models']} models of {budget['parameters']:,} parameters, of which "
        f"{budget['trained_parameters']:,} are trained; epochs {budget['epochs']}, {budget['steps']} steps, "
        f"{budget['tokens']:,} tokens in all",
        f"accuracy {_interval(metrics['accuracy'])}, length rule {_interval(metrics['length_rule'])}, "
        f"paired difference {_interval(metrics['difference'], '+')}",
        f"without length: {_share(length['matched_accuracy'])} where longer and shorter count alike "
        f"(every length rule: .500); {_part(length['length_part'])}correlation of margin and length difference "
        f"{length['margin_length_correlation']:+.2f}",
        f"where the rule is right {_share(length['accuracy_where_rule_is_right'])}, where it is wrong "
        f"{_share(length['accuracy_where_rule_is_wrong'])}; both prefer the same side of "
        f"{_share(length['agreement_with_rule'])} of the pairs",
    ]


def _fold(part: Mapping[str, Any]) -> str:
    figures = f"{part['accuracy']:>14.3f}{part['length_rule']:>13.3f}"
    return (
        f"{part['fold']:>6}{part['train_pairs']:>8}{part['held_out_pairs']:>10}{figures}  {part['length_rule_prefers']}"
    )


def _part(share: float | None) -> str:
    return "" if share is None else f"{share:.0%} of what is above a half goes with length; "


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(found: Mapping[str, float], sign: str = "") -> str:
    return f"{found['mean']:{sign}.3f} [{found['ci_low']:{sign}.3f}, {found['ci_high']:{sign}.3f}]"
