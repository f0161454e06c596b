"""The bench keeps what it measured, knows when that is stale, and its table says what the pairs say."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.page import write_between
from bench.speed import needs, store
from bench.speed.__main__ import page_lines
from bench.speed.cell import Cell, Shape
from bench.speed.cells import CPU, CUDA, M60, TINY, chosen
from bench.speed.clock import Clock
from bench.speed.same import differences
from bench.speed.table import HEADER, line, ratios, table

ROOT = Path(__file__).parents[2]
START, END = "<!-- speed: written by `make bench` -->", "<!-- /speed -->"
SFT = Cell("sft", TINY, "short", 4, 3)
GRPO = Cell("grpo", TINY, "short", 2, 1, group=4, new_tokens=10)


def side(seconds: float, tokens: int = 1000, net: float = 100.0, others: float | None = 0.0) -> dict[str, Any]:
    machine = {"matmul": 1e9, "bandwidth": 1e9, "threads": 1}
    return {
        "seconds": seconds, "processor_seconds": seconds / 2, "tokens": tokens, "peak_net": net, "others": others,
        "machine": machine, "versions": {"trl": "1", "torch": "2", "transformers": "5"},
        "first": {"loss": 2.0, "grad_norm": 3.0},
    }  # fmt: skip


def record(*pairs: tuple[dict[str, Any], dict[str, Any]], **other: Any) -> dict[str, Any]:
    return {
        "digest": "d", "machine": "m", "commit": "c", "flops": 2e9, "bytes": 1e9, "not_same": [],
        "pairs": [{"ours": ours, "theirs": theirs, "as_it_comes": side(20.0)} for ours, theirs in pairs], **other,
    }  # fmt: skip


def test_the_ratio_is_of_each_pair_and_the_table_has_its_median_and_range() -> None:
    """Medians of the sides would give 2: the machine slowed down for whole pairs."""
    kept = record((side(1.0), side(4.0)), (side(10.0), side(10.0)), (side(2.0), side(3.0)))
    assert ratios(kept) == [4.0, 1.0, 1.5]
    cells = dict(zip(HEADER, line(SFT, kept), strict=True))
    assert cells["ours ÷ TRL, median (least–most)"] == "**1.50** (1.00–4.00)"
    assert (cells["ours, tokens/s"], cells["TRL, tokens/s"]) == ("500", "250")
    assert cells["ours ÷ TRL as it comes"] == "10.00"  # the median of 20, 2 and 10


def test_the_share_is_of_the_operations_needed_over_the_rate_measured() -> None:
    cells = dict(zip(HEADER, line(SFT, record((side(4.0, net=50.0), side(8.0, net=200.0)))), strict=True))
    assert (cells["share of matmul rate: ours"], cells["share of matmul rate: TRL"]) == ("50%", "25%")
    assert cells["at the whole matmul rate"] == "4.00"  # where ours came to the whole rate
    assert cells["peak memory: ours ÷ TRL"] == "0.25"


def test_machines_share_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {
        SFT: record((side(1.0), side(2.0))),
        GRPO: record((side(1.0), side(5.0)), machine="another"),
        replace(SFT, stage="dpo"): record((side(1.0), side(3.0))),
        replace(SFT, stage="reward"): record(not_same=["loss: 1 and 2"]),
    }
    monkeypatch.setattr(store, "load", kept.get)
    text = "\n".join(page_lines(list(kept)))
    tables = [part.split("Measured on: ") for part in text.split("| stage")[1:]]
    assert [(part.count("**2.00**"), part.count("**3.00**"), part.count("**5.00**")) for part, *_ in tables] == [
        (1, 1, 0), (0, 0, 1), (0, 0, 0),
    ]  # fmt: skip
    assert [where[0].partition(",")[0] for _, *where in tables if where] == ["m", "another"]
    assert "not the same work: loss: 1 and 2" in tables[2][0]


def test_lines_are_marked() -> None:
    quiet, busy = record((side(1.0), side(2.0))), record((side(1.0, others=0.9), side(2.0, others=0.9)))
    assert [mark in line(SFT, quiet)[1] for mark in "†‡"] == [False, False]
    assert [mark in line(SFT, busy)[1] for mark in "†‡"] == [True, False]
    assert [mark in line(SFT, quiet, fresh=False)[1] for mark in "†‡"] == [False, True]
    assert [mark in table([line(SFT, busy)])[-1] for mark in "†‡"] == [True, False]


def test_other_work_has_no_ratio() -> None:
    ours, theirs = side(1.0), side(2.0)
    theirs["first"]["loss"] = 2.001
    assert differences(SFT, ours, side(2.0)) == []
    found = differences(SFT, ours, theirs)
    assert found == ["first loss 2.0 and 2.001"]
    kept = record(not_same=found)
    assert "not the same work: first loss 2.0 and 2.001" in line(SFT, kept)
    assert len(line(SFT, kept)) == len(HEADER) == len(line(SFT, None))
    assert store.missing(kept, 5) == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tokens": 999}, "tokens of the timed steps"),
        ({"first": {"loss": 2.0, "grad_norm": 3.1}}, "first gradient"),
        ({"first": {"grad_norm": 3.0}}, "first loss"),
        ({"first": {"loss": float("nan"), "grad_norm": 3.0}}, "first loss"),
    ],
)
def test_every_sign_of_other_work_is_seen(change: dict[str, Any], told: str) -> None:
    found = differences(SFT, side(1.0), side(1.0) | change)
    assert len(found) == 1
    assert found[0].startswith(told)


def test_samples_are_compared_by_number_length_and_kl() -> None:
    first = {"completions": 8.0, "tokens": 80.0, "kl": 1e-7, "loss": 0.1}
    ours = side(1.0, tokens=80) | {"first": first}
    assert differences(GRPO, ours, ours | {"first": first | {"loss": 0.9}}) == []
    for change in ({"completions": 7.0}, {"tokens": 79.0}, {"kl": 0.1}, {"kl": float("nan")}):
        assert len(differences(GRPO, ours, ours | {"first": first | change})) == 1


def test_a_record_goes_on_until_the_code_or_the_machine_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "machine", lambda: "m")
    kept = store.begun(SFT, "d", tmp_path)
    assert (kept["pairs"], store.missing(kept, 3)) == ([], 3)
    kept["pairs"].append({"ours": side(1.0), "theirs": side(2.0)})
    store.keep(SFT, kept, tmp_path)
    again = store.begun(SFT, "d", tmp_path)
    assert again == kept
    assert (store.missing(again, 3), store.missing(again, 1)) == (2, 0)
    assert store.begun(SFT, "other", tmp_path)["pairs"] == []
    monkeypatch.setattr(store, "machine", lambda: "another")
    assert store.begun(SFT, "d", tmp_path)["pairs"] == []


def test_the_digest_is_of_what_the_cell_runs(tmp_path: Path) -> None:
    for name in {*store.code(SFT), "rlhf/online.py", "rlhf/supervised.py", "bench/speed/table.py"}:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((ROOT / name).read_bytes())
    before = store.digest(SFT, tmp_path)
    assert before == store.digest(replace(SFT, quick=True), tmp_path)
    assert before != store.digest(replace(SFT, rows=5), tmp_path)
    for name, changes in {
        "bench/speed/table.py": False,  # how a result is shown
        "rlhf/online.py": False,  # what another stage runs
        "rlhf/supervised.py": True,
        "bench/speed/theirs/offline.py": True,
        "constraints.txt": True,
    }.items():
        now = store.digest(SFT, tmp_path)
        with (tmp_path / name).open("a") as file:
            file.write("# changed\n")
        assert (store.digest(SFT, tmp_path) != now) == changes, name


@pytest.mark.parametrize("cell", [*CPU[:6], CUDA[0]], ids=lambda cell: cell.name)
def test_the_code_of_a_cell_has_both_sides_and_the_stage(cell: Cell) -> None:
    stage = {"sft": "tasks/sft.py", "reward": "tasks/reward_fits.py", "dpo": "tasks/dpo.py"}.get(
        cell.stage, "tasks/rl.py"
    )
    assert {stage, "rlhf/trainer.py", "bench/speed/rows.py", "bench/speed/inputs.py"} <= set(store.code(cell))
    assert {name.replace(".", "/") + ".py" for name in store.modules(cell)} <= set(store.code(cell))


def test_cells_have_names_of_their_own_and_are_found_by_parts() -> None:
    assert len({cell.name for cell in CPU + CUDA}) == len(CPU + CUDA)
    assert {cell.stage for cell in chosen("cpu", True, [])} == {"sft", "reward", "dpo", "grpo", "rloo", "ppo"}
    assert {cell.name for cell in chosen("cpu", False, ["sft-m60"])} == {
        "sft-m60-short",
        "sft-m60-hh",
        "sft-m60-short-lora",
    }
    assert chosen("cpu", False, ["nothing"]) == []
    assert {cell.dtype for cell in chosen("cuda", False, [])} == {"bfloat16"}


SMALL = Shape("small", vocab=10, hidden=4, layers=1, heads=2, kv_heads=1, intermediate=6, positions=32, tied=True)


def test_operations_by_hand() -> None:
    """Weights 4·4·2 + 4·2·2 + 3·4·6 = 120; one row of 2 + 1 tokens sees 6 pairs of positions."""
    assert SMALL.body == 120 == sum(one * other for one, other in SMALL.matrices)
    attention = 4 * 4 * 6
    weights, seen = needs.forward(SMALL, [(2, 1)], head=True)
    assert (weights, seen) == (2 * 120 * 3 + 2 * 4 * 10, attention)
    row = [(2, 1)]
    assert needs.flops(Cell("sft", SMALL, "short", 1, 1), row) == 3 * (weights + attention)
    assert needs.flops(Cell("reward", SMALL, "short", 1, 1), row) == 3 * (2 * 120 * 3 + attention)
    adapter = 16 * ((4 + 4) * 2 + (4 + 2) * 2 + (4 + 6) * 3)
    with_adapter = needs.flops(Cell("sft", SMALL, "short", 1, 1, lora=True), row)
    assert with_adapter == 2 * weights + 3 * attention + 6 * adapter * 3


def test_prompts_of_a_group_are_read_once_and_learnt_from_each_time() -> None:
    cell = Cell("grpo", SMALL, "short", 1, 1, group=2, new_tokens=1)
    once = sum(needs.forward(SMALL, [(2, 1)], head=True))
    assert needs.flops(cell, [(2, 1)]) == 2 * once * (1 + 1 + 3) - 2 * 120 * 2


def test_the_larger_shape_is_one_of_60_million() -> None:
    assert 50e6 < M60.body + 2 * M60.vocab * M60.hidden < 120e6


def test_the_clock_times_the_steps_after_the_warm_up(tmp_path: Path) -> None:
    clock = Clock(warmup=2, steps=2)
    ends = []
    for tokens in (1, 10, 100, 1000):
        clock.tokens += tokens
        ends.append(clock.tick())
    clock.write(tmp_path / "result.json", versions={})
    assert ends == [False, False, False, True]
    assert json.loads((tmp_path / "result.json").read_text())["tokens"] == 1100
    short = Clock(warmup=1, steps=2)
    short.tick()
    with pytest.raises(RuntimeError, match="1 steps were made, expected 3"):
        short.write(tmp_path / "short.json")


def test_the_page_keeps_what_stands_around_the_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        write_between(page, "speed", ["new"])
    assert page.read_text(encoding="utf-8") == f"before\n{START}\n\nnew\n\n{END}\nafter\n"
    assert (ROOT / "docs/speed.md").read_text(encoding="utf-8").count(START) == 1


def test_figures_are_kept_where_there_is_no_git_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFLOW_COMMIT", raising=False)
    monkeypatch.setattr(store, "ROOT", tmp_path)
    assert store.commit() == "unknown"  # a folder that was copied
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert store.commit() == "unknown"  # no such program
    monkeypatch.setenv("PREFLOW_COMMIT", "abc")
    assert store.commit() == "abc"
