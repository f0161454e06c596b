"""What follows from a promotion, on git refs and remotes; and the promotion of a run that is kept, by hand."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows import champion, dvc, guards, remote, workspace, worktrees
from flows.cache import object_path
from flows.lease import Lease
from flows.releases import releases
from flows.releases import send as releases_send
from flows.releases.refs import remote_of
from flows.releases.releases import Release
from flows.retrain import due
from rlhf.errors import PreflowError
from tasks import tracking
from tasks.journal import home
from tasks.lineage import policies_of, read_tree

Say = Callable[[str], None]


def release(
    root: Path,
    tree: Path,
    name: str,
    version: int,
    commit: str,
    send_it: bool,
    over: int | None = None,
    lease: Lease | None = None,
) -> dict[str, Any]:
    """Keep a version that is registered as git refs, and send it to the remotes where that is wanted.

    Args:
        over: the champion that it replaces.
        tree: a checkout of the run; its dvc.lock names what the DVC remote is to have.

    Returns:
        `pushed` (names of the remotes) and, where something stayed here, `unsent` (why, and what to do).
    """
    told = tracking.version(root, name, version)
    releases.publish(root, name, told, commit)
    releases.crown(root, name, version)
    run = str(told["run"])
    return send(root, tree, name, version, run, over, lease) if send_it else _how_to_send(root, tree, run)


def made_up(root: Path, tree: Path, name: str, version: int, send_it: bool) -> dict[str, Any]:
    """As `release`, of a champion whose refs a crash may have cost; nothing where they are there, or it was promoted in
    another clone, which has them."""
    if releases.crowned(root, name) == version:
        return {}
    commit = releases.run_here(root, str(tracking.version(root, name, version)["run"]))
    return release(root, tree, name, version, commit, send_it) if commit else {}


def send(
    root: Path,
    tree: Path,
    name: str,
    version: int,
    run: str,
    over: int | None = None,
    lease: Lease | None = None,
) -> dict[str, Any]:
    """Bytes first, then the refs: who sees a version can fetch it. What a remote did not take is told, no error."""
    try:
        pushed = [remote.push(tree), releases_send.push(root, name, version, over, lease)]
    except PreflowError as error:
        return {"pushed": [], "unsent": f"{error}; `preflow promote {run}` sends it again"}
    return {"pushed": [one for one in pushed if one]}


@dataclass(frozen=True)
class Kept:
    """A run that is kept, with what its gate said."""

    run: Release
    name: str
    """Of the registered model that it goes to."""
    gate: Mapping[str, Any]
    compared_with: int | None
    """Version of the champion then."""


def kept(root: Path, run: str, say: Say) -> Kept:
    """A run by its name, from git and the DVC cache.

    Raises:
        PreflowError: there is no such run, it had no gate, or did not come to it.
    """
    found = releases.find(root, run)
    if found.run and not (home(root) / "journal" / found.run).is_dir():
        raise PreflowError(
            f"run {found.run} was made in another clone, and its journal, of which the registry is told, is there: "
            "promote it there"
        )
    path = next((path for path in found.digests if path.endswith("/gate.json")), "")
    if not found.run or not path:
        raise PreflowError(f"{run}: this run has no gate, or ended before it; nothing of it can be promoted")
    remote.fetch(root, found.told(), [path], say)
    there = object_path(dvc.cache(root), found.digests[path])
    params = _yaml(workspace.file_at(root, found.commit, "params.yaml"))
    incumbent = json.loads(workspace.file_at(root, found.commit, champion.FILES[0]) or b"{}")
    return Kept(
        run=found,
        name=str((params.get("registry") or {}).get("name", "policy")),
        gate=json.loads(there.read_text(encoding="utf-8")) if there else {},
        compared_with=incumbent.get("version"),
    )


def promote(root: Path, run: str, candidate: str, force: str, say: Say) -> dict[str, Any]:
    """Register the policy of a kept run, make it the champion, and send it; done twice it is done once.

    A retrain that waits for a person on this run waits no more.

    Args:
        candidate: as the evaluation calls it; "": the one that the gate judged.
        force: why the gate is not heeded, which is kept as a tag; "": it is.

    Returns:
        As `preflow run --json` has it under `promotion`.

    Raises:
        PreflowError: the gate refused it or judged another, or compared with one who is no longer the champion.
    """
    found = kept(root, run, say)
    candidate = candidate or str(found.gate["candidate"])
    with guards.promoting(root, f"promotion of {found.run.run}", say), _checkout(root, found.run, say) as tree:
        policy = policies_of(read_tree(tree).graph).get(candidate, "")
        md5 = found.run.digests.get(policy, "")
        reigning = champion.reigning(root, found.name)
        same = reigning is not None and reigning["md5"] == md5
        if not force and not same:
            _refuse(found, candidate, reigning)
        remote.fetch(root, found.run.told(), [policy] if md5 else [], say)
        tags = {"promoted.by": "hand"} | ({"promoted.although": force} if force else {})
        version = tracking.promote(root, found.run.run, candidate, found.name, tree, tags)
        reason = f"promoted {found.name} v{version}: {candidate} of run {found.run.run}"
        due.settle(root, found.run.run, reason)
        done = {"promoted": True, "name": found.name, "version": version, "run": found.run.run, "reason": reason}
        over = reigning["version"] if reigning else None
        return done | release(root, tree, found.name, version, found.run.commit, send_it=True, over=over)


def _refuse(found: Kept, candidate: str, reigning: Mapping[str, Any] | None) -> None:
    gate, how = found.gate, "--force 'REASON' promotes it all the same"
    if candidate != gate["candidate"]:
        raise PreflowError(f"the gate judged {gate['candidate']} of run {found.run.run}, not {candidate}; {how}")
    if not gate["promote"]:
        raise PreflowError(f"the gate refused it: {gate['reason']}; {how}")
    now = reigning["version"] if reigning else None
    if now != found.compared_with:
        was = "no champion" if found.compared_with is None else f"v{found.compared_with}"
        raise PreflowError(
            f"run {found.run.run} was compared with {was}, and {found.name} v{now} is the champion by now: run again "
            f"to compare with it; {how}"
        )


@contextmanager
def _checkout(root: Path, run: Release, say: Say) -> Iterator[Path]:
    """The run as it was, with the small files that describe it; gone afterwards."""
    with worktrees.checkout(root, f"promote-{run.commit[:12]}", run.commit) as tree:
        small = [path for path in run.digests if path.endswith(("/scores.json", "/gate.json"))]
        remote.fetch(root, run.told(), small, say)
        dvc.call(tree, "checkout", "--force", "--quiet", *small)
        yield tree


def _how_to_send(root: Path, tree: Path, run: str) -> dict[str, Any]:
    there = remote_of(root) or dvc.default_remote(tree)
    return {"unsent": f"kept in this clone; `preflow promote {run}` sends it to the remotes"} if there else {}


def _yaml(text: bytes | None) -> dict[str, Any]:
    return YAML(typ="safe").load((text or b"").decode()) or {}
