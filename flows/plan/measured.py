"""What stages took, memory and time, beside what was planned; kept in `<home>/plan.json`, it corrects the next plan."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from flows.guards import held
from rlhf.sizes import How, Sizes
from tasks.journal import home

KEPT = 5
"""Newest measurements of a kind of stage."""
TRUSTED = (0.5, 2.0)
"""A ratio beyond these says that something else was measured than was planned; it is kept and not gone by."""
TIME = "time: "
"""What the names of rates begin with: seconds by planned operations, sampled tokens, or stages (`flows.plan.time`)."""
Measured = tuple[str, tuple[float, float]]
"""`key`, and bytes that were predicted and measured; or a rate's name, and what was planned and seconds."""


def key(module: str, sizes: Sizes, how: How) -> str:
    """What is measured together: models of about one size, kept and trained alike."""
    about = 4 ** round(math.log(max(sizes.parameters, 1), 4))
    return f"{module}, {'gpu' if how.cuda else 'cpu'}, {how.method}, {how.dtype}, about {about:.0e} weights"


@dataclass(frozen=True)
class Learnt:
    """What corrects the next plan."""

    ratios: Mapping[str, float]
    """Measured over predicted bytes by `key`, the median of the newest that are to be trusted."""
    rates: Mapping[str, float]
    """Seconds for each unit of what was planned, the median of the newest."""


def learnt(root: Path) -> Learnt:
    """Of all that the project keeps."""
    ratios, rates = {}, {}
    for name, some in kept(root).items():
        found = [one["measured"] / one["predicted"] for one in some]
        if name.startswith(TIME):
            rates[name] = found
        else:
            ratios[name] = [ratio for ratio in found if TRUSTED[0] <= ratio <= TRUSTED[1]]
    return Learnt(*({name: median(some) for name, some in one.items() if some} for one in (ratios, rates)))


def kept(root: Path) -> dict[str, list[dict[str, float]]]:
    """Bytes by `key`, seconds by rate, oldest first; nothing of a file that is torn."""
    try:
        found: dict[str, list[dict[str, float]]] = json.loads((home(root) / "plan.json").read_text("utf-8"))
        return {name: [one for one in some if one["predicted"] > 0] for name, some in found.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def keep(root: Path, measured: Collection[Measured]) -> None:
    """Add them to what the project keeps; stages of several hosts may end at the same time."""
    if not measured:
        return
    path = home(root) / "plan.json"
    draft = path.with_suffix(".tmp")
    with held(path.with_suffix(".lock"), "what stages took", wait=math.inf):
        found = kept(root)
        for name, (predicted, took) in measured:
            found[name] = [*found.get(name, []), {"predicted": predicted, "measured": took}][-KEPT:]
        draft.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        draft.replace(path)
