"""Who becomes champion, and what the next run is told of it; with a registry of a few lines."""

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from flows import champion, closing, profiles
from flows.request import Report, Run, Wish
from flows.runner import Place
from tasks.champion import read_champion
from tasks.graph import Graph, Stage, load_graph
from tasks.outcome import StageResult
from tests.flows.toy import git


class Registry:
    """One model: the champion is what was promoted last."""

    def __init__(self) -> None:
        self.present: dict[str, Any] | None = None

    def champion(self, *_: object) -> dict[str, Any] | None:
        return self.present

    def promote(self, root: Path, run: str, candidate: str, name: str) -> int:
        version = (self.present or {"version": 0})["version"] + 1
        self.present = {"version": version, "ref": f"refs/x/{version}", "candidate": candidate, "digests": {}}
        self.present["lock"] = champion.lock_digest(root)
        return version

    def finish_run(self, *_: object) -> dict[str, Any]:
        return {}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    found = Registry()
    for module in (champion, closing):
        monkeypatch.setattr(module, "tracking", found)
    monkeypatch.setattr(profiles, "check", lambda values: None)
    return found


def judged(root: Path, promote: bool, **wish: Any) -> Report:
    """Report of a run whose gate said so."""
    (root / "data/13_gate").mkdir(parents=True, exist_ok=True)
    gate = {"promote": promote, "candidate": "rl", "reason": "no gain", "checks": []}
    (root / "data/13_gate/gate.json").write_text(json.dumps(gate))
    report = Report("r1", commit=git(root, "rev-parse", "HEAD").strip())
    place = Place(root, root, "r1")
    this = Run(Wish(**wish), profiles.resolve(root), report, place, load_graph(root), threading.Event())
    closing.judge(this, {name: StageResult(name, "ran") for name in this.graph.stages})
    return report


def test_the_gate_decides_and_the_ref_is_kept(toy: Path, registry: Registry) -> None:
    (toy / "dvc.lock").write_text("one")
    refused = judged(toy, promote=False, require_promotion=True)
    outcome = {"promoted": False, "name": "policy", "version": None, "reason": "not promoted: no gain"}
    assert refused.promotion == outcome
    assert refused.exit_code == closing.NOT_PROMOTED
    assert registry.present is None
    assert judged(toy, promote=True, settings=("seed=1",)).promotion["promoted"] is False  # type: ignore[index]
    promoted = judged(toy, promote=True)
    assert (promoted.exit_code, promoted.promotion["reason"]) == (0, "promoted policy v1")  # type: ignore[index]
    assert git(toy, "rev-parse", "refs/preflow/policy/v1").strip() == promoted.commit
    # The same result again is no new version, and a gate that compared with nobody does not unseat v1.
    assert judged(toy, promote=True).promotion["version"] == 1  # type: ignore[index]
    (toy / "dvc.lock").write_text("two")
    late = judged(toy, promote=True).promotion
    assert late is not None
    assert late["reason"] == "not promoted: the champion is v1 by now; run again"


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
    (toy / "dvc.lock").write_text("one")
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
    assert registry.present is not None
    registry.present["digests"] = {champion.COMPLETIONS: f"{entry}.dir", champion.SCORES: scores}
    assert champion.refresh(toy, toy, graph, "policy", changed=True)
    told = read_champion(folder)
    assert told is not None
    assert (told.version, told.ref, told.digests["evaluation_set"]) == (1, "refs/x/1", "e")
    assert champion.compared_with(toy) == 1
    assert not champion.refresh(toy, toy, graph, "policy", changed=True)
