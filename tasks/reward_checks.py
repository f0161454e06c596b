"""The checks that a reward model must pass before anything is optimised against it, each by name."""

from collections.abc import Mapping
from typing import Any

from tasks.config.reward_model import RewardModel

MIN_BIN_PAIRS = 50
"""A bin of fewer pairs is not judged: its accuracy is noise."""


def checks(config: RewardModel, model: str, measured: Mapping[str, Any], split: str) -> list[dict[str, Any]]:
    """What was measured on `split` against the limits of the configuration, a row a check.

    Each has the `check` (its name), the `model`, the `split`, the `value` seen (None where there was too little to
    judge by, which passes), the `limit`, the `knob` that holds it, and whether it `passed`.
    """
    bins = [part["accuracy"] for part in _uneven(measured["by_length"]) if part["pairs"] >= MIN_BIN_PAIRS]
    values = {
        "accuracy": (measured["accuracy"]["mean"], "min_accuracy"),
        "length_bin_accuracy": (min(bins, default=None), "min_length_bin_accuracy"),
        "calibration_error": (measured["calibration_error"], "max_calibration_error"),
        "length_correlation": (abs(measured["length_correlation"]), "max_length_correlation"),
        "padding_gap": (measured["padding_gap"], "max_padding_gap"),
    }
    found = []
    for name, (value, knob) in values.items():
        limit = getattr(config, knob)
        passed = value is None or (value >= limit if knob.startswith("min_") else value <= limit)
        row = {"check": name, "model": model, "split": split, "value": value, "limit": limit, "knob": knob}
        found.append(row | {"passed": passed})
    return found


def reason(check: Mapping[str, Any]) -> str:
    """A failed check as a sentence that begins with its name: the number seen, the limit and the knob that holds it."""
    side = "below" if check["knob"].startswith("min_") else "above"
    value = f"{check['value']:.3f}" if check["limit"] >= 0.01 else f"{check['value']:.2g}"
    where = f"reward_model.{check['knob']} {check['limit']:g}"
    return f"{check['check']} of {check['model']} on {check['split']} is {value}, {side} {where}"


def _uneven(by_length: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [by_length[name] for name in ("chosen_longer", "chosen_shorter") if name in by_length]
