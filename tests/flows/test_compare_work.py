"""The order in which cells run, with pretended processes and a pretended clock: no stage twice, no failure for all."""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flows.compare import store
from flows.compare import work as compare_work
from flows.compare.grid import Cell
from flows.compare.start import free_name, heeding
from flows.compare.work import Job, work
from rlhf.errors import Preempted
from tasks.graph import graph_of


def cell(algorithm: str, seed: int) -> Cell:
    """base is common to all, sft to a seed, the method is the cell's own."""
    own = f"{algorithm}{seed}"
    stages = {"base": "base", "sft": f"sft{seed}", "rl": own, "evaluate": f"evaluate {own}"}
    return Cell(algorithm, seed, (), (), "rl", "rl", {"rl": ()}, "", stages)


@dataclass
class World:
    """Each running cell makes one stage a tick; `broken` stages fail."""

    root: Path
    broken: tuple[str, ...] = ()
    running: dict[str, "Process"] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    seen: list[list[str]] = field(default_factory=list)
    """What ran side by side, tick by tick."""

    def start(self, cell: Cell) -> Job:
        process = Process(cell)
        self.running[cell.key] = process
        return Job(cell, f"run-{len(self.made)}", process, self.root / f"{cell.name}.json", 0.0)  # type: ignore[arg-type]

    def tick(self) -> None:
        self.seen.append(sorted(process.cell.name for process in self.running.values()))
        for process in list(self.running.values()):
            self._step(process)

    def _step(self, process: "Process") -> None:
        cell = process.cell
        for name, signature in cell.signatures.items():
            if store.has_entry(self.root, signature):
                continue
            self.made.append(signature)
            if signature in self.broken:
                stages = [{"name": name, "state": "failed", "reason": "not finite", "exit_code": 86}]
                store.write(self.root / f"{cell.name}.report.json", {"stages": stages})
                process.code = 86
                del self.running[cell.key]
                return
            store.write(store.folder(self.root) / "stages" / f"{signature}.json", {"seconds": 1, "kind": name})
            return
        store.write(store.folder(self.root) / "cells" / cell.key / "cell.json", {"overhead": 2.0})
        process.code = 0
        del self.running[cell.key]


@dataclass
class Process:
    cell: Cell
    code: int | None = None
    returncode: int | None = None

    def poll(self) -> int | None:
        return self.code


