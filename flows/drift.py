"""How far a run's data have drifted from those the champion was made of."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows import dvc
from flows.cache import files_of

REPORT = "data/03_validated/report"
LARGE = 0.25
"""By the usual reading of the population stability index; below 0.1 is no change."""


def drift(root: Path, tree: Path, champion: Mapping[str, Any] | None) -> dict[str, float]:
    """The largest stability index of each kind of data, against the champion's profile out of the DVC cache.

    Empty without a champion, or where either has no profile.
    """
    from tasks.validation.profile import drift as index  # numpy
    from tasks.validation.profile import read_profiles

    if champion is None:
        return {}
    kept = files_of(dvc.cache(root), champion["digests"].get(REPORT)).get("profile.json")
    now = read_profiles(tree / REPORT / "profile.json")
    before = json.loads(kept.read_text(encoding="utf-8")) if kept else {}
    found = {kind: index(now[kind], before[kind]) for kind in now.keys() & before.keys()}
    return {kind: value for kind, value in sorted(found.items()) if value is not None}


def sentence(found: Mapping[str, float]) -> str:
    """Drift in words; "" where none was measured."""
    if not found:
        return ""
    moved = [f"{kind} {value:.2f}{' (large)' * (value > LARGE)}" for kind, value in found.items() if value > 0]
    return f"drift from the champion's data: {', '.join(moved) or 'none'}"
