"""Whether a checkpoint is what its manifest says: no tensor is loaded, so nothing of it can run."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
"""Written last: a checkpoint without one was never finished."""


def problem(folder: Path) -> str | None:
    """Why what lies in `folder` cannot be used, in a line; None where every file has the size and SHA-256 it should."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, said in sorted(manifest.items()):
            if Path(name).name != name:
                return f"{MANIFEST} names {name!r}, which is not in this folder"
            if (seen := fingerprint(folder / name)) != said:
                return f"{name}: found {seen}, the manifest says {said}"
    except (OSError, ValueError, AttributeError) as error:
        return f"unreadable: {type(error).__name__}: {error}"
    return None if manifest else f"{MANIFEST} names no files"


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
