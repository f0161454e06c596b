"""Old runs, removed: their refs, what only they need of the DVC cache, their worktrees and journals.

`dvc gc` knows branches, tags and workspaces, and no ref of ours: it would delete the data of every run. So what may go
is told here: what a removed run names, less what any kept run, registered version, branch, tag or worktree names.
"""

import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flows import dvc, objects, workspace, worktrees
from flows.lineage.runs import Known, known_runs, versions
from flows.releases import releases
from flows.workspace import git
from tasks.config import ConfigError
from tasks.journal import home

_AGE = re.compile(r"(\d+)([dhw])")
_SECONDS = {"h": 3600, "d": 86400, "w": 604800}


@dataclass
class Plan:
    """What would go, and why the rest stays."""

    runs: list[Known]
    kept: dict[str, str]
    """Runs that were asked for and stay, with the reason."""
    objects: set[str] = field(default_factory=set)
    """md5 of objects of the DVC cache that only the removed runs need."""
    bytes: int = 0
    folders: list[Path] = field(default_factory=list)
    """Worktrees, journals and reports."""
    note: str = ""
    """Why the cache is left alone, where it is."""


def seconds(age: str) -> int:
    """ "30d", "12h" or "4w" in seconds.

    Raises:
        ConfigError: anything else.
    """
    match = _AGE.fullmatch(age)
    if match is None:
        raise ConfigError(f"--older-than {age}: expected a number and h, d or w, as in 30d")
    return int(match[1]) * _SECONDS[match[2]]


def plan(root: Path, older_than: str, keep: int | None, profile: str | None, say: Callable[[str], None]) -> Plan:
    """What goes; nothing is touched.

    Raises:
        ConfigError: neither an age nor a number, or both.
        Busy: a run is going on.
        PreflowError: a ref or worktree can not be read, so what it needs is not known.
    """
    if bool(older_than) == (keep is not None):
        raise ConfigError("say which runs: --older-than 30d, or --keep 10 for all but the newest ten")
    objects.refuse_if_busy(root)
    everything = known_runs(root, say)
    ours = [run for run in everything if run.ref.startswith("refs/preflow/runs/")]
    return _plan(root, _asked(ours, older_than, keep, profile), everything, say)


def carry_out(root: Path, shown: Plan) -> tuple[Plan, int]:
    """Remove of a plan what may still go, as runs may have come since; returns that, and the bytes that were freed.

    Refs go last, so that a plan that was interrupted is made again.

    Raises:
        Busy: a run is going on.
        PreflowError: a ref or worktree can not be read, so what it needs is not known.
    """
    with objects.nobody_else(root, "prune"):
        everything = known_runs(root)
        planned = {(run.ref, run.commit) for run in shown.runs}
        found = _plan(root, [run for run in everything if (run.ref, run.commit) in planned], everything, lambda _: None)
        found.objects &= shown.objects
        cache = dvc.cache(root)
        before = shutil.disk_usage(root).free
        objects.remove(cache, found.objects)
        objects.forget_runs(cache, found.objects)
        for path in found.folders:
            if path.parent.name == "worktrees":
                worktrees.remove(root, path)
            else:
                shutil.rmtree(path, ignore_errors=True)
        for run in found.runs:
            for ref in git(root, "for-each-ref", "--format=%(refname)", *_refs(run)).splitlines():
                git(root, "update-ref", "-d", ref)
    return found, max(0, shutil.disk_usage(root).free - before)


