"""Looks at val while RL trains: the early stop, and the policies that are kept."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from rlhf.rewards import Component
from tasks.rl_looks import parted
from tests.tasks import tiny
from tests.tasks.small_rl import NO_MODEL, metrics_of, run, save_inputs, stopped


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    return save_inputs(tmp_path)


def looks(*pairs: tuple[float, float | None]) -> list[dict[str, Any]]:
    return [{"update": 10 * number, "reward": one, "held_out_reward": two} for number, (one, two) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(0, 0), (1, 1), (2, 0.9), (3, 0.8)], True),
        ([(0, 0), (1, 1), (2, 0.9)], False),  # only one look so far
        ([(0, 0), (1, 1), (2, 0.9), (3, 1.1)], False),  # a new best
        ([(0, 0), (1, 1), (0.9, 0.9), (2, 0.9)], False),  # the reward fell too: no parting
        ([(0, 0), (1, 1), (0.9, 0.9), (2, 0.9), (2, 0.8)], True),
        ([(0, 0), (1, 1), (2, 1), (3, 1)], False),  # as good as the best is not below it
        ([(0, 1), (1, 0.9), (2, 0.8)], True),  # the start was the best
        ([(0, None), (1, None), (2, None), (3, None)], False),
    ],
)
def test_reward_and_held_out_part(pairs: list[tuple[float, float | None]], expected: bool) -> None:
    assert parted(looks(*pairs), patience=2) is expected


@pytest.fixture
def contrary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A held-out reward that is lost as the other one is won."""
    against: Component = lambda prompts, completions: -stopped(prompts, completions)  # noqa: E731
    monkeypatch.setattr("tasks.rl._witness", lambda *_: against)


@pytest.mark.usefixtures("contrary")
def test_training_ends_where_the_held_out_reward_parts_from_the_reward(inputs: dict[str, Path], tmp_path: Path) -> None:
    run(inputs, tmp_path / "on", rewards=NO_MODEL, stop_early=True, patience=2, val_every=2)
    metrics = metrics_of(tmp_path / "on")
    assert metrics["stopped_early"] == metrics["val"][-1]["update"] < 12
    assert parted(metrics["val"], 2) and not parted(metrics["val"][:-1], 2)
    assert metrics["kept"] == max(metrics["val"], key=lambda look: look["held_out_reward"])["update"]
    run(inputs, tmp_path / "off", rewards=NO_MODEL, stop_early=False, val_every=2)
    assert metrics_of(tmp_path / "off")["stopped_early"] is None
    assert metrics_of(tmp_path / "off")["val"][: len(metrics["val"])] == metrics["val"]


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.usefixtures("contrary")
@pytest.mark.parametrize("place", ["tasks.rl.parted", "tasks.rl._save"])
def test_a_run_killed_around_its_early_stop_gives_the_same_bytes(
    place: str, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"rewards": NO_MODEL, "stop_early": True, "patience": 2, "val_every": 2}
    run(inputs, tmp_path / "unbroken", select_best=False, **settings)

    def dying(looks: Any, *_: Any) -> bool:
        if place.endswith("_save") or len(looks) > 2:
            raise Killed
        return False

    with monkeypatch.context() as patch:
        patch.setattr(place, dying)
        with pytest.raises(Killed):
            run(inputs, tmp_path / "broken", select_best=False, **settings)
    shutil.rmtree(tmp_path / "broken" / "out")
    run(inputs, tmp_path / "broken", select_best=False, **settings)
    assert tiny.contents(tmp_path / "broken" / "out") == tiny.contents(tmp_path / "unbroken" / "out")
    assert metrics_of(tmp_path / "broken")["kept"] == metrics_of(tmp_path / "broken")["stopped_early"]


# Looks


def test_the_policy_of_every_look_can_be_kept(inputs: dict[str, Path], tmp_path: Path) -> None:
    run(inputs, tmp_path / "run", keep_looks=True, select_best=False)
    out = tmp_path / "run" / "out"
    assert sorted(folder.name for folder in (out / "looks").iterdir()) == ["0000", "0004", "0008", "0012"]
    assert tiny.contents(out / "looks" / "0000") == tiny.contents(inputs["policy"])
    assert tiny.contents(out / "looks" / "0012") == tiny.contents(out / "policy")
    run(inputs, tmp_path / "none", num_updates=1)
    assert not (tmp_path / "none" / "out" / "looks").exists()


# Demonstrations
