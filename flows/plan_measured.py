"""What stages took, memory and time, beside what was planned; kept in `<home>/plan.json`, it corrects the next plan."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from rlhf.footprint import How, Sizes
from tasks.journal import home

KEPT = 5
"""Newest measurements of a kind of stage."""
TRUSTED = (0.5, 2.0)
"""A ratio beyond these says that something else was measured than was planned; it is kept and not gone by."""
TIME = "time: "
"""What the names of rates begin with: seconds by planned operations, sampled tokens, or stages (`flows.plan_time`)."""


def key(module: str, sizes: Sizes, how: How) -> str:
    """What is measured together: models of about one size, kept and trained alike."""
    about = 4 ** round(math.log(max(sizes.parameters, 1), 4))
    return f"{module}, {'gpu' if how.cuda else 'cpu'}, {how.method}, {how.dtype}, about {about:.0e} weights"


def ratios(root: Path) -> dict[str, float]:
    """Measured over predicted by `key`, the median of the newest that are to be trusted."""
    found = {
        name: [ratio for one in some if TRUSTED[0] <= (ratio := one["measured"] / one["predicted"]) <= TRUSTED[1]]
        for name, some in kept(root).items()
        if not name.startswith(TIME)
    }
    return {name: median(some) for name, some in found.items() if some}


def rates(root: Path) -> dict[str, float]:
    """Seconds for each unit of what was planned, the median of the newest."""
    found = {name: some for name, some in kept(root).items() if name.startswith(TIME) and some}
    return {name: median(one["measured"] / one["predicted"] for one in some) for name, some in found.items()}


def kept(root: Path) -> dict[str, list[dict[str, float]]]:
    """Bytes by `key`, seconds by rate, oldest first; nothing of a file that is torn."""
    try:
        found: dict[str, list[dict[str, float]]] = json.loads((home(root) / "plan.json").read_text("utf-8"))
        return {name: [one for one in some if one["predicted"] > 0] for name, some in found.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def keep(root: Path, measured: Iterable[tuple[str, tuple[float, float]]]) -> None:
    """Add (predicted, measured) bytes by `key`, or (planned, seconds) by rate."""
    found = kept(root)
    for name, (predicted, took) in measured:
        found[name] = [*found.get(name, []), {"predicted": predicted, "measured": took}][-KEPT:]
    path = home(root) / "plan.json"
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    draft.replace(path)
