"""What is kept of a part: a file each; it is measured again when its code, setting or machine has changed."""

import json
import os
from pathlib import Path
from typing import Any

from bench.gpu.parts import Part
from bench.gpu.setting import Setting
from bench.speed.store import ROOT, commit

RESULTS = Path(__file__).parent / "results"
BUILD = ROOT / "build/gpu"
REHEARSED = BUILD / "rehearsed"
"""Records of rehearsals, which are no results."""
Record = dict[str, Any]


def kept(part: Part, folder: Path) -> Record | None:
    """The part's record, whatever code it is of."""
    path = folder / f"{part.name}.json"
    record: Record | None = json.loads(path.read_text("utf-8")) if path.exists() else None
    return record


def fresh(record: Record | None, part: Part, setting: Setting, machine: str) -> bool:
    """Whether it need not be measured again here."""
    return record is not None and (record["digest"], record["machine"]) == (part.digest(setting), machine)


def keep(part: Part, setting: Setting, machine: str, found: Record, seconds: float, folder: Path) -> None:
    """Write the part's record, whole or not at all."""
    record = {
        "digest": part.digest(setting), "machine": machine, "commit": commit(), "wall_seconds": seconds, "found": found,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{part.name}.tmp"
    draft.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(draft, folder / f"{part.name}.json")
