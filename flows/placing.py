"""Where a run works: the checkout itself, or a worktree of its own; with its sources, and kept as a commit."""

from collections.abc import Callable
from pathlib import Path

from flows import champion, dvc, profiles, sources, workspace, worktrees
from flows.request import Report, Start, commit_message
from flows.runner import Place
from tasks.config.sources import Source


def place(
    root: Path, resolved: profiles.Resolved, start: Start | None, report: Report, say: Callable[[str], None]
) -> tuple[Place, workspace.Snapshot, bool]:
    """The tree that the run works in, with its sources, snapshotted on its ref; False: not all outputs are there."""
    whole = True
    message = commit_message(report.run, resolved.label)
    wanted = [Source.model_validate(source) for source in resolved.values.get("sources") or ()]
    shared = sources.shared_folder(root)
    if not resolved.label:
        tree = root
        dvc.mend_rwlock(root)
        sources.bring(wanted, root / "data" / "inbox", shared)
        taken = workspace.snapshot(root, report.run, message)
    else:
        extra: dict[str, bytes | None] = {"params.yaml": resolved.text.encode()}
        if start:
            extra["dvc.yaml"] = start.graph.encode()
            begin_with: dict[str, bytes | None] = {"dvc.lock": start.lock.encode() or None}
        else:
            if resolved.dvc_yaml:
                extra["dvc.yaml"] = resolved.dvc_yaml.read_bytes()
            begin_with = _begin_with(root, resolved.label)
        base = start.commit if start else "HEAD"
        taken = workspace.snapshot(root, report.run, message, base=base, parent=base, extra=extra)
        cache = Path(start.cache) if start else dvc.cache(root)
        with_inbox, replaced = not resolved.own_sources, [source.target for source in wanted]
        tree = worktrees.add(root, report.run, taken.commit, with_inbox=with_inbox, replaced=replaced, cache=cache)
        sources.bring(wanted, tree / "data" / "inbox", shared)
        whole = worktrees.seed(tree, begin_with)
    report.ref, report.commit, report.left_out = taken.ref, taken.commit, taken.left_out
    if taken.left_out:
        say(f"not kept with this run, as they look like secrets or git ignores them: {', '.join(taken.left_out)}")
    return Place(root, tree, report.run), taken, whole


def _begin_with(root: Path, label: str) -> dict[str, bytes | None]:
    """What a worktree starts from, so that as little as possible runs.

    That is the lock file, and the champion that goes with it, of the last run of its label; else the checkout's lock.
    """
    for commit in workspace.runs(root, label):
        if workspace.file_at(root, commit, "dvc.lock"):
            return {path: workspace.file_at(root, commit, path) for path in ("dvc.lock", *champion.FILES)}
    present = root / "dvc.lock"
    return {"dvc.lock": present.read_bytes() if present.exists() else None}
