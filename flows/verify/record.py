"""What is told of a run outside of DVC, held to what was written: journal, report, MLflow, promoted versions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from flows.releases import releases
from flows.reproduce.restore import outs_of
from flows.verify.files import objects, shown
from flows.verify.found import Found, Subject, Wrong
from rlhf.errors import DependencyDown, PreflowError
from tasks import sums, tracking
from tasks.journal import home
from tasks.tracking import kept

UNSEALED = "has no SHA256SUMS, written by an older preflow or cut short: nothing says what its bytes should be"


def folders(root: Path, run: str, found: Found) -> None:
    """Journal and report of a run."""
    journal = home(root) / "journal" / run
    if journal.is_dir() and not (journal / "shipped").exists():
        found.notes.append(f"the journal of {run} is not closed yet: `preflow status` tells MLflow the rest, and does")
    else:
        _folder(root, "journal", journal, found)
    _folder(root, "report", root / "reports" / run, found)


def _folder(root: Path, kind: Literal["journal", "report"], folder: Path, found: Found) -> None:
    where = shown(root, folder)
    if not folder.is_dir():
        found.missing.append(Wrong(kind, where, "", "is not here: it was pruned, or the run was done elsewhere"))
        return
    if not (folder / sums.SUMS).is_file():
        found.notes.append(f"{kind} {where} {UNSEALED}")
        return
    try:
        for path, sha256 in sums.look(folder):
            if path.exists():
                found.count(path.stat().st_size)
                if why := sums.unlike(path, sha256):
                    found.wrong.append(Wrong(kind, shown(root, path), _stage(folder, path), why))
            elif sums.is_withdrawn(path):
                found.missing.append(Wrong(kind, shown(root, path), _stage(folder, path), "was withdrawn"))
            else:
                found.wrong.append(Wrong(kind, shown(root, path), _stage(folder, path), "is not there"))
    except (OSError, ValueError) as error:
        found.wrong.append(Wrong(kind, f"{where}/{sums.SUMS}", "", f"cannot be used: {error}"))


def _stage(folder: Path, path: Path) -> str:
    """Whose attempt a file of a journal is of, by the first folder: `rl-1`."""
    return path.relative_to(folder).parts[0].rpartition("-")[0]


def mlflow(root: Path, subject: Subject, found: Found) -> None:
    """What MLflow links the run with, against dvc.lock; and its artifacts, against what was logged."""
    try:
        runs = kept.runs_of(root, subject.name)
        if not runs:
            found.missing.append(Wrong("run", subject.name, "", "is not in MLflow: deleted there, or not told yet"))
        for run in runs:
            _lineage(run, subject.lock, found)
        if runs and not runs[0].stage and not runs[0].is_deleted:
            _artifacts(root, runs[0], {run.id: run.stage for run in runs}, found)
    except DependencyDown as error:
        found.notes.append(f"what MLflow has of {subject.name} was not looked at: {error}")


def _lineage(run: kept.Kept, lock: Mapping[str, Any], found: Found) -> None:
    where = f"MLflow run {run.id}"
    if run.is_deleted:
        found.missing.append(Wrong("run", where, run.stage, "was deleted in MLflow"))
        return
    stages = [run.stage] if run.stage else list(lock)
    entries = [lock.get(stage) or {} for stage in stages]
    said = {str(one["path"]): one.get("md5") for entry in entries for one in entry.get("deps") or ()}
    said |= {path: md5 for stage in stages if stage in lock for path, md5 in outs_of(lock, stage).items()}
    for path, md5 in run.digests if lock else ():
        if said.get(path) != md5:
            why = f"says {path} has md5 {md5}, dvc.lock says {said.get(path) or 'nothing of it'}"
            found.wrong.append(Wrong("lineage", where, run.stage, why))


def _artifacts(root: Path, parent: kept.Kept, stages: Mapping[str, str], found: Found) -> None:
    if not parent.is_sealed:
        found.notes.append(f"what MLflow keeps in artifacts of run {parent.id} {UNSEALED}")
        return
    for one in kept.artifacts_of(root, parent.id):
        if one.unseen:
            found.notes.append(f"artifact {one.name} could not be looked at: {one.unseen}")
            continue
        found.count(one.size)
        stage = stages.get(one.name.partition("/")[0], "")
        if one.is_withdrawn:
            found.missing.append(Wrong("artifact", one.name, stage, "was withdrawn"))
        elif one.why:
            found.wrong.append(Wrong("artifact", one.name, stage, one.why))


def versions(root: Path, cache: Path, only_run: str, found: Found, seen: set[str]) -> None:
    """What the registry says of each promoted policy against the dvc.lock of its run, which git has; and its bytes."""
    if not releases.names(root):
        return
    try:
        for one in tracking.versions(root):
            if only_run in ("", one["run"]):
                told = tracking.version(root, str(one["name"]), int(one["version"]))
                _version(root, cache, f"{one['name']}/{one['version']}", told, found, seen)
    except DependencyDown as error:
        found.notes.append(f"promoted versions were not looked at: {error}")


def _version(root: Path, cache: Path, name: str, told: Mapping[str, Any], found: Found, seen: set[str]) -> None:
    try:
        release = releases.find(root, name)
    except PreflowError as error:
        found.notes.append(f"{name} was not looked at: {error}")
        return
    path, md5 = str(told["path"]), str(told["md5"])
    said = release.digests.get(path, "")
    if said != md5:
        why = f"is registered with md5 {md5 or 'of nothing'}, its run wrote {said or 'no such output'}"
        found.wrong.append(Wrong("version", name, "", why))
    others = {each: was for each, was in told["digests"].items() if release.digests.get(each) != was and each != path}
    for each, was in sorted(others.items()):
        why = f"is registered with md5 {was} of {each}, its run wrote {release.digests.get(each, 'no such output')}"
        found.wrong.append(Wrong("version", name, "", why))
    lock = {name: {"outs": [{"path": path, "md5": said}]}} if said else {}
    for lacking in objects(root, cache, lock, found, seen):
        found.missing.append(Wrong("version", name, "", f"has weights that are not in the DVC cache: {lacking.where}"))
