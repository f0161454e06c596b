"""Who becomes champion, and what the next run is told of it; with a registry of a few lines."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flows import champion, closing, guards, launch, profiles, promotion, rollback
from flows.releases.releases import Release
from flows.request import Report, Run, Wish
from flows.runner import Place
from flows.workspace import Snapshot
from rlhf.errors import DependencyDown, Preempted, PreflowError
from tasks import champion as champions
from tasks.champion import Champion, read_champion
from tasks.graph import Graph, Stage, load_graph
from tasks.outcome import StageResult
from tests.flows.toy import git


def lock(word: str) -> str:
    """A lock of no stages, told from others by its first letter."""
    return f"# {word}\nschema: '2.0'\n"


class Registry:
    """One model: the champion is what was promoted last."""

    def __init__(self) -> None:
        self.present: dict[str, Any] | None = None
        self.made: dict[str, int] = {}
        self.down = False

    def champion(self, *_: object) -> dict[str, Any] | None:
        if self.down:
            raise DependencyDown("the model registry did not answer")
        return self.present

    def holding(self, root: Path, name: str, md5: str) -> int | None:
        return self.made.get(md5)

    def knows(self, root: Path, name: str) -> bool:
        return bool(self.made)

    def version(self, root: Path, name: str, number: int) -> dict[str, Any]:
        assert self.present is not None
        return self.present | {"run": "r1", "path": "data/rl", "profile": "", "scores": {}}

    def bytes_of(self, tree: Path, candidate: str) -> str:
        return (tree / "dvc.lock").read_text()[2:3]

    def promote(self, root: Path, run: str, candidate: str, name: str) -> int:
        version = (self.present or {"version": 0})["version"] + 1
        self.present = {"version": version, "ref": f"refs/x/{version}", "candidate": candidate, "digests": {}}
        self.present |= {"lock": champion.lock_digest(root), "md5": self.bytes_of(root, candidate)}
        self.made[self.present["md5"]] = version
        return version

    def finish_run(self, *_: object) -> dict[str, Any]:
        return {}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    found = Registry()
    for module in (champion, closing, promotion):
        monkeypatch.setattr(module, "tracking", found)
    monkeypatch.setattr(profiles, "check", lambda *_: None)
    return found


def judged(
    root: Path,
    gate_says: bool,
    registry_down: str = "",
    say: Callable[[str], None] = print,
    cancel: threading.Event | None = None,
    **wish: Any,
) -> Report:
    """Report of a run whose gate said so."""
    (root / "data/13_gate").mkdir(parents=True, exist_ok=True)
    gate = {"promote": gate_says, "candidate": "rl", "reason": "no gain", "checks": []}
    (root / "data/13_gate/gate.json").write_text(json.dumps(gate))
    report = Report("r1", commit=git(root, "rev-parse", "HEAD").strip())
    place = Place(root, root, "r1")
    taken = Snapshot("", report.commit, ())
    stop = cancel or threading.Event()
    this = Run(Wish(**wish), profiles.resolve(root), report, place, load_graph(root), stop, taken, registry_down)
    closing.judge(this, {name: StageResult(name, "ran") for name in this.graph.stages}, say)
    return report


def test_the_gate_decides_and_the_ref_is_kept(toy: Path, registry: Registry) -> None:
    (toy / "dvc.lock").write_text(lock("one"))
    refused = judged(toy, gate_says=False, require_promotion=True)
    outcome = {"promoted": False, "name": "policy", "version": None, "reason": "not promoted: no gain"}
    assert refused.promotion == outcome
    assert refused.exit_code == closing.NOT_PROMOTED
    assert registry.present is None
    assert judged(toy, gate_says=True, settings=("seed=1",)).promotion["promoted"] is False  # type: ignore[index]
    promoted = judged(toy, gate_says=True)
    assert (promoted.exit_code, promoted.promotion["reason"]) == (0, "promoted policy v1")  # type: ignore[index]
    for ref in ("v1", "champion"):  # the release, whose parent is the run
        assert git(toy, "rev-parse", f"refs/preflow/policy/{ref}^1").strip() == promoted.commit
    # The same result again is no new version, and a gate that compared with nobody does not unseat v1.
    assert judged(toy, gate_says=True).promotion["version"] == 1  # type: ignore[index]
    (toy / "dvc.lock").write_text(lock("two"))
    late = judged(toy, gate_says=True).promotion
    assert late is not None
    assert late["reason"] == "not promoted: the champion is v1 by now; run again"


def test_the_same_bytes_are_the_champion_already_whatever_the_gate_says(toy: Path, registry: Registry) -> None:
    (toy / "dvc.lock").write_text(lock("one"))
    judged(toy, gate_says=True)
    (toy / "dvc.lock").write_text(lock("other lock, same first letter: same policy"))
    again = judged(toy, gate_says=False, require_promotion=True)
    assert (again.exit_code, again.promotion["promoted"]) == (0, True)  # type: ignore[index]
    assert again.promotion["reason"] == "policy v1 is already the champion (same bytes)"  # type: ignore[index]


def test_a_rollback_holds_until_somebody_says_otherwise(toy: Path, registry: Registry) -> None:
    (toy / "dvc.lock").write_text(lock("one"))
    judged(toy, gate_says=True)
    first = registry.present
    (toy / "dvc.lock").write_text(lock("two"))
    champions.write_champion(toy / champion.FOLDER, Champion(version=1, ref="", digests={}), toy / "dvc.lock")
    assert judged(toy, gate_says=True).promotion["version"] == 2  # type: ignore[index]
    registry.present = first
    kept = judged(toy, gate_says=True)
    assert kept.promotion["reason"].startswith(  # type: ignore[index]
        "not promoted: policy v2 is this policy, and the champion is v1 by choice; `preflow rollback policy/2`"
    )
    assert registry.present is first
    assert judged(toy, gate_says=True, promote=True).promotion["promoted"] is True  # type: ignore[index]


def test_a_rollback_where_nothing_was_promoted_says_so(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollback.champion, "reigning", lambda *_: None)
    with pytest.raises(PreflowError, match=r"^nothing is promoted yet, so there is no version to go back to$"):
        rollback.rollback(toy, "policy", None, print)
    git(toy, "update-ref", "refs/preflow/other/v1", "HEAD")
    with pytest.raises(PreflowError, match=r"^no version of policy was promoted; there are versions of other$"):
        rollback.rollback(toy, "policy", None, print)


def test_a_registry_that_is_down_costs_the_promotion_and_no_more(toy: Path, registry: Registry) -> None:
    (toy / "dvc.lock").write_text(lock("one"))
    registry.down = True
    late = judged(toy, gate_says=True)
    assert (late.exit_code, late.promotion["promoted"]) == (87, False)  # type: ignore[index]
    assert judged(toy, gate_says=False).exit_code == 0
    early = judged(toy, gate_says=True, registry_down="did not answer")
    assert (early.exit_code, early.promotion["reason"]) == (  # type: ignore[index]
        0,
        "not promoted: did not answer; run again when it answers",
    )
    assert judged(toy, gate_says=True, registry_down="did not answer", require_promotion=True).exit_code == 4


def test_a_run_goes_on_with_the_champion_that_lies_there(toy: Path, registry: Registry) -> None:
    registry.down = True
    graph = Graph({"evaluate": Stage("evaluate", "", ("data/champion",), (), ("data/12_evaluation",))})
    place, report, said = Place(toy, toy, "r1"), Report("r1"), list[str]()
    this = Run(Wish(), profiles.resolve(toy), report, place, graph, threading.Event(), Snapshot("", "", ()))
    this, _ = launch._todo(this, False, said.append)
    assert this.registry_down == "the model registry did not answer"
    assert "goes on with the champion that data/champion names, and promotes nothing" in said[0]
    assert read_champion(toy / "data/champion") is None


@contextmanager
def another_promotes(root: Path) -> Iterator[Callable[[], None]]:
    """Until what this yields is called, or for a minute, so that who never gives up fails."""
    at_it, over = threading.Event(), threading.Event()

    def promote() -> None:
        with guards.promoting(root, "rollback of policy", print):
            at_it.set()
            over.wait(60.0)

    other = threading.Thread(target=promote)
    other.start()
    at_it.wait()
    try:
        yield over.set
    finally:
        over.set()
        other.join()


def test_a_run_that_waits_for_another_promotion_says_so_and_can_be_stopped(toy: Path, registry: Registry) -> None:
    (toy / "dvc.lock").write_text(lock("one"))
    cancel, said = threading.Event(), list[str]()

    def hear(line: str) -> None:
        said.append(line)
        cancel.set()

    with another_promotes(toy):
        stopped = judged(toy, gate_says=True, say=hear, cancel=cancel)
    assert stopped.exit_code == Preempted.exit_code and registry.present is None
    (line,) = said
    assert line.startswith("promotion of r1: waiting for rollback of policy, process ")
    assert stopped.promotion is not None
    assert stopped.promotion["reason"].startswith("not promoted: stopped while it waited for rollback of policy, proc")
    assert judged(toy, gate_says=True).promotion["promoted"] is True  # type: ignore[index]


def test_a_run_promotes_when_another_promotion_is_done(toy: Path, registry: Registry) -> None:
    (toy / "dvc.lock").write_text(lock("one"))
    with another_promotes(toy) as end_it:
        assert judged(toy, gate_says=True, say=lambda _: end_it()).promotion["promoted"] is True  # type: ignore[index]


def put(cache: Path, content: str) -> str:
    """A file in a DVC cache."""
    md5 = hashlib.md5(content.encode()).hexdigest()
    path = cache / "files" / "md5" / md5[:2] / md5[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return md5


def test_the_next_run_is_told_unless_it_is_the_champions_own(toy: Path, registry: Registry) -> None:
    graph = Graph({"evaluate": Stage("evaluate", "", ("data/champion",), (), ("data/12_evaluation",))})
    folder = toy / "data" / "champion"
    (toy / "dvc.lock").write_text(lock("one"))
    assert champion.refresh(toy, toy, graph, "policy", changed=True)  # now it says that there is none
    assert read_champion(folder) is None
    registry.promote(toy, "r1", "rl", "policy")
    assert not champion.refresh(toy, toy, graph, "policy", changed=False)
    # Something else will run: the champion's answers come out of the cache.
    cache = toy / ".dvc" / "cache"
    listing = json.dumps([{"md5": put(cache, '{"id": "a"}\n'), "relpath": "rl.jsonl"}])
    entry = put(cache, listing)
    (cache / "files/md5" / entry[:2] / entry[2:]).rename(cache / "files/md5" / entry[:2] / f"{entry[2:]}.dir")
    scores = put(cache, json.dumps({"evaluation_set": {"digest": "e"}, "base": "b", "chat": "c"}))
    assert champion.refreshed_by(toy, graph, "policy", champion.reigning(toy, "policy"), changed=False) == {}
    assert champion.refreshed_by(toy, graph, "policy", champion.reigning(toy, "policy"), changed=True) == {
        "evaluate": "the champion is policy v1 by now"
    }
    assert read_champion(folder) is None  # only asked
    assert registry.present is not None
    registry.present["digests"] = {champion.COMPLETIONS: f"{entry}.dir", champion.SCORES: scores}
    assert champion.refresh(toy, toy, graph, "policy", changed=True)
    told = read_champion(folder)
    assert told is not None
    assert (told.version, told.ref, told.digests["evaluation_set"]) == (1, "refs/x/1", "e")
    assert champion.compared_with(toy) == 1
    assert not champion.refresh(toy, toy, graph, "policy", changed=True)


def test_bytes_that_stay_here_are_sent_by_promote_and_rollback_sends_them_before_the_refs(
    toy: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []

    def down(*_: object) -> str:
        raise DependencyDown("the DVC remote did not take everything")

    monkeypatch.setattr(promotion.remote, "push", down)
    monkeypatch.setattr(promotion.remote, "push_version", down)
    monkeypatch.setattr(promotion.releases_send, "push", lambda *_, **__: sent.append("refs"))
    (toy / "dvc.lock").write_text(lock("stages: {}"))
    done = judged(toy, gate_says=True, retrain="new data").promotion
    assert done is not None
    assert done["pushed"] == []
    assert done["unsent"] == "the DVC remote did not take everything; `preflow promote r1` sends it again"
    target = promotion.releases.find(toy, "policy/1").told()
    monkeypatch.setattr(rollback.policies, "version_of", lambda *_: target)
    monkeypatch.setattr(rollback, "_prove", lambda *_: 1)
    monkeypatch.setattr(rollback, "tracking", FakeCrown())
    with pytest.raises(DependencyDown, match="did not take everything"):
        rollback.rollback(toy, "policy", 1, print)
    assert sent == []


def test_refs_that_a_promotion_could_not_keep_are_told_and_made_up_for_by_the_next_run(
    toy: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    (toy / "dvc.lock").write_text(lock("stages: {}"))
    git(toy, "update-ref", "refs/preflow/runs/r1", "HEAD")

    def breaks(*_: object) -> str:
        raise PreflowError("no space for refs")

    with monkeypatch.context() as broken:
        broken.setattr(promotion.releases, "publish", breaks)
        done = judged(toy, gate_says=True)
    assert (done.exit_code, done.promotion["promoted"]) == (0, True)  # type: ignore[index]
    assert done.promotion["unsent"].startswith("no space for refs; `preflow promote r1`")  # type: ignore[index]
    assert not git(toy, "for-each-ref", "refs/preflow/policy")
    again = judged(toy, gate_says=True).promotion
    assert again is not None
    assert again["reason"] == "policy v1 is already the champion (same bytes)"
    for ref in ("v1", "champion"):
        assert git(toy, "rev-parse", f"refs/preflow/policy/{ref}^1") == git(toy, "rev-parse", "refs/preflow/runs/r1")


def test_a_run_of_another_clone_is_promoted_there(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Release(ref="refs/preflow/runs/20260102-030405-00aa", commit="c", run="20260102-030405-00aa")
    monkeypatch.setattr(promotion.releases, "find", lambda *_: run)
    with pytest.raises(PreflowError, match="was made in another clone, and its journal"):
        promotion.promote(toy, run.run, "", "", print)


def test_what_is_fetched_on_the_way_is_said_and_not_printed(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`promote --json` prints one object and nothing else."""
    commit = git(toy, "rev-parse", "HEAD").strip()
    run = Release(ref="refs/preflow/runs/r1", commit=commit, run="r1", digests={"data/13_gate/gate.json": "0" * 32})
    (toy / ".preflow/journal/r1").mkdir(parents=True)
    monkeypatch.setattr(promotion.releases, "find", lambda *_: run)
    monkeypatch.setattr(promotion.remote, "fetch", lambda *given: given[-1]("fetching"))
    monkeypatch.setattr(promotion.champion, "reigning", lambda *_: None)
    cache = cache_with(toy, "0" * 32, {"promote": False, "candidate": "rl", "reason": "no gain"})
    monkeypatch.setattr(promotion.dvc, "cache", lambda _: cache)
    said: list[str] = []
    with pytest.raises(PreflowError, match="the gate refused it: no gain"):
        promotion.promote(toy, "r1", "", "", said.append)
    assert said == ["fetching", "fetching"]  # the gate's own file, then what describes the run
    assert capsys.readouterr().out == ""


def cache_with(root: Path, md5: str, content: Any) -> Path:
    """A DVC cache with this one object."""
    path = root / "cache/files/md5" / md5[:2] / md5[2:]
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    return root / "cache"


class FakeCrown:
    """A registry that knows no model."""

    def knows(self, *_: object) -> bool:
        return False
