"""Why two runs, versions or refs are not the same: what differs at the root, what follows, and what it came to."""

from pathlib import Path
from typing import Any

from flows import dvc
from flows.diff import data, metrics, stages
from flows.diff.sides import Side, open_side


def diff(root: Path, a: str, b: str = "") -> dict[str, Any]:
    """From `a` to `b` (names as `flows.again.resolve` has them; "" for the working tree), as plain values.

    `causes` is the answer: what differs and follows from nothing else. `stages` says of each stage what it is due to.
    Only git, dvc.lock and the DVC cache are read; what the cache does not have is told as missing.

    Raises:
        PreflowError: one of them is not known.
    """
    cache = dvc.cache(root)
    return between(open_side(root, a, cache), open_side(root, b, cache))


def between(old: Side, new: Side) -> dict[str, Any]:
    """The same for two sides that are open."""
    found = stages.stages(old, new)
    causes = stages.causes(found)
    for cause in causes:
        if cause["kind"] == "data":
            cause["files"] = data.brought(old, new, cause["what"])
    return {
        "a": {"label": old.label, "commit": old.commit},
        "b": {"label": new.label, "commit": new.commit},
        "causes": causes,
        "stages": found,
        "files": data.files(old, new),
        "policies": metrics.policies(old, new),
        "metrics": metrics.others(old, new),
        "gate": metrics.verdicts(old, new),
    }