def _plan(root: Path, asked: Sequence[Known], everything: Sequence[Known], say: Callable[[str], None]) -> Plan:
    stays = _protected(root, everything, say)
    found = Plan([run for run in asked if run.name not in stays], {})
    found.kept = {run.name: stays[run.name] for run in asked if run.name in stays}
    cache = dvc.cache(root)
    if cache.is_relative_to(root):
        found.objects = _alone(root, cache, found.runs)
        found.bytes = objects.weight(cache, found.objects)
    else:
        found.note = f"the DVC cache {cache} lies outside of this checkout, where others may use it: it is left alone"
    places = [home(root) / "worktrees", home(root) / "journal", root / "reports"]
    going = sorted(run.name for run in found.runs)
    found.folders = [place / name for name in going for place in places if (place / name).is_dir()]
    found.folders = [path for path in found.folders if path.parent.name != "journal" or (path / "shipped").exists()]
    found.bytes += sum(file.stat().st_size for path in found.folders for file in path.rglob("*") if file.is_file())
    return found


def _refs(run: Known) -> tuple[str, str]:
    """Of a run of ours: its own ref, and what the git remote has of it."""
    return run.ref, f"refs/preflow-remote/runs/{run.name}"


def _asked(runs: Sequence[Known], older_than: str, keep: int | None, profile: str | None) -> list[Known]:
    """By what was asked alone."""
    of_profile = [run for run in runs if profile is None or _profile(run) == profile]
    if keep is not None:
        return of_profile[: max(0, len(of_profile) - keep)]
    limit = time.time() - seconds(older_than)
    return [run for run in of_profile if run.when < limit]


def _profile(run: Known) -> str:
    """The first word of its label, where that is neither a setting nor one by which other commands begin theirs."""
    first = run.label.split(" ")[0]
    return "" if "=" in first or first in ("compare", "withdraw") else first


def _protected(root: Path, runs: Sequence[Known], say: Callable[[str], None]) -> dict[str, str]:
    """Runs that no plan removes, each with the reason."""
    found = {}
    present = root / "dvc.lock"
    text = present.read_bytes() if present.exists() else b""
    kept = [run for run in runs if run.ref and text]
    for run, files in zip(kept, workspace.files_at(root, [run.commit for run in kept], ["dvc.lock"]), strict=True):
        if not isinstance(files, Exception) and files.get("dvc.lock", ("", b""))[1] == text:
            found[run.name] = "the checkout has its dvc.lock"
    for name in releases.names(root):
        releases.versions(root, name)  # refuses what it can not read: that may be a version of one of these runs
    for version in versions(root, say):
        found[version.run] = f"{version.label} was made by it" + (", the champion" if version.is_champion else "")
    return found


def _alone(root: Path, cache: Path, going: Sequence[Known]) -> set[str]:
    """What only the runs that go need; the same bytes under another name count as needed.

    What stays is told by every lock there is, also of runs whose graph nobody can read any more.
    """
    refs = {ref for run in going for ref in _refs(run)}
    trees = {(home(root) / "worktrees" / run.name).resolve() for run in going}
    needed = set().union(*objects.locks_of_refs(root, refs), *objects.locks_of_users(root, trees))
    gone = {md5 for run in going for md5 in run.objects} - needed
    return objects.whole(cache, gone) - objects.whole(cache, needed)


def told(found: Plan) -> dict[str, object]:
    """For programs."""
    return {
        "runs": [{"run": run.name, "label": run.label, "ref": run.ref} for run in found.runs],
        "kept": found.kept,
        "objects": len(found.objects),
        "bytes": found.bytes,
        "folders": [str(path) for path in found.folders],
        "note": found.note,
    }


def lines(found: Plan) -> list[str]:
    """What goes and what stays, for people."""
    stay = [f"  stays: {name}, as {reason}" for name, reason in found.kept.items()]
    if not found.runs:
        return ["no run is to go", *stay]
    named = [f"  {run.name} {f'[{run.label}]' if run.label else ''}".rstrip() for run in found.runs]
    size = objects.told_size(found.bytes)
    what = f"{len(found.objects)} objects of the DVC cache, {len(found.folders)} folders"
    head = f"{len(found.runs)} run{'s' * (len(found.runs) > 1)} would go, which frees {size} ({what})"
    return [head, *named, *stay, *([found.note] if found.note else [])]
