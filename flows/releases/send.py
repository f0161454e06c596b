"""Promoted versions sent to the git remote: never over one that somebody else has promoted meanwhile, unseen."""

from pathlib import Path

from flows.lease import Lease
from flows.releases import releases
from flows.releases.refs import CHAMPION, QUIET, RUNS, commit_at, fetch, last_line, ref_named, seen_of, theirs_of
from flows.workspace import git
from rlhf.errors import DependencyDown, PreflowError


def push(root: Path, name: str, version: int, over: int | None = None, lease: Lease | None = None) -> str:
    """Send a version, its run and `champion` to the git remote, all or nothing; "" where there is no remote.

    Args:
        over: version that who crowned this one knew as the champion, by whatever registry.
        lease: without which nothing is sent any more.

    Returns:
        The name of the remote.

    Raises:
        PreflowError: the remote has another version under this number, or a champion that this clone has not seen; it
            counts as seen from then on.
        DependencyDown: it did not take them.
    """
    remote = fetch(root)
    if not remote:
        return ""
    found = releases.find(root, f"{name}/{version}")
    if (theirs := commit_at(root, theirs_of(found.ref))) and not _holds(root, found.commit, theirs):
        raise PreflowError(_two_registries(remote, name, version))
    options, refs = list[str](), [f"{found.commit}:{found.ref}"]
    if found.run and commit_at(root, f"refs/preflow/{RUNS}/{found.run}"):
        refs.append(f"refs/preflow/{RUNS}/{found.run}")
    ref = ref_named(name, CHAMPION)
    if crowned := commit_at(root, ref):
        theirs = _refuse_unseen(root, remote, name, crowned, over)
        options, refs = [f"--force-with-lease={ref}:{theirs}"], [*refs, f"{crowned}:{ref}"]
    try:
        if lease:
            lease.publish(options, refs)
        else:
            git(root, "push", "--quiet", "--atomic", *options, remote, *refs, env=QUIET)
    except PreflowError as error:
        if "non-fast-forward" in str(error) or "fetch first" in str(error):
            raise PreflowError(_two_registries(remote, name, version)) from None
        if "stale info" in str(error):
            raise PreflowError(f"the champion of {name} on {remote} has just changed; send it again") from None
        raise DependencyDown(f"the git remote {remote} did not take {name} v{version}: {last_line(error)}") from None
    if crowned:
        git(root, "update-ref", theirs_of(ref), crowned)
        git(root, "update-ref", seen_of(name), crowned)
    return remote


def _refuse_unseen(root: Path, remote: str, name: str, crowned: str, over: int | None) -> str:
    """The remote's champion, which is to be replaced: one that this clone knows of; "" where it has none."""
    ref = ref_named(name, CHAMPION)
    theirs = commit_at(root, theirs_of(ref))
    if theirs is None or theirs in (crowned, commit_at(root, seen_of(name))):
        return theirs or ""
    there, ours = releases.read(root, theirs_of(ref), theirs), releases.read(root, ref, crowned)
    if there.version == over and commit_at(root, ref_named(name, f"v{over}")) in (None, theirs):
        return theirs
    git(root, "update-ref", seen_of(name), theirs)
    raise PreflowError(
        f"{there.label} of run {there.run} is the champion on {remote} by now, which this clone had not seen: "
        f"`preflow rollback {name}/{ours.version}` puts {ours.label} in its place all the same, "
        f"`preflow rollback {name}/{there.version}` makes it the champion here too"
    )


def _holds(root: Path, commit: str, earlier: str) -> bool:
    """Whether a commit has another among its ancestors, or is it."""
    try:
        git(root, "merge-base", "--is-ancestor", earlier, commit)
    except PreflowError:
        return False
    return True


def _two_registries(remote: str, name: str, version: int) -> str:
    return (
        f"{remote} has another {name} v{version}: two clones with registries of their own promote under one name; give "
        "one of them another `registry.name`, or let both use one MLflow server"
    )