class Clock(threading.Event):
    """Time goes on where the product waits."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def wait(self, timeout: float | None = None) -> bool:
        self.world.tick()
        return self.is_set()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def go(world: World, cells: Sequence[Cell], told: list[tuple[str, str]] | None = None) -> dict[str, str]:
    def ended(cell: Cell, why: str, _: float) -> None:
        if told is not None:
            told.append((cell.name, why))

    return work(world.root, cells, world.start, Clock(world), on_start=nothing, on_end=ended, on_tick=nothing)


def nothing(*_: object) -> None:
    """For callbacks."""


CELLS = [cell(algorithm, seed) for algorithm in ("ppo", "grpo", "dpo") for seed in (0, 1)]


def test_no_stage_runs_twice_and_one_goes_ahead_only_as_far_as_need_be(world: World) -> None:
    assert go(world, CELLS) == {}
    assert len(world.made) == len(set(world.made)) == 1 + 2 + 6 + 6
    assert max(map(len, world.seen)) == 2
    assert world.seen[:2] == [["ppo seed 0"], ["ppo seed 0", "ppo seed 1"]]  # alone through base, and no further
    assert all(len(side) == 2 for side in world.seen[1:-3])


def test_of_one_seed_the_second_begins_when_the_first_has_made_what_they_share(world: World) -> None:
    go(world, [cell("ppo", 0), cell("grpo", 0)])
    assert world.seen[:3] == [["ppo seed 0"], ["ppo seed 0"], ["grpo seed 0", "ppo seed 0"]]


def test_what_is_there_holds_nobody_up(world: World) -> None:
    go(world, CELLS[:1])
    world.seen.clear()
    go(world, CELLS[2:4])
    assert world.seen[0] == ["grpo seed 0", "grpo seed 1"]


def test_a_cell_that_fails_stops_no_other(world: World) -> None:
    world.broken = ("ppo0",)
    told: list[tuple[str, str]] = []
    assert go(world, CELLS, told) == {CELLS[0].key: "rl: not finite"}
    assert dict(told) == {one.name: "rl: not finite" if one is CELLS[0] else "" for one in CELLS}


def test_what_a_shared_stage_breaks_is_not_tried_again(world: World) -> None:
    world.broken = ("sft1",)
    failed = go(world, CELLS)
    assert failed == {one.key: "sft: not finite" for one in CELLS if one.seed == 1}
    assert world.made.count("sft1") == 1


def test_without_a_report_the_last_line_is_the_reason(world: World) -> None:
    job = world.start(CELLS[0])
    job.path.with_suffix(".log").write_text("first\nPrefect does not answer\n")
    job.process.code = 87  # type: ignore[attr-defined]
    assert compare_work._reason(world.root, job, {}) == "Prefect does not answer"


def test_a_cell_that_was_killed_says_by_what_not_what_it_said_last(world: World) -> None:
    job = world.start(CELLS[0])
    job.path.with_suffix(".log").write_text("rl: > python -m tasks.rl --params rl\n")
    job.process.returncode = -9  # type: ignore[misc]
    assert compare_work._reason(world.root, job, {}).startswith("killed by signal 9; that is also how the kernel ends")


def test_a_stage_whose_outputs_have_left_the_cache_has_no_entry(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    kept, listed, folder, lost = "aa11", "cc33", "bb22.dir", "dd44"
    store.write(cache / "files" / "md5" / "aa" / "11", 1)
    store.write(cache / "files" / "md5" / "cc" / "33", 1)
    store.write(cache / "files" / "md5" / "bb" / "22.dir", [{"md5": listed, "relpath": "x"}])
    for name, outs in (("whole", [kept, folder]), ("gone", [kept, lost])):
        entry = {"entry": {"outs": [{"path": "x", "md5": md5} for md5 in outs]}}
        store.write(store.folder(tmp_path) / "stages" / f"{name}.json", entry)
    store.forget_lost(tmp_path, cache, ["whole", "gone", "never made"])
    assert [store.has_entry(tmp_path, name) for name in ("whole", "gone")] == [True, False]
    (cache / "files" / "md5" / "cc" / "33").unlink()
    store.forget_lost(tmp_path, cache, ["whole"])
    assert not store.has_entry(tmp_path, "whole")


def test_what_does_not_end_is_left_when_asked_to_stop() -> None:
    cancel, forever = threading.Event(), threading.Event()
    assert heeding(cancel, lambda: 7) == 7
    with pytest.raises(KeyError):
        heeding(cancel, lambda: {}["x"])
    with pytest.raises(Preempted):
        heeding(cancel, lambda: (cancel.set(), forever.wait()))
    forever.set()


def test_another_grid_does_not_write_over_a_report(tmp_path: Path) -> None:
    def named(*algorithms: str) -> str:
        return free_name(tmp_path, "two", [cell(name, 0) for name in algorithms])

    def report(name: str, *algorithms: str) -> None:
        cells = [{"algorithm": name, "settings": []} for name in algorithms]
        store.write(tmp_path / "reports" / "compare" / name / "compare.json", {"cells": cells})

    assert named("ppo") == "two"
    report("two", "ppo")
    assert (named("ppo", "dpo"), named("dpo")) == ("two", "two-2")
    report("two-2", "dpo")
    assert (named("dpo"), named("grpo"), named("ppo")) == ("two-2", "two-3", "two")


def test_a_stop_ends_what_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[Any] = []
    monkeypatch.setattr(compare_work, "end_group", lambda process, _: ended.append(process.cell.name))
    clock = Clock(world)

    def stop(running: list[Job], waiting: list[Cell]) -> None:
        if len(running) == 2:
            clock.set()

    with pytest.raises(Preempted, match="the same command goes on from here"):
        work(world.root, CELLS, world.start, clock, on_start=nothing, on_end=nothing, on_tick=stop)
    assert sorted(ended) == ["ppo seed 0", "ppo seed 1"]


def test_how_long_it_takes_is_estimated_from_what_was_measured(world: World) -> None:
    assert compare_work.seconds_left(world.root, CELLS, {}) is None
    for name, seconds in (("base", 10.0), ("sft", 20.0), ("rl ppo", 30.0), ("evaluate", 40.0)):
        store.write(store.folder(world.root) / "stages" / f"seen {name}.json", {"seconds": seconds, "kind": name})
    store.write(store.folder(world.root) / "cells" / "one" / "cell.json", {"overhead": 5.0})
    assert compare_work.seconds_left(world.root, [cell("grpo", 0)], {}) is None  # no grpo was ever measured
    assert compare_work.seconds_left(world.root, [cell("ppo", 7)], {"sft": 99.0}) == 10 + 20 + 30 + 40 + 5
    two = [cell("ppo", 7), cell("ppo", 8)]  # base once, side by side
    assert compare_work.seconds_left(world.root, two, {}) == (10 + 2 * (20 + 30 + 40 + 5)) / 2


def test_answers_may_have_any_line_break(tmp_path: Path) -> None:
    """U+2028 and U+0085 end no row."""
    rows = [{"id": str(n), "completions": [{"text": "a\u2028b\x85c", "gold_reward": n / 2}]} for n in range(2)]
    (tmp_path / "completions").mkdir()
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "completions/rl.jsonl").write_text(lines, encoding="utf-8")
    graph = graph_of({"stages": {"evaluate": {"cmd": "python -m tasks.evaluate", "outs": ["completions"]}}}, None)
    assert store._per_prompt(graph, tmp_path) == {"ids": ["0", "1"], "policies": {"rl": {"gold_reward": [0.0, 0.5]}}}
