"""Whether a checkpoint is what its manifest says, and where it goes if not: no tensor is loaded, so nothing can run."""

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

TENSORS, STATE = "tensors.safetensors", "state.json"
MANIFEST = "manifest.json"
"""Written last, with size and SHA-256 of the other two: a checkpoint without one was never finished."""
MADE_OF = "made_of.json"
"""Beside a folder of checkpoints, where the caller has one: what else the trainings there depend on (`made_of`)."""


def problem(folder: Path) -> str | None:
    """Why what lies in `folder` cannot be used, in a line; None where every file has the size and SHA-256 it should.

    Raises:
        OSError: it cannot be read just now, which says nothing of what is in it.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, said in sorted(manifest.items()):
            if Path(name).name != name:
                return f"{MANIFEST} names {name!r}, which is not in this folder"
            if (seen := fingerprint(folder / name)) != said:
                return f"{name}: found {seen}, the manifest says {said}"
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError, AttributeError) as error:
        return f"unreadable: {type(error).__name__}: {error}"
    if not manifest:
        return f"{MANIFEST} names no files"
    lacking = {TENSORS, STATE} - set(manifest)
    return f"{MANIFEST} does not name {', '.join(sorted(lacking))}" if lacking else None


def set_aside(folder: Path, why: str) -> Path:
    """Rename a checkpoint that is of no use, with the reason in it; where it is now."""
    target = folder.with_name(f"broken-{folder.name}")
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    (target / "reason.txt").write_text(why + "\n", encoding="utf-8")
    return target


def made_of(checkpoints: Path) -> dict[str, str]:
    """Of a folder of checkpoints what its caller has written beside it: code, data, settings and versions, by name."""
    try:
        told: dict[str, Any] = json.loads((checkpoints.parent / MADE_OF).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return dict(told["made_of"])


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
