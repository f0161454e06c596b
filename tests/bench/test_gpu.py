"""The bench of a GPU, rehearsed: its parts run, what fails is told and the rest goes on, and verdicts are right."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import __main__ as bench
from bench.gpu import machine, records, sampling, sft, split
from bench.gpu.green import counted
from bench.gpu.parts import LEFT_OUT, PARTS, Part
from bench.gpu.process import Failed, waited_for
from bench.gpu.setting import GPU, REHEARSAL
from bench.speed import needs

ROOT = Path(__file__).parents[2]
BY_NAME = {part.name: part for part in PARTS}
FOUND: dict[str, dict[str, Any]] = {
    "machine": {"matmul": 8e14, "bandwidth": 4e12},
    "sft": {"share": 0.5, "tokens_per_second": 1e5, "peak_mb": 1024.0},
    "sampler": {"share": 0.1, "tokens_per_second": 1e4, "bound": 1e5, "sequences": 256},
    "split": {"step_seconds": 2.0, "shares": {"sample": 0.75, "train": 0.25}},
    "tests": {"passed": 3, "failed": 1, "skipped": 0, "failing": ["a::b"]},
    "trl-sft": {"not_same": [], "ratio": 1.5, "tokens_per_second": {"ours": 3.0, "theirs": 2.0}},
    "trl-dpo": {"not_same": ["first loss 1 and 2"]},
    "trl-grpo": {LEFT_OUT: "no TRL"},
}


def test_sft_is_measured(tmp_path: Path) -> None:
    found = sft.measured(REHEARSAL, tmp_path)
    shortest, longest = (REHEARSAL.rows * REHEARSAL.steps * bound for bound in REHEARSAL.tokens)
    assert shortest <= found["tokens"] <= longest
    weights = 6.0 * REHEARSAL.shape.body * found["tokens"]
    head = 6.0 * REHEARSAL.shape.hidden * REHEARSAL.shape.vocab * found["tokens"]
    assert weights < found["flops"] < weights + head + 0.2 * weights  # attention of short rows is little
    assert found["share"] == pytest.approx(found["flops"] / found["seconds"] / found["matmul"])


def test_the_sampler_is_measured_against_what_must_be_read(tmp_path: Path) -> None:
    found = sampling.measured(REHEARSAL, tmp_path)
    assert found["sequences"] == 16 and found["tokens_per_second"] > 0
    assert found["share"] == pytest.approx(found["tokens_per_second"] / found["bound"])


def test_the_bytes_of_a_step_by_hand() -> None:
    """Two bytes for each of the weights and LM head, and of 16 sequences keys and values of 10 + 4 positions."""
    shape = REHEARSAL.shape
    assert shape.body == 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    cache = 16 * 14 * (2 * 2 * 2 * 16)
    assert sampling.bytes_of_a_step(REHEARSAL, [8, 12]) == 2 * (shape.body + 64 * 300 + cache)
    assert needs.BYTES[REHEARSAL.dtype] == 2


def test_the_time_of_a_step_is_split_and_nothing_is_lost(tmp_path: Path) -> None:
    found = split.measured(REHEARSAL, tmp_path)
    assert set(found["shares"]) == {"sample", "score", "reference", "train", "other"}
    assert sum(found["shares"].values()) == pytest.approx(1.0)
    assert all(found["shares"][kind] > 0 for kind in ("sample", "score", "reference", "train"))
    assert abs(found["shares"]["other"]) < 0.05


def test_the_machine_has_two_rates(tmp_path: Path) -> None:
    found = machine.measured(REHEARSAL, tmp_path)
    assert found["matmul"] > 0 and found["bandwidth"] > 0 and found["torch"]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Parts that were measured, with the results of FOUND; `split` fails."""
    names: list[str] = []

    def run(name: str, limit: float | None, rehearse: bool, folder: Path) -> dict[str, Any]:
        names.append(name)
        if name == "split":
            raise Failed("ended with 1\nout of memory")
        return FOUND[name]

    monkeypatch.setattr(bench, "run", run)
    return names


