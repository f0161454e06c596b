"""A stage that was killed, gone on with: what MLflow shows of it, and what it says where something has changed."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tasks import tracking
from tasks.tracking.store import connect
from tests.faults.child import ended
from tests.faults.small_stage import STEPS, events, make_root, typed_sft

Curve = list[tuple[int, float]]
KILL_AT, SAVED = 6, 3
"""Killed in the sixth update, with a checkpoint after the third: two steps are done, and told of, twice."""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "PREFLOW_HOME", "PREFLOW_RUN"):
        monkeypatch.delenv(name, raising=False)
    return make_root(tmp_path, checkpoint_every=SAVED)


def killed(root: Path) -> None:
    assert ended(typed_sft(root), fault=f"step.update:{KILL_AT}:kill") == -signal.SIGKILL


def set_params(root: Path, **settings: Any) -> None:
    params = json.loads((root / "params.yaml").read_text())
    params["sft"] |= settings
    (root / "params.yaml").write_text(json.dumps(params))


def shown(root: Path) -> dict[str, tuple[Any, dict[str, Curve]]]:
    """The runs that MLflow has of the stage, by name, each with its curves."""
    tracking.reconcile(root)
    client = connect(root).client
    found = client.search_runs(["1"], "tags.`preflow.stage` = 'sft'")
    return {
        run.info.run_name: (run, {
            name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
            if name.startswith("sft/") and "per_second" not in name
        })
        for run in found
    }  # fmt: skip


@pytest.mark.faults(
    1, injected="kill -9 of SFT two steps after its checkpoint",
    happens="MLflow has both attempts, the first one marked; up to where the second goes on, and then that one, they "
    "are every step once, with the numbers of a stage that was not killed",
)  # fmt: skip
def test_no_step_is_twice_in_what_mlflow_shows(root: Path) -> None:
    assert ended(typed_sft(root, out="unbroken")) == 0
    killed(root)
    assert ended(typed_sft(root)) == 0
    runs = shown(root)
    assert {name: run.info.status for name, (run, _) in runs.items()} == {
        "sft": "FINISHED", "sft (attempt 2)": "KILLED", "sft (attempt 3)": "FINISHED",
    }  # fmt: skip
    (_, unbroken), (first, before), (_, after) = (runs[name] for name in sorted(runs))
    assert first.data.tags["preflow.state"] == "failed"
    ((_, start),) = after.pop("sft/resumed_from")
    assert start == SAVED
    assert [step for step, _ in before["sft/loss"]] == list(range(KILL_AT - 1))
    assert [step for step, _ in unbroken["sft/loss"]] == list(range(STEPS))
    assert set(after) == set(unbroken)
    for name, curve in after.items():
        earlier = [(step, value) for step, value in before.get(name, []) if step < start]
        assert earlier + curve == unbroken[name], name


def test_changed_it_begins_anew_with_a_word_and_put_back_it_goes_on(root: Path) -> None:
    killed(root)
    set_params(root, lr=0.01)
    assert ended(typed_sft(root), root / "said", "step.update:2:kill") == -signal.SIGKILL
    lost = f"had come to step {SAVED} of {STEPS}, and since then: sft.lr 0.02 → 0.01\n"
    assert lost in (root / "said").read_text()
    set_params(root, lr=0.02)
    assert ended(typed_sft(root)) == 0
    (begun,) = [line for line in events(root, 3) if "sft/resumed_from" in line.get("metrics", {})]
    assert begun["step"] == SAVED


@pytest.mark.faults(
    17, injected="the checkpoints of a stage that trained on other rows, or by other versions of libraries",
    happens="refused by what differs: the file of rows, the library",
)  # fmt: skip
def test_a_checkpoint_says_what_it_was_trained_on_and_with(root: Path) -> None:
    killed(root)
    (trained,) = root.glob(".preflow/scratch/sft-*/checkpoints")
    kept = trained.rename(root / "kept")
    rows = next((root / "demonstrations").rglob("train.jsonl"))
    rows.write_text("".join(reversed(rows.read_text().splitlines(keepends=True))))
    assert ended(typed_sft(root), fault="step.update:1:kill") == -signal.SIGKILL
    (other,) = (path for path in root.glob(".preflow/scratch/sft-*/checkpoints") if path.parent != trained.parent)
    other.rmdir()
    kept.rename(other)
    state = other / f"step-{SAVED:06d}" / "state.json"
    assert json.loads(state.read_text())["state"]["identity"]["version of torch"]
    assert ended(typed_sft(root), root / "said") == 1
    refused = rf"step {SAVED} in {other} is of another training (demonstrations: there "
    assert refused in (root / "said").read_text() and "; and" not in (root / "said").read_text()
