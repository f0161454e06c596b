"""What decides whether a kept measurement is taken: its key."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rlhf.errors import NumericsError
from rlhf.evaluation import Drawing
from tasks import measurements
from tasks.measurements import Measurements

MODELS: dict[str, str | None] = {"reference": "one", "policy_rm": None}


class Bench:
    """One policy, asked for its selection score; counts how often that is worked out."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shared, self.policy, self.measured = folder / "shared", folder / "policy", 0
        self.score: list[float] = [0.5, 1.5]
        for made in (self.shared, self.policy):
            made.mkdir()
        (self.policy / "weights").write_text("1")
        self.exam: Any = SimpleNamespace(
            questions=[{"id": "a", "messages": []}], drawing=DRAWING, unfinished_reward=-2.0, max_batch_tokens=64,
            stable=[], reference=None,
        )  # fmt: skip
        monkeypatch.setattr(measurements, "load_policy", lambda *_: None)
        monkeypatch.setattr(measurements, "selection_score", self._work_out)

    def _work_out(self, *_: Any) -> np.ndarray:
        self.measured += 1
        return np.array(self.score)

    def ask(self, models: dict[str, str | None] = MODELS) -> list[float]:
        found: list[float] = Measurements(self.shared, models).selection(self.exam, self.policy).tolist()
        return found


DRAWING = Drawing(max_new_tokens=4, temperature=1.0, group_size=2, seed=0, batch_size=2)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_the_same_is_measured_once(bench: Bench) -> None:
    assert bench.ask() == bench.ask() == [0.5, 1.5]
    assert bench.measured == 1


@pytest.mark.parametrize("changed", ["code", "packages", "threads", "device", "reference", "scorer", "policy"])
def test_what_decides_the_numbers_is_in_the_key(bench: Bench, changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.ask()
    models = dict(MODELS)
    if changed == "code":
        monkeypatch.setitem(measurements._CODE, "rlhf/evaluation.py", "other bytes")
    elif changed == "packages":
        monkeypatch.setitem(measurements._CODE, "environment.json", "other bytes")
    elif changed == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    elif changed == "device":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "another device")
    elif changed == "policy":
        (bench.policy / "weights").write_text("2")
    else:
        models["reference" if changed == "reference" else "policy_rm"] = "two"
    bench.ask(models)
    assert bench.measured == 2
    bench.ask(models)
    assert bench.measured == 2


def test_the_code_is_the_one_that_was_loaded(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file edited while policies are measured is not what measures them."""
    assert {"tasks/measurements.py", "rlhf/evaluation.py", "environment.json"} <= set(measurements._CODE)
    bench.ask()
    monkeypatch.setattr(measurements, "_ROOT", tmp_path / "edited since")
    bench.ask()
    assert bench.measured == 1


def test_a_number_that_is_none_is_said_with_policy_and_metric_and_not_kept(bench: Bench) -> None:
    bench.score = [0.5, float("nan")]
    with pytest.raises(NumericsError, match=r"policy .*policy: selection_score\[1\] is nan, expected a finite number"):
        bench.ask()
    assert not list(bench.shared.iterdir())