def test_what_fails_is_told_and_the_rest_goes_on(
    measured: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.measure(PARTS, GPU, tmp_path, "card") == ["split"]
    assert measured == [part.name for part in PARTS]
    told = capsys.readouterr().out
    assert "split: FAILED: ended with 1\nout of memory" in told and "trl-grpo: SKIPPED: no TRL" in told
    measured.clear()
    assert bench.measure(PARTS, GPU, tmp_path, "card") == ["split"]
    assert measured == ["split", "trl-grpo"]  # the others are kept
    measured.clear()
    bench.measure([BY_NAME["sft"]], GPU, tmp_path, "another card")
    bench.measure([BY_NAME["sft"]], replace(GPU, rows=8), tmp_path, "another card")
    assert measured == ["sft", "sft"]


def test_verdicts_say_what_holds(measured: list[str], tmp_path: Path) -> None:
    bench.measure(PARTS, GPU, tmp_path, "card")
    lines = bench.page_lines(GPU, tmp_path)
    holds = [line.rpartition("| ")[2].removesuffix(" |") for line in lines[2:10]]
    assert holds == ["–", "yes", "no", "–", "no", "yes", "no", "–"]
    assert "card" in lines[-1]
    assert "yes" not in "".join(bench.page_lines(REHEARSAL, tmp_path))  # nothing is shown by a rehearsal


def run_main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, card: str | None, *arguments: str) -> Path:
    page = tmp_path / "speed.md"
    page.write_text("<!-- gpu: x -->\nold\n<!-- /gpu -->\n")
    monkeypatch.setattr(bench, "PAGE", page)
    monkeypatch.setattr(bench, "device", lambda: {"card": card, "torch": "2"})
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(records, "REHEARSED", tmp_path / "rehearsed")
    monkeypatch.setattr(sys, "argv", ["bench.gpu", *arguments])
    bench.main()
    return page


def test_only_a_gpu_has_results(
    measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = run_main(monkeypatch, tmp_path, None, "--only", "sft")
    assert bench.REHEARSING in capsys.readouterr().out
    assert "old" in page.read_text() and not (tmp_path / "results").exists()
    page = run_main(monkeypatch, tmp_path, "card", "--only", "sft")
    assert bench.REHEARSING not in capsys.readouterr().out
    assert "50.0%" in page.read_text() and (tmp_path / "results/sft.json").exists()
    assert measured == ["sft", "sft"]


def test_a_part_that_failed_is_the_exit_code(
    measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"1 of 2 parts failed: split"):
        run_main(monkeypatch, tmp_path, None, "--only", "sft", "--only", "split")
    with pytest.raises(SystemExit, match="no part is called sfx"):
        run_main(monkeypatch, tmp_path, None, "--only", "sfx")


def test_a_process_is_ended_at_its_limit_with_all_that_it_started(tmp_path: Path) -> None:
    """A child of the child holds a pipe open as long as it lives, and would say so if it outlived its parent."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    child = f"import time; file = open({str(tmp_path / 'pipe')!r}, 'w'); time.sleep(30); file.write('survived')"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert waited_for([sys.executable, "-c", program], 2.0, tmp_path / "log") is None
    os.set_blocking(reader, True)
    with open(reader, encoding="utf-8") as pipe:
        assert pipe.read() == ""
    assert waited_for([sys.executable, "-c", "raise SystemExit(3)"], 60.0, tmp_path / "log") == 3


def test_outcomes_are_counted(tmp_path: Path) -> None:
    cases = "".join(
        f'<testcase classname="c" name="{name}">{inside}</testcase>'
        for name, inside in (("a", ""), ("b", "<failure/>"), ("c", "<error/>"), ("d", "<skipped/>"), ("e", ""))
    )
    (tmp_path / "report.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert counted(tmp_path / "report.xml") == {"passed": 2, "failed": 2, "skipped": 1, "failing": ["c::b", "c::c"]}


def test_three_runs_of_ten_minutes_are_enough() -> None:
    def limits(*names: str) -> int:
        return sum(part.limit for part in PARTS if part.name.partition("-")[0] in names)

    assert limits("machine", "sft", "sampler", "split") <= 600
    assert limits("tests") <= 600
    assert limits("trl") <= 600
    assert sum(part.limit for part in PARTS) <= 1800


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_part_is_keyed_by_the_code_it_runs(part: Part) -> None:
    assert part.digest(GPU) == part.digest(GPU) != part.digest(REHEARSAL)


@pytest.mark.parametrize("setting", [GPU, REHEARSAL], ids=["gpu", "rehearsal"])
def test_the_tests_that_are_run_are_there(setting: Any) -> None:
    assert [name for name in setting.tests if not (ROOT / name).is_file()] == []
    assert {cell.stage for cell in setting.beside} == {"sft", "dpo", "grpo"}


def test_what_is_kept_can_be_shown() -> None:
    assert bench.page_lines(GPU, records.RESULTS)
    assert json.dumps(bench.page_lines(REHEARSAL, records.REHEARSED))
