"""The tables at the end: every number in its place, readable in a log, whole in a narrow terminal."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.report import print_report
from rlhf.records import write_json
from tasks.config.gate import Gate
from tasks.gate import decide
from tests.tasks.scores import healthy, interval, trusted

ROOT = Path(__file__).parents[2]


def printed(folder: Path, **console: Any) -> str:
    out = io.StringIO()
    print_report(folder, Console(file=out, **console))
    return out.getvalue()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    scores = healthy(champion_gold=0.60)
    write_json(tmp_path / "12_evaluation" / "scores.json", scores)
    write_json(tmp_path / "13_gate" / "gate.json", decide(Gate(max_kl=1.0), scores, trusted(), {"passed": True}))
    write_json(tmp_path / "07_reward_model" / "metrics.json", trusted())
    curve = [{"n": n, "gold_reward": interval(gold)} for n, gold in ((1, 0.56), (4, 0.68))]
    write_json(tmp_path / "12_evaluation" / "curves.json", {"best_of_n": curve})
    return tmp_path


def test_plain_text_has_every_policy_the_controls_and_every_check(data: Path) -> None:
    text = printed(data, width=120)
    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert "\x1b" not in text and "─" not in text and "…" not in text
    assert any(line.startswith("rl * 0.73 ±0.02") for line in lines)
    assert "random_control - sft +0.010 [-0.010, +0.030]" in lines
    assert "rejection_sampling - random_control +0.090 [+0.070, +0.110]" in lines
    assert "kl 2.2 ≤ 1 FAILED" in lines
    assert "stop_rate 0.99 ≥ 0.9 passed" in lines
    assert any(line.startswith("gate: rl is not promoted") for line in lines)
    assert "reward model: held-out accuracy 0.720 [0.690, 0.750], ceiling 0.850, on 1000 pairs" in lines
    assert "best of n from SFT, gold_reward: n=1 0.560, n=4 0.680" in lines


@pytest.mark.parametrize("width", [80, 100, 110, 116, 125, 140])
def test_a_terminal_cuts_nothing_off(data: Path, width: int) -> None:
    """Not even where there is a champion, whose column makes the table wider."""
    path = data / "12_evaluation" / "scores.json"
    scores = json.loads(path.read_text())
    for row in scores["policies"].values():
        row["win_rate_vs_champion"] = row["win_rate_vs_sft"]
    write_json(path, scores)
    text = printed(data, width=width, force_terminal=True)
    assert "\x1b" in text
    assert "…" not in text
    assert ("win/champion" in text) == (width == 140)


def test_a_title_that_is_wider_than_its_table_stays_one_line(data: Path) -> None:
    scores = json.loads((data / "12_evaluation" / "scores.json").read_text())
    scores["differences"] = {"a": {"b": next(iter(next(iter(scores["differences"].values())).values()))}}
    write_json(data / "12_evaluation" / "scores.json", scores)
    lines = [line.rstrip() for line in printed(data, width=120).splitlines()]
    assert "paired differences of gold_reward, 95% intervals" in lines
    assert "b - a" in "\n".join(lines)


def test_unknown_gold_gets_no_column(tmp_path: Path) -> None:
    scores = healthy()
    scores["judge"] = "held_out_rm"
    for row in scores["policies"].values():
        row["gold_reward"] = None
    write_json(tmp_path / "12_evaluation" / "scores.json", scores)
    header = printed(tmp_path, width=120).splitlines()[1].split()
    assert header == ["policy", "held-out", "reward", "win/SFT", "KL", "length", "stop"]


def test_nothing_on_disk_prints_nothing(tmp_path: Path) -> None:
    assert printed(tmp_path) == ""


def test_importing_it_loads_no_torch() -> None:
    program = "import sys, flows.report; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
