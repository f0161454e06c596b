"""Whether both sides do the same work: without that a ratio says nothing."""

import math
from collections.abc import Mapping
from typing import Any

from bench.speed.cell import Cell

LOSS, GRADIENT = 1e-4, 1e-3
"""Largest relative difference in float32; in bfloat16 a hundred times as much."""
KL = 1e-3
"""Nats a completion between policy and reference before the first step."""


def differences(cell: Cell, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """What is not the same, in words; nothing where the work is.

    Given rows must give the first step's loss, and its gradient's length where all weights are trained (adapters start
    from other random numbers; a reward model of ours has a second reader). DPO's first loss is log 2 whatever is done,
    so there it is the gradient that tells. Samples differ, so of stages that sample it is what does not depend on them:
    completions, their lengths, and that policy and reference agree.
    """
    slack = 100.0 if cell.dtype == "bfloat16" else 1.0
    mine, other = ours["first"], theirs["first"]
    found = []

    def compare(name: str, left: Any, right: Any, tolerance: float) -> None:
        if left is None or right is None or not math.isclose(left, right, rel_tol=tolerance):
            found.append(f"{name} {left} and {right}")

    compare("tokens of the timed steps", ours["tokens"], theirs["tokens"], 0.0)
    if cell.samples:
        completions = cell.rows * cell.group
        for side, first in (("ours", mine), ("TRL", other)):
            compare(f"completions of a step, {side}:", first.get("completions"), completions, 1e-6)
            compare(f"tokens of a step, {side}:", first.get("tokens"), completions * cell.new_tokens, 0.0)
            if not abs(first.get("kl", math.inf)) <= KL * slack:
                found.append(f"KL at the first step, {side}: {first.get('kl')}")
        return found
    compare("first loss", mine.get("loss"), other.get("loss"), LOSS * slack)
    if cell.stage != "reward" and not cell.lora:
        compare("first gradient", mine.get("grad_norm"), other.get("grad_norm"), GRADIENT * slack)
    return found
