"""Numbers that are no use: one such step is passed over and kept to look at, several end the training and say why."""

import json
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf import rewards, supervised
from rlhf.checkpoints import Checkpoints
from rlhf.errors import NumericsError
from rlhf.models import load_policy
from rlhf.rewards import Asked
from rlhf.sampler import Completion, sample
from tasks.rl_rollouts import answer
from tests.faults.child import ended
from tests.faults.small_stage import STEPS, events, make_root, typed_sft
from tests.tasks import small_rl, tiny
from tests.tasks.small_rl import metrics_of, run, save_inputs


def spoiling(wanted: Callable[[int], float]) -> Callable[[], None]:
    """In a fork: the loss of SFT's step n is multiplied by `wanted(n)`; there is one micro-batch a step."""

    def prepare() -> None:
        original, calls = supervised.completion_nll, [-1]

        def spoilt(*arguments: Any) -> Any:
            calls[0] += 1
            losses, metrics = original(*arguments)
            return losses * wanted(calls[0]), metrics

        supervised.completion_nll = spoilt  # type: ignore[attr-defined]

    return prepare


@pytest.mark.faults(
    20, injected="NaN as the loss of step 7 of SFT",
    happens="the update is skipped and said, nonfinite=1, its batch kept in incidents/ with the run",
)  # fmt: skip
def test_one_nan_is_skipped_told_and_kept(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    assert ended(typed_sft(root, spoiling(lambda step: math.nan if step == 7 else 1.0)), root / "errors") == 0
    logged = {event["step"]: event["metrics"] for event in events(root) if event["event"] == "metrics"}
    losses = [logged[step]["sft/loss"] for step in range(STEPS)]
    assert [step for step, loss in enumerate(losses) if not math.isfinite(loss)] == [7] and 0.0 not in losses
    assert [logged[step]["sft/nonfinite"] for step in range(STEPS)] == [0.0] * 7 + [1.0] * 17
    shown = [event for event in events(root) if event["event"] == "file"]
    assert [(event["folder"], event["file"]) for event in shown] == [("incidents", "sft-step-000007.jsonl")]
    kept = root / ".preflow/journal/test/sft-1/files/sft-step-000007.jsonl"
    said = (root / "errors").read_text()
    assert "sft: step 7 was not finite (loss nan" in said and f"is kept in {kept}" in said
    chat = load_policy(root / "base").chat
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    assert len(rows) == 4  # a batch
    assert all(row["step"] == 7 and "yes please" in chat.decode(row["input_ids"]) for row in rows)
    assert all(weight.isfinite().all() for weight in load_policy(root / "out/policy").model.parameters())


@pytest.mark.faults(
    21, injected="NaN from step 7 of SFT on",
    happens="stops with code 86, “numerics” and the file of the batch; the checkpoint before is the newest, and finite",
)  # fmt: skip
def test_nan_after_nan_ends_the_training(tmp_path: Path) -> None:
    root = make_root(tmp_path, checkpoint_every=3)
    assert ended(typed_sft(root, spoiling(lambda step: math.nan if step >= 7 else 1.0)), root / "errors") == 86
    end = events(root)[-1]
    assert end["reason"].startswith("numerics: 3 of the last 20 steps were not finite (steps [7, 8, 9];")
    (folder,) = root.glob(".preflow/scratch/sft-*/checkpoints")
    assert f"batch in {folder}/incidents/sft-step-000009.jsonl" in end["reason"]
    assert (folder / "incidents/sft-step-000009.jsonl").exists() and not (root / "out/policy").exists()
    newest = Checkpoints(folder, every=3).newest()
    assert newest is not None and newest.step == 9 and newest.state["skipped"] == [7, 8]
    assert all(tensor.isfinite().all() for tensor in newest.tensors.values())


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    return save_inputs(tmp_path)


@pytest.mark.faults(
    22, injected="a learning rate a thousand times too high, no price of KL",
    happens="“kl_diverged” after three updates past rl.kl_limit; no policy is written, the best one before is kept",
)  # fmt: skip
def test_a_policy_that_leaves_its_reference_is_stopped(inputs: dict[str, Path], tmp_path: Path) -> None:
    wild = small_rl.BLOCKS["rloo"].model_copy(update={"lr": 10.0})
    with pytest.raises(NumericsError, match=r"kl_diverged: up to update 3 .*rl\.kl_limit \(2\.0\).*lower the") as stop:
        run(inputs, tmp_path / "wild", "rloo", wild, kl_coef=0.0, kl_limit=2.0)
    assert stop.value.exit_code == 86
    assert not list((tmp_path / "wild/out").iterdir())
    assert tiny.contents(tmp_path / "wild/scratch/best-0000") == tiny.contents(inputs["policy"])
    run(inputs, tmp_path / "tame", "rloo", num_updates=6, kl_coef=0.0, kl_limit=2.0)


def test_what_the_guards_have_seen_outlives_a_kill(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Checkpoints after each update: begun again and again, it still stops where it would have."""
    wild = small_rl.BLOCKS["rloo"].model_copy(update={"lr": 10.0})
    settings: dict[str, Any] = {"kl_coef": 0.0, "kl_limit": 2.0, "checkpoint_every": 1}
    for _ in range(2):
        with pytest.raises(NumericsError, match="up to update 3"):
            run(inputs, tmp_path / "wild", "rloo", wild, **settings)
        (tmp_path / "wild/out").rmdir()


@pytest.mark.parametrize("importance_cap", [None, 1.5])
@pytest.mark.faults(
    23, injected="a sampler that keeps the weights of the start", happens="the difference to the trainer is noticed"
)  # fmt: skip
def test_a_sampler_with_old_weights_is_noticed(
    importance_cap: float | None, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: list[Any] = []

    def stale(policy: Any, *arguments: Any, **named: Any) -> Any:
        first[:] = first or [deepcopy(policy)]
        return sample(first[0], *arguments, **named)

    monkeypatch.setattr("tasks.samplers.sample_together", stale)
    block = small_rl.BLOCKS["rloo"].model_copy(update={"importance_cap": importance_cap})
    with pytest.raises(NumericsError, match=r"sampler and trainer differ by .*both use the same weights"):
        run(inputs, tmp_path / "stale", "rloo", block)
    assert not list((tmp_path / "stale/out").iterdir())


def rewarding(value: Callable[[int, int], float]) -> Any:
    """In place of a configured reward: of row r in call n of the reward."""
    calls = [-1]

    def component(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Tensor:
        calls[0] += 1
        return torch.tensor([value(calls[0], row) for row in range(len(completions))])

    return lambda *_, max_unscorable=0.0, **__: rewards.compose({"odd": (1.0, component)}, max_unscorable)


@pytest.mark.parametrize("name", ["grpo", "rloo", "ppo"])
@pytest.mark.faults(
    24, injected="a reward that is 1 for everything", happens="“no_signal” after rl.signal_within updates, and why"
)
def test_a_reward_that_says_nothing_ends_the_training(
    name: str, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.rl.build", rewarding(lambda *_: 1.0))
    with pytest.raises(NumericsError, match=r"no_signal: in 4 updates .*\(now all about 1\).*group_size.*min_solve"):
        run(inputs, tmp_path / "same", name, signal_within=4)


@pytest.mark.faults(
    24, injected="rewards that are all equal but in one update", happens="goes on to its end"
)  # fmt: skip
def test_a_reward_that_said_something_once_may_fall_silent(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.rl.build", rewarding(lambda call, row: float(call == 2 and row == 0)))
    run(inputs, tmp_path / "silent", "rloo", signal_within=3, num_updates=6)
    assert metrics_of(tmp_path / "silent")["stopped_early"] is None


@pytest.mark.parametrize("name", ["grpo", "ppo", "dapo"])
@pytest.mark.faults(
    25, injected="NaN as the reward of one completion in 32",
    happens="its prompt is left out and counted, as if it had not been asked",
)  # fmt: skip
def test_what_cannot_be_scored_is_left_out(
    name: str, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fifth completion belongs to the second prompt: no algorithm may learn from any of its four."""
    learnt: list[tuple[int, bool]] = []

    def watched(*arguments: Any) -> Any:
        answered, seconds = answer(*arguments)
        learnt.append((len(answered.prompts), bool(answered.scored.total.isnan().any())))
        return answered, seconds

    monkeypatch.setattr("tasks.rl.build", rewarding(lambda call, row: math.nan if row == 4 else float(row % 3)))
    monkeypatch.setattr("tasks.rl_looks.answer", watched)
    log = run(inputs, tmp_path / "odd", name, num_updates=2, max_unscorable=0.2)
    first = log.steps[0]
    assert first["rl/unscorable"] == pytest.approx(1 / 32) if name != "dapo" else first["rl/unscorable"] > 0
    assert first["rl/reward_odd"] == first["rl/reward"] and math.isfinite(first["rl/loss"])
    if name != "dapo":  # which asks others in its place
        scored = [float(row % 3) for row in range(32) if row // 4 != 1]
        assert first["rl/reward"] == pytest.approx(sum(scored) / 28)
    assert all(nan for _, nan in learnt) and all(
        math.isfinite(look["reward"]) for look in metrics_of(tmp_path / "odd")["val"]
    )


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (lambda values: values.index_fill(0, torch.arange(4), math.nan), "4 of 32 values that are not finite, at most"),
        (
            lambda values: values.index_fill(0, torch.arange(4), -math.inf),
            "4 of 32 values that are not finite, at most",
        ),
        (lambda values: values[:-1], r"gave shape \(31,\), expected \(32,\)"),
        (lambda values: None, r"gave shape NoneType, expected \(32,\)"),
    ],
)
@pytest.mark.faults(
    25, injected="NaN or infinity for more than a twentieth, too few values, None", happens="stops and names the reward"
)  # fmt: skip
def test_a_reward_that_is_none_ends_the_training(
    bad: Callable[[Tensor], Any], said: str, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def component(prompts: Sequence[Asked], completions: Sequence[Completion]) -> Any:
        values = torch.arange(len(completions)).float()
        return bad(values) if len(completions) == 32 else values

    monkeypatch.setattr(
        "tasks.rl.build",
        lambda *_, max_unscorable=0.0, **__: rewards.compose({"odd": (1.0, component)}, max_unscorable),
    )
    with pytest.raises(
        NumericsError, match=f"reward component `odd` {said}" if "gave" in said else f"`odd` gave {said}"
    ):
        run(inputs, tmp_path / "none", "rloo")


@pytest.mark.faults(25, injected="a reward that raises", happens="stops with that error, nothing is written")
def test_a_reward_that_raises_ends_the_training(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def value(call: int, row: int) -> float:
        raise ZeroDivisionError("of the user's own")

    monkeypatch.setattr("tasks.rl.build", rewarding(value))
    with pytest.raises(ZeroDivisionError, match="of the user's own"):
        run(inputs, tmp_path / "raised", "rloo")
    assert not list((tmp_path / "raised/out").iterdir())
