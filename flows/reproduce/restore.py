"""Outputs of a run, out of the DVC cache or remote, and the proof that they are the bytes that dvc.lock names."""

import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from flows import dvc
from flows.again import files_on_disk, md5_of
from flows.cache import files_of, object_path

Locked = Mapping[str, Mapping[str, Any]]
"""Entries of dvc.lock by stage."""
TOLD_EVERY = 10.0  # seconds between two lines on how far the remote has come


def restore(tree: Path, lock: Locked, stages: Collection[str], cache: Path, say: Callable[[str], None]) -> list[Any]:
    """Put what these stages wrote where it belongs in `tree`; one record an output, whatever became of it.

    Each is hashed from the disk afterwards, to its last byte: `found` is what lies there, and `state` says "equal",
    "differs" or "missing". `why` says what to do about the last two.
    """
    wanted = {path: md5 for stage in stages for path, md5 in outs_of(lock, stage).items()}
    said = _fetch(tree, wanted, cache, say)
    there = [path for path, md5 in wanted.items() if whole(cache, md5)]
    if there:
        say(f"restoring {len(there)} outputs and hashing them …")
        dvc.call(tree, "checkout", "--force", "--quiet", *there)
    return [
        _record(stage, path, md5, tree, cache, said) for stage in stages for path, md5 in outs_of(lock, stage).items()
    ]


def _fetch(tree: Path, wanted: Mapping[str, str], cache: Path, say: Callable[[str], None]) -> str:
    """Bring what the cache lacks from the DVC remote, saying how far it is; what DVC said where it did not succeed."""
    lacking = {path: md5 for path, md5 in wanted.items() if not whole(cache, md5)}
    if not lacking:
        return ""
    say(f"fetching {len(lacking)} outputs from the DVC remote …")
    done = threading.Event()

    def tell() -> None:
        while not done.wait(TOLD_EVERY):
            here = sum(whole(cache, md5) for md5 in lacking.values())
            say(f"fetching: {here} of {len(lacking)} outputs are here")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        fetched = dvc.call(tree, "fetch", "--no-run-cache", *lacking)
    finally:
        done.set()
        teller.join()
    return _last(fetched.stderr) if fetched.returncode else ""


def outs_of(lock: Locked, stage: str) -> dict[str, str]:
    """md5 by path of what a locked stage wrote."""
    return {out["path"]: str(out["md5"]) for out in lock[stage].get("outs") or () if "md5" in out}


def whole(cache: Path, md5: str) -> bool:
    """Whether the cache has a file, or a folder with all that is in it."""
    found = object_path(cache, md5) is not None
    return found and (not md5.endswith(".dir") or all(files_of(cache, md5).values()))


def _record(stage: str, path: str, md5: str, tree: Path, cache: Path, said: str) -> dict[str, Any]:
    found = md5_of(tree / path)
    state = "equal" if found == md5 else "missing" if found is None else "differs"
    return {"stage": stage, "path": path, "md5": md5, "found": found, "state": state} | (
        {} if state == "equal" else {"why": _why(tree / path, md5, state, cache, said)}
    )


def _why(path: Path, md5: str, state: str, cache: Path, said: str) -> str:
    if state == "missing":
        told = f" ({said})" if said else ""
        return f"neither in the DVC cache nor on a DVC remote{told}; `dvc push` where it was made, or use --rerun"
    kept = files_of(cache, md5) if path.is_dir() else {"": object_path(cache, md5)}
    now = files_on_disk(path) if path.is_dir() else {"": md5_of(path)}
    bad = next((one for name, one in kept.items() if one and now.get(name) != named(one)), object_path(cache, md5))
    return f"{bad} in the DVC cache holds other bytes than its name says; remove it, and the remote's copy is fetched"


def named(kept: Path) -> str:
    """The md5 that an object of the cache is called by."""
    return kept.parent.name + kept.name


def _last(text: str) -> str:
    lines = [line.removeprefix("ERROR: ").strip() for line in text.splitlines() if line.startswith("ERROR")]
    return (lines or text.strip().splitlines() or [""])[-1]
