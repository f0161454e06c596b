"""What was measured, one file a cell: kept while the code that the cell runs is the same, and added to pair by pair."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.speed.cell import Cell
from tasks.closure import closure_of, imports

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
VERSIONS = ("constraints.txt", "bench/parity/setup.sh", "bench/speed/setup.sh")
"""What decides which torch, transformers and TRL run."""
Record = dict[str, Any]


def modules(cell: Cell) -> tuple[str, str]:
    """What runs on our side and on TRL's."""
    ours = "online" if cell.samples else cell.stage
    theirs = "ppo" if cell.stage == "ppo" else ours if cell.samples else "offline"
    return f"bench.speed.ours.{ours}", f"bench.speed.theirs.{theirs}"


def code(cell: Cell, root: Path = ROOT) -> list[str]:
    """Files of the project that a cell runs, inputs and both sides, with those that pin versions; sorted."""
    return sorted({*reached(["bench.speed.inputs", *modules(cell)], root), *pins(root)})


def pins(root: Path = ROOT) -> list[str]:
    """Those files of VERSIONS that are there."""
    return [name for name in VERSIONS if (root / name).is_file()]


def reached(names: Sequence[str], root: Path = ROOT) -> set[str]:
    """Files of the modules of these names, and of all of the project that they import, directly or not."""
    found: set[str] = set()
    others: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if not name.startswith("bench"):
            others.add(name)
            continue
        path = root / (name.replace(".", "/") + ".py")
        relative = path.relative_to(root).as_posix()
        if path.is_file() and relative not in found:
            found.add(relative)
            waiting += imports(path, root)
    return found | set(closure_of(others, root))


def digest(cell: Cell, root: Path = ROOT) -> str:
    """Of the cell's settings and of all code that it runs."""
    return digest_of(cell.as_dict(), code(cell, root), root)


def digest_of(settings: object, files: Sequence[str], root: Path = ROOT) -> str:
    """Of settings, as JSON has them, and of files by their paths in the project."""
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in files:
        total.update(f"\n{name}\n".encode() + hashlib.sha256((root / name).read_bytes()).digest())
    return total.hexdigest()[:16]


def path_of(cell: Cell, folder: Path = RESULTS) -> Path:
    return folder / f"{cell.name}.json"


def load(cell: Cell, folder: Path = RESULTS) -> Record | None:
    """What is kept of a cell, whatever code it is of; None where nothing is."""
    path = path_of(cell, folder)
    record: Record | None = json.loads(path.read_text("utf-8")) if path.exists() else None
    return record


def begun(cell: Cell, now: str, folder: Path = RESULTS) -> Record:
    """The cell's record to go on with; an empty one where its code, settings or machine were others."""
    record = load(cell, folder)
    here = machine()
    if record is not None and (record["digest"], record["machine"]) == (now, here):
        return record
    return {
        "cell": cell.as_dict(), "digest": now, "machine": here, "commit": commit(), "pairs": [], "not_same": [],
    }  # fmt: skip


def missing(record: Record, pairs: int) -> int:
    """How many pairs are still to be measured; none where both sides do not do the same work."""
    return 0 if record["not_same"] else max(0, pairs - len(record["pairs"]))


def keep(cell: Cell, record: Record, folder: Path = RESULTS) -> None:
    """Write the record whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(cell, folder)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(draft, path)


def machine() -> str:
    """Its processor and cores; nothing that tells one machine from another of its kind."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def commit() -> str:
    """Of the checkout, with a plus where it holds more; `PREFLOW_COMMIT` where there is no git to ask."""
    if named := os.environ.get("PREFLOW_COMMIT"):
        return named
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return "unknown"

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", ".", ":!bench/speed/results", ":!docs/speed.md")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
