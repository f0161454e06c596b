"""What was measured of a part, kept size by size in bench/limits/results, so that a bench that is stopped goes on."""

import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.speed.store import commit, machine

RESULTS = Path(__file__).parent / "results"
Point = dict[str, list[float]]
"""By measure: processor seconds of each block of repeats; of what is counted, the one count."""
Record = dict[str, Any]


def load(part: str, folder: Path = RESULTS) -> Record:
    """What is kept of a part; without sizes where nothing is."""
    path = folder / f"{part}.json"
    found: Record = json.loads(path.read_text("utf-8")) if path.exists() else {"sizes": {}}
    return found


def keep(part: str, size: int, point: Mapping[str, Sequence[float]], programs: Mapping[str, str],
         folder: Path = RESULTS) -> None:  # fmt: skip
    """Add one size to what is kept; how busy the machine was is kept with it."""
    record = load(part, folder) | {"machine": machine(), "programs": dict(programs)}
    told = {name: [round(value, 4) for value in values] for name, values in point.items()}
    record["sizes"][str(size)] = {"point": told, "commit": commit(), "load": round(os.getloadavg()[1], 1)}
    folder.mkdir(exist_ok=True)
    draft = folder / f"{part}.tmp"
    draft.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(draft, folder / f"{part}.json")
    shown = ", ".join(f"{name} {statistics.median(values):.3g}" for name, values in told.items())
    print(f"{part}, {size:,}: {shown}", file=sys.stderr, flush=True)


def programs(*packages: str) -> dict[str, str]:
    """Of installed packages."""
    return {name: version(name) for name in packages}
