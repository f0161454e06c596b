"""What stages took beside what was said of them, kept in `<home>/plan.json`; it corrects the next plan."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from rlhf.footprint import How
from tasks.journal import home

KEPT = 5
"""Newest measurements of a kind of stage."""
TRUSTED = (0.5, 2.0)
"""A ratio beyond these says that something else was measured than was planned; it is kept and not gone by."""


def key(module: str, gpu: bool, how: How) -> str:
    """What is measured together."""
    return f"{module}, {'gpu' if gpu else 'cpu'}, {how.method}, {how.dtype}"


def ratios(root: Path) -> dict[str, float]:
    """Measured over predicted by `key`, the median of the newest."""
    return {
        name: min(max(median(one["measured"] / one["predicted"] for one in found), TRUSTED[0]), TRUSTED[1])
        for name, found in kept(root).items()
    }


def kept(root: Path) -> dict[str, list[dict[str, float]]]:
    """Bytes by `key`, oldest first; nothing of a file that is torn."""
    try:
        found: dict[str, list[dict[str, float]]] = json.loads((home(root) / "plan.json").read_text("utf-8"))
        return {name: [one for one in some if one["predicted"] > 0] for name, some in found.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def keep(root: Path, measured: Mapping[str, tuple[float, float]]) -> None:
    """Add (predicted, measured) bytes by `key`."""
    found = kept(root)
    for name, (predicted, took) in measured.items():
        found[name] = [*found.get(name, []), {"predicted": predicted, "measured": took}][-KEPT:]
    path = home(root) / "plan.json"
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    draft.replace(path)
