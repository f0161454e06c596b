"""Promoted versions as refs: what a clone knows of them with git alone, and what two clones may do to each other."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from flows import profiles, workspace
from flows.releases import refs, releases, send
from rlhf.errors import DependencyDown, PreflowError
from tests.flows.toy import git

RUN, LATER = "20260102-030405-00aa", "20260102-030406-00ab"
LOCK = """schema: '2.0'
stages:
  rl:
    cmd: python -m tasks.rl
    outs:
    - path: data/10_rl/policy
      hash: md5
      md5: {md5}.dir
      size: 1
"""


def made(root: Path, run: str, md5: str) -> str:
    """A run that left a policy of this digest; returns its commit."""
    lock = LOCK.format(md5=md5).encode()
    return workspace.snapshot(root, run, f"preflow run {run} []", extra={"dvc.lock": lock}).commit


def told(version: int, run: str) -> dict[str, Any]:
    where = {"run": run, "ref": f"refs/preflow/runs/{run}", "candidate": "rl", "path": "data/10_rl/policy"}
    return where | {"version": version, "profile": "", "scores": {"gold": {"mean": 0.5}}, "md5": "not kept"}


def promote(root: Path, version: int, run: str, md5: str, name: str = "policy") -> str:
    commit = releases.publish(root, name, told(version, run), made(root, run, md5))
    releases.crown(root, name, version)
    return commit


@pytest.fixture
def remote(toy: Path, tmp_path: Path) -> Path:
    bare = tmp_path / "remote.git"
    branch = git(toy, "branch", "--show-current").strip()
    subprocess.run(["git", "init", "-q", "--bare", "-b", branch, str(bare)], check=True)
    git(toy, "remote", "add", "origin", str(bare))
    git(toy, "push", "-q", "origin", "HEAD")
    return bare


def clone(remote: Path, to: Path) -> Path:
    subprocess.run(["git", "clone", "-q", str(remote), str(to)], check=True)
    return to


def test_a_fresh_clone_knows_versions_runs_and_champion_by_git_alone(toy: Path, remote: Path, tmp_path: Path) -> None:
    first = promote(toy, 1, RUN, "aa")
    promote(toy, 2, LATER, "bb")
    assert (send.push(toy, "policy", 1), send.push(toy, "policy", 2)) == ("origin", "origin")
    elsewhere = clone(remote, tmp_path / "elsewhere")
    for name in ("policy", "policy@champion", "models:/policy@champion", "policy/2", "policy/v2", ""):
        found = releases.find(elsewhere, name)
        assert (found.version, found.run, found.md5, found.candidate) == (2, LATER, "bb.dir", "rl"), name
    found = releases.find(elsewhere, "policy/1")
    assert found.told() == told(1, RUN) | {
        "commit": first,
        "md5": "aa.dir",
        "ref": "refs/preflow/policy/v1",
        "digests": {"data/10_rl/policy": "aa.dir"},
        "lock": found.lock,
    }
    assert git(toy, "rev-parse", f"{first}^1").strip() == releases.find(elsewhere, RUN).commit
    assert [one.version for one in releases.versions(elsewhere, "policy")] == [1, 2]
    held = set(git(elsewhere, "ls-tree", "-r", "--name-only", first).split())
    assert {"params.yaml", "dvc.yaml", "dvc.lock", "release.json"} <= held


def test_the_champion_can_go_back(toy: Path, remote: Path, tmp_path: Path) -> None:
    promote(toy, 1, RUN, "aa")
    promote(toy, 2, LATER, "bb")
    for version in (1, 2):
        send.push(toy, "policy", version)
    releases.crown(toy, "policy", 1)
    send.push(toy, "policy", 1)
    elsewhere = clone(remote, tmp_path / "elsewhere")
    assert releases.find(elsewhere, "policy").version == 1
    assert releases.find(elsewhere, "policy/2").version == 2


def test_the_same_version_from_another_run_is_pushed_over_the_first(toy: Path, remote: Path) -> None:
    made_once = made(toy, RUN, "aa")
    first, second = (releases.publish(toy, "policy", told(1, RUN), made_once) for _ in range(2))
    assert second == first  # said twice is once
    releases.crown(toy, "policy", 1)
    send.push(toy, "policy", 1)
    again = promote(toy, 1, LATER, "aa")
    send.push(toy, "policy", 1)
    assert git(remote, "rev-parse", "refs/preflow/policy/v1", "refs/preflow/policy/champion").split() == [again, again]
    assert releases.find(toy, "policy/1").run == LATER


def test_two_clones_with_registries_of_their_own_do_not_overwrite_each_other(
    toy: Path, remote: Path, tmp_path: Path
) -> None:
    elsewhere = clone(remote, tmp_path / "elsewhere")
    theirs = promote(elsewhere, 1, LATER, "bb")
    send.push(elsewhere, "policy", 1)
    promote(toy, 1, RUN, "aa")
    with pytest.raises(PreflowError, match="origin has another policy v1"):
        send.push(toy, "policy", 1)
    assert set(git(remote, "for-each-ref", "--format=%(objectname)", "refs/preflow/policy").split()) == {theirs}
    assert not git(remote, "for-each-ref", f"refs/preflow/runs/{RUN}")  # all or nothing
    refs.fetch(toy)
    assert releases.find(toy, "policy/1").md5 == "aa.dir"


def test_names_that_stand_for_nothing(toy: Path, remote: Path) -> None:
    with pytest.raises(
        PreflowError,
        match=r"policy is no run, .*nor on origin.*; no model is promoted yet; `git for-each-ref .*/runs` lists",
    ):
        releases.find(toy)
    promote(toy, 3, RUN, "aa")
    with pytest.raises(PreflowError, match=r"policy/7 is neither .*policy has the versions 3"):
        releases.find(toy, "policy/7")
    with pytest.raises(PreflowError, match=r"other is no run, .*neither .*models are policy"):
        releases.find(toy, "other")
    with pytest.raises(PreflowError, match=f"{LATER}: this run is neither here nor on origin"):
        releases.find(toy, LATER)
    with pytest.raises(PreflowError, match="expected a model"):
        releases.find(toy, "a b")
    with pytest.raises(PreflowError, match="`runs` is where runs are kept"):
        releases.publish(toy, "runs", told(1, RUN), "HEAD")
    git(toy, "remote", "set-url", "origin", str(remote.parent / "gone.git"))
    with pytest.raises(DependencyDown, match="the git remote origin did not answer"):
        releases.find(toy, "other")
    git(toy, "remote", "remove", "origin")
    assert send.push(toy, "policy", 3) == ""
    with pytest.raises(PreflowError, match="not here, and there is no git remote"):
        releases.find(toy, "policy/7")


def test_a_champion_that_this_clone_has_not_seen_is_told_before_it_is_replaced(
    toy: Path, remote: Path, tmp_path: Path
) -> None:
    promote(toy, 1, RUN, "aa")
    send.push(toy, "policy", 1)
    elsewhere = clone(remote, tmp_path / "elsewhere")
    theirs = promote(elsewhere, 2, LATER, "bb")
    with pytest.raises(PreflowError, match=r"policy v1 of run .* champion on origin .*`preflow rollback policy/2`"):
        send.push(elsewhere, "policy", 2)
    send.push(elsewhere, "policy", 2)  # now it has been told
    mine = promote(toy, 3, "20260102-030407-00ac", "cc")
    with pytest.raises(PreflowError, match=r"policy v2 of run .*rollback policy/3.*rollback policy/2"):
        send.push(toy, "policy", 3, over=1)
    assert git(remote, "rev-parse", "refs/preflow/policy/champion").strip() == theirs
    assert not git(remote, "for-each-ref", "refs/preflow/policy/v3")
    send.push(toy, "policy", 3)
    assert git(remote, "rev-parse", "refs/preflow/policy/champion").strip() == mine
    # Who knows from a registry that both share whom it replaces need not have fetched.
    promote(elsewhere, 4, "20260102-030408-00ad", "dd")
    assert send.push(elsewhere, "policy", 4, over=3) == "origin"


def test_the_champion_is_the_remotes_unless_this_clone_has_crowned_another_since(
    toy: Path, remote: Path, tmp_path: Path
) -> None:
    promote(toy, 1, RUN, "aa")
    send.push(toy, "policy", 1)
    elsewhere = clone(remote, tmp_path / "elsewhere")
    promote(elsewhere, 2, LATER, "bb")
    send.push(elsewhere, "policy", 2, over=1)
    for _ in range(2):  # and not only the first time
        assert releases.find(toy, "policy").version == 2
    git(toy, "remote", "set-url", "origin", str(remote.parent / "gone.git"))
    assert releases.find(toy).version == 2  # as fetched last
    releases.crown(toy, "policy", 1)
    git(toy, "remote", "set-url", "origin", str(remote))
    assert releases.find(toy, "policy").version == 2  # v1 was sent, and replaced by those who knew it
    promote(toy, 3, "20260102-030407-00ac", "cc")
    assert releases.find(toy, "policy@champion").version == 3


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("release.json", b'{"run": "../../x"}'),
        ("release.json", b'{"version": 0}'),
        ("release.json", b'{"candidate": "a/b"}'),
        ("release.json", b'{"name": ".."}'),
        ("release.json", b'{"path": "data/../../x"}'),
        ("release.json", b'{"path": "/etc"}'),
        ("release.json", b'{"run": '),
        ("dvc.lock", b"stages: {rl: [\n"),
        ("dvc.lock", b"stages: [1]\n"),
    ],
)
def test_what_came_from_elsewhere_is_no_path_and_no_traceback(toy: Path, file: str, content: bytes) -> None:
    commit = workspace.commit_on(toy, ["HEAD"], {file: content}, "from elsewhere")
    workspace.keep(toy, "refs/preflow/policy/v1", commit)
    with pytest.raises(PreflowError, match=r"refs/preflow/policy/v1 \(.*is not what preflow writes"):
        releases.find(toy, "policy/1")


def test_a_name_that_git_cannot_keep_is_refused_before_a_run(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "check", lambda *_: None)
    for name in ("runs", "a..b", "x.lock", "a."):
        with pytest.raises(PreflowError, match=r"registry.name: '.*' cannot name refs in git"):
            profiles.resolve(toy, settings=[f"registry.name={name}"])
    assert profiles.resolve(toy, settings=["registry.name=a.b-c"]).registry == "a.b-c"
