"""Watched folders, and the user's own files in the inbox."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import guards, server, workspace
from flows.cli import app
from flows.retrain import data, due
from flows.retrain.retrain import Order, fire
from rlhf.errors import DependencyDown, PreflowError
from tests.flows.own_data import OWN, checkout, settled
from tests.flows.toy import git


def test_a_file_that_was_not_brought_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    root, shard = tmp_path / "project", tmp_path / "watched" / "preferences" / "a.jsonl"
    shard.parent.mkdir(parents=True)
    shard.write_text("theirs")
    target = root / "data" / "inbox" / "preferences" / "a.jsonl"
    assert data.bring(root, ["~/watched"]) == ["preferences/a.jsonl"]
    shard.write_text("theirs, longer")
    assert data.bring(root, ["~/watched"]) == ["preferences/a.jsonl"]
    target.write_text("mine")
    with pytest.raises(PreflowError, match=r"watched/preferences/a.jsonl would overwrite .*inbox/preferences/a.jsonl"):
        data.bring(root, ["~/watched"])
    assert target.read_text() == "mine"


def test_two_schedules_at_one_slot_keep_each_others_books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins while the first copies, and goes on until it is through or waits for the first."""
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    root, shards = tmp_path / "project", dict[str, Path]()
    for name in ("a", "b"):
        shards[name] = tmp_path / name / "preferences" / f"{name}.jsonl"
        shards[name].parent.mkdir(parents=True)
        shards[name].write_text(name)
    copy, hold, second = data._copy, guards.held, list[Future[list[str]]]()
    begun, far_enough = threading.Event(), threading.Event()

    def slow(file: Path, target: Path) -> bool:
        if file.name == "a.jsonl":
            begun.set()
            second.append(others.submit(bring, "b"))
            far_enough.wait()
        return copy(file, target)

    def held(*given: Any, **how: Any) -> Any:
        if begun.is_set():
            far_enough.set()
        return hold(*given, **how)

    def bring(name: str) -> list[str]:
        try:
            return data.bring(root, [str(tmp_path / name)])
        finally:
            if name == "b":
                far_enough.set()

    with monkeypatch.context() as meanwhile, ThreadPoolExecutor() as others:
        meanwhile.setattr(data, "_copy", slow)
        meanwhile.setattr(guards, "held", held)
        assert bring("a") == ["preferences/a.jsonl"]
        assert second[0].result() == ["preferences/b.jsonl"]
    for name, shard in shards.items():
        shard.write_text(f"{name}, grown")
        assert data.bring(root, [str(tmp_path / name)]) == [f"preferences/{name}.jsonl"]


@pytest.mark.parametrize("command", ["retrain", "schedule create --every 6h"])
def test_what_would_not_be_read_is_not_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    root = checkout(tmp_path)
    (root / "profiles" / "mine.yaml").write_text("collect:\n  preferences: ../pairs.csv\nbase:\n  model: ../model\n")
    shard = tmp_path / "labels" / "preferences" / "a.jsonl"
    shard.parent.mkdir(parents=True)
    shard.write_text("theirs")
    monkeypatch.setattr(workspace, "find_root", lambda _: root)
    monkeypatch.setattr(server, "up", lambda _: None)
    own = [word for setting in OWN for word in ("--set", setting)]
    for brings in (own, ["--profile", "mine"]):
        told = CliRunner().invoke(app, [*command.split(), *brings, "--watch", "../labels/"]).exception
        assert isinstance(told, PreflowError)
        assert "leave --watch out" in str(told) and "--set collect.preferences=../labels/preferences" in str(told)
    assert not (root / "data" / "inbox").exists()


@pytest.mark.parametrize("settings", [(), OWN])
def test_imports_are_asked_whatever_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    """A setting may name their folder."""
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    root = checkout(tmp_path)
    (root / "data" / "imports" / "preferences").mkdir(parents=True)
    (root / "data" / "imports" / "preferences" / "a.jsonl.dvc").write_text("")
    down = SimpleNamespace(returncode=1, stderr="ERROR: no answer")
    monkeypatch.setattr(data.dvc, "call", lambda *_: down)
    with pytest.raises(DependencyDown, match="no answer"):
        fire(root, Order(settings=settings), threading.Event(), say=print)


def test_a_checkout_that_names_data_reads_its_inbox_all_the_same(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    params = (root / "params.yaml").read_text()
    for line, own in (
        ("source: world", "source: inbox"),
        ("preferences: []", "preferences: ../pairs.csv"),
        ("source: scratch", "source: checkpoint"),
        ("model: null", "model: ../model"),
    ):
        params = params.replace(f"  {line}", f"  {own}", 1)
    (root / "params.yaml").write_text(params)
    shard = root / "data" / "inbox" / "preferences" / "a.jsonl"
    shard.parent.mkdir(parents=True)
    shard.write_text("theirs")
    git(root, "init", "--quiet")
    git(root, "add", "params.yaml", "profiles", "dvc.yaml")
    git(root, "commit", "--quiet", "-m", "start")
    for settings in ([], ["sft.epochs=7"]):
        resolved = settled(root, *settings)
        assert not resolved.own_sources
        seen = due.look(root, resolved, due.Memory())
        assert {"preferences/a.jsonl", "given/preferences/pairs.csv"} <= seen.data.keys()
