"""How long a run takes, from what earlier ones took: by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.history import remaining, seconds_before
from tasks.graph import Graph, Stage

CHAIN = {"a": (), "b": ("a",), "c": ("b",)}
FORK = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}


@pytest.mark.parametrize(
    ("upstream", "left", "slots", "expected"),
    [
        (CHAIN, {}, 2, 0.0),
        (CHAIN, {"a": 1.0, "b": 2.0, "c": 4.0}, 2, 7.0),
        (CHAIN, {"b": 2.0, "c": 4.0}, 1, 6.0),  # a is done
        (FORK, {"a": 1.0, "b": 2.0, "c": 4.0, "d": 8.0}, 2, 13.0),
        (FORK, {"a": 1.0, "b": 2.0, "c": 4.0, "d": 8.0}, 1, 15.0),
        (dict.fromkeys("abc", ()), {"a": 3.0, "b": 3.0, "c": 2.0}, 2, 5.0),
        (CHAIN, {"a": 0.0, "b": 0.0, "c": 3.0}, 2, 3.0),
    ],
)
def test_what_a_run_still_takes(
    upstream: dict[str, tuple[str, ...]], left: dict[str, float], slots: int, expected: float
) -> None:
    assert remaining(upstream, left, slots) == expected


def kept(root: Path, run: str, profile: str, lr: float, **seconds: float) -> None:
    """An earlier run; a stage of no seconds was cached."""
    folder = root / ".preflow" / "journal" / run
    folder.mkdir(parents=True)
    info = {"profile": profile, "params": {"sft": {"lr": lr}, "rl": {"lr": 1.0}}}
    results: dict[str, Any] = {
        name: {"state": "ran" if took else "cached", "seconds": took} for name, took in seconds.items()
    }
    (folder / "run.json").write_text(json.dumps({"info": info}))
    (folder / "finish.json").write_text(json.dumps({"results": results}))


@pytest.fixture
def graph() -> Graph:
    return Graph({name: Stage(name, "", (), (name,), ()) for name in ("sft", "rl")})


def before(root: Path, graph: Graph, profile: str = "", lr: float = 0.1) -> dict[str, float]:
    return seconds_before(root, graph, {"sft": {"lr": lr}, "rl": {"lr": 1.0}}, profile)


def test_the_newest_run_with_the_same_settings_says_it(
    tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    assert before(tmp_path, graph) == {}
    kept(tmp_path, "20260101-000000-aaaa", "", 0.1, sft=10, rl=100, gone=1)
    kept(tmp_path, "20260102-000000-aaaa", "", 0.1, sft=11, rl=0)
    kept(tmp_path, "20260103-000000-aaaa", "", 0.2, sft=99)
    kept(tmp_path, "20260104-000000-aaaa", "polite", 0.1, sft=500, rl=500)
    assert before(tmp_path, graph) == {"sft": 11, "rl": 100}
    assert before(tmp_path, graph, lr=0.3) == {"sft": 99, "rl": 100}  # none had it: the newest
    assert before(tmp_path, graph, profile="polite") == {"sft": 500, "rl": 500}
    assert before(tmp_path, graph, profile="tulu3") == {}
    (tmp_path / ".preflow" / "journal" / "20260102-000000-aaaa" / "finish.json").write_text('{"resu')
    assert before(tmp_path, graph) == {"sft": 10, "rl": 100}


def test_another_algorithm_says_nothing(tmp_path: Path, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    kept(tmp_path, "20260101-000000-aaaa", "", 0.1, sft=10)
    for algorithm, known in (("ppo", {}), ("dpo", {"sft": 10})):
        path = tmp_path / ".preflow/journal/20260101-000000-aaaa/run.json"
        path.write_text(json.dumps({"info": {"params": {"sft": {"lr": 0.2, "algorithm": "dpo"}}}}))
        assert seconds_before(tmp_path, graph, {"sft": {"lr": 0.1, "algorithm": algorithm}, "rl": {}}, "") == known
