"""The scratch folder of a stage key, which says by name what it is of: `made_of.json`.

Checkpoints take that over into themselves (`rlhf.resuming`), so nothing is ever gone on with under other code,
settings, inputs or versions. A stage of which any of them has changed begins anew, in another folder; where an attempt
under the old ones did not end, it says what that loses and how to get it back.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlhf.errors import PreflowError
from rlhf.manifests import MADE_OF, STATE
from tasks import owners
from tasks.redact import redacted

SHOWN = 4
"""Differences that are named."""
ABBREVIATED = 12
"""Characters of a digest."""


def made_of(parts: Mapping[str, Any], root: Path) -> dict[str, str]:
    """The parts of a stage key (`tasks.graph.parts_of`) by name: settings, inputs and code, versions, the rest."""
    versions = json.loads((root / "environment.json").read_text(encoding="utf-8"))
    texts = {name: redacted(str(value)) for name, value in _leaves(parts["params"])}
    texts |= {path: digest[:ABBREVIATED] for path, digest in parts["deps"].items()}
    texts |= {f"version of {name}": version for name, version in versions.items()}
    return texts | {"command": redacted(parts["cmd"]), "outputs": " ".join(parts["outs"])}


def take(scratch: Path, stage: str, own: Mapping[str, str]) -> bool:
    """Have the folder for an attempt that is made of `own`; whether it goes on with what another has left there.

    Raises:
        PreflowError: what lies there is of something else.
    """
    if (before := _record(scratch)) and (changed := _differences(before["made_of"], own)):
        raise PreflowError(
            f"what lies in {scratch} is of another {stage} ({changed}): remove the folder to begin anew, or put back "
            "what was there before"
        )
    resumed = bool(_kept(scratch))
    if not resumed:
        with suppress(OSError, KeyError):  # no attempt hangs on what can be read of others
            for line in _instead(scratch, stage, own):
                print(f"{stage}: {line}", file=sys.stderr, flush=True)
    scratch.mkdir(parents=True, exist_ok=True)
    _write(scratch, {"made_of": dict(own), "process": owners.this_process(), "finished": False})
    return resumed


def finished(scratch: Path) -> None:
    """Say that the attempt has ended well: nobody needs what lies there any more. A full disk must not hide that."""
    with suppress(OSError):
        _write(scratch, {**(_record(scratch) or {}), "finished": True})


def _instead(scratch: Path, stage: str, own: Mapping[str, str]) -> Iterator[str]:
    """What is to be said where the newest attempt at the stage did not end, and was made of something else."""
    others = [path for path in scratch.parent.glob(f"{stage}-*/{MADE_OF}") if _left(path.parent, stage)]
    newest = max(others, key=lambda path: path.stat().st_mtime, default=None)
    record = _record(newest.parent) if newest else None
    if newest is None or record is None:
        return
    changed = _differences(record["made_of"], own)
    yield f"begins anew: an attempt that did not end had come to {_how_far(newest.parent)}, and since then: {changed}"
    yield f"with that put back, the same command goes on from there; {newest.parent} may be removed if it is not wanted"


def _left(folder: Path, stage: str) -> bool:
    """Whether an attempt at the stage that did not end has left anything in the folder, and is not at work there."""
    record = _record(folder)
    if record is None or record["finished"] or folder.name.rpartition("-")[0] != stage:
        return False
    return not owners.is_alive(record["process"]) and bool(_kept(folder))


def _how_far(folder: Path) -> str:
    newest: dict[Path, Path] = {}
    for path in sorted(folder.rglob("step-*")):
        newest[path.parent] = path
    steps = []
    for path in newest.values():
        try:
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
            steps.append(f"step {state['step']} of {state['state']['identity']['steps']}")
        except (OSError, ValueError, KeyError, TypeError):  # a damaged one is named when it is gone on with
            steps.append(path.name)
    size = sum(path.stat().st_size for path in _kept(folder))
    return " and ".join(steps) or f"no checkpoint yet ({size:,} bytes are kept)"


def _kept(scratch: Path) -> list[Path]:
    """What attempts have left there."""
    return [path for path in scratch.rglob("*") if path.is_file() and path.name != MADE_OF]


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    shown = [f"{name} {before.get(name, 'absent')} → {now.get(name, 'absent')}" for name in names[:SHOWN]]
    return "; ".join(shown) + (f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _record(scratch: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((scratch / MADE_OF).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found


def _write(scratch: Path, record: Mapping[str, Any]) -> None:
    """All of it or nothing, whenever the process is killed."""
    draft = scratch / f".{MADE_OF}"
    draft.write_text(json.dumps(record, ensure_ascii=False, indent=1), encoding="utf-8")
    os.replace(draft, scratch / MADE_OF)
