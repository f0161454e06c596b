import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rlhf.checkpoints import Checkpoints
from rlhf.errors import NumericsError
from rlhf.seeding import generator
from rlhf.spending import ACCOUNT
from rlhf.trainer import FitResult, Metrics, OptimizerSettings, StepBatch, fit, lr_factor

STEPS = 12
SETTINGS = OptimizerSettings(lr=0.05, warmup_steps=2, weight_decay=0.1)


class Killed(BaseException):
    """Stands for a kill: nothing in the library catches it."""


def make_module() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator(0, "init", index)))
    return module


def rows_at(step: int) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(8, 3, generator=generator(0, "rows", step))
    return inputs, inputs.sum(dim=1)


def run(
    module: nn.Module,
    checkpoints: Checkpoints | None = None,
    num_micro_batches: int = 1,
    spoil: Callable[[int], float] = lambda step: 1.0,
    settings: OptimizerSettings = SETTINGS,
    **more: object,
) -> FitResult:
    """Regression on made-up rows; `spoil(step)` multiplies the loss of that step."""

    def batch_at(step: int) -> StepBatch[tuple[Tensor, Tensor, float]]:
        inputs, targets = rows_at(step)
        parts = zip(inputs.chunk(num_micro_batches), targets.chunk(num_micro_batches), strict=True)
        return StepBatch([(x, y, spoil(step)) for x, y in parts], denominator=8)

    def loss(micro_batch: tuple[Tensor, Tensor, float]) -> tuple[Tensor, Metrics]:
        inputs, targets, factor = micro_batch
        errors = (module(inputs).squeeze(-1) - targets) ** 2 * factor
        return errors.sum(), {"error": errors.detach(), "error_max": errors.detach()}

    return fit(
        {"model": module}, steps=STEPS, batch_at=batch_at, loss=loss, optimizer=settings, seed=0, name="test",
        checkpoints=checkpoints, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def weights(module: nn.Module) -> list[bytes]:
    return [parameter.detach().numpy().tobytes() for parameter in module.parameters()]


@pytest.fixture
def unbroken() -> list[bytes]:
    module = make_module()
    run(module)
    return weights(module)


def test_learns_and_logs_averages_over_the_whole_step() -> None:
    module, seen = make_module(), []
    first = (module(rows_at(0)[0]).squeeze(-1) - rows_at(0)[1]) ** 2
    run(module, num_micro_batches=4, log=lambda metrics, step: seen.append((step, metrics)))
    assert [step for step, _ in seen] == list(range(STEPS))
    assert set(seen[0][1]) == {f"test/{key}" for key in ("loss", "lr", "grad_norm", "nonfinite", "error", "error_max")}
    assert seen[0][1]["test/loss"] == pytest.approx(first.mean().item())
    assert seen[0][1]["test/error"] == pytest.approx(first.mean().item())
    assert seen[0][1]["test/error_max"] == pytest.approx(first.max().item())
    assert seen[-1][1]["test/loss"] < seen[0][1]["test/loss"]


def test_the_cut_into_micro_batches_changes_nothing() -> None:
    whole, parts = make_module(), make_module()
    run(whole, num_micro_batches=1)
    run(parts, num_micro_batches=4)
    for left, right in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


def test_first_update_is_adamw_by_hand() -> None:
    """After one step with m̂ = g and v̂ = g²: w − lr·(decay·w + g/(|g| + eps)); biases do not decay."""
    module = make_module()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    ((module(rows_at(0)[0]).squeeze(-1) - rows_at(0)[1]) ** 2).mean().backward()
    gradients = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]
    module.zero_grad()
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
    settings = OptimizerSettings(lr=0.01, schedule="constant", weight_decay=0.1, eps=1e-3, max_grad_norm=0.5)
    fit(
        {"model": module}, steps=1, optimizer=settings, seed=0, name="test",
        batch_at=lambda step: StepBatch([rows_at(step)], 8.0),
        loss=lambda rows: (((module(rows[0]).squeeze(-1) - rows[1]) ** 2).sum(), {}),
    )  # fmt: skip
    for old, gradient, new in zip(before, gradients, module.parameters(), strict=True):
        clipped = gradient * min(1.0, 0.5 / norm)
        decay = 0.1 * old if old.dim() == 2 else 0.0
        torch.testing.assert_close(new.detach(), old - 0.01 * (decay + clipped / (clipped.abs() + 1e-3)))


def test_schedules() -> None:
    def factors(schedule: str, **more: float) -> list[float]:
        settings = OptimizerSettings(lr=1.0, warmup_steps=2, schedule=schedule, **more)  # type: ignore[arg-type]
        return [lr_factor(step, 6, settings) for step in range(6)]

    assert factors("constant") == [0.5, 1, 1, 1, 1, 1]
    assert factors("linear") == pytest.approx([0.5, 1, 1, 2 / 3, 1 / 3, 0])
    assert factors("linear", final_lr_fraction=0.2) == pytest.approx([0.5, 1, 1, 0.2 + 1.6 / 3, 0.2 + 0.8 / 3, 0.2])
    assert factors("cosine") == pytest.approx([0.5, 1, 1, 0.75, 0.25, 0])


def test_each_module_has_its_own_lr_and_gradient_limit() -> None:
    """With Adam's first step every weight moves by its module's lr, however large the other module's gradient."""
    first, second = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    before = [first.weight.detach().clone(), second.weight.detach().clone()]
    seen: list[dict[str, float]] = []
    fit(
        {"policy": first, "value": second}, steps=1, seed=0, name="test",
        optimizer=OptimizerSettings(lr={"policy": 0.01, "value": 0.03}, schedule="constant"),
        batch_at=lambda step: StepBatch([torch.ones(1, 2)], 1.0),
        loss=lambda inputs: ((first(inputs) + 1e4 * second(inputs)).sum(), {}),
        log=lambda metrics, step: seen.append(metrics),
    )  # fmt: skip
    torch.testing.assert_close(first.weight.detach(), before[0] - 0.01, atol=1e-6, rtol=0)
    torch.testing.assert_close(second.weight.detach(), before[1] - 0.03, atol=1e-6, rtol=0)
    assert (seen[0]["test/lr"], seen[0]["test/lr_value"]) == (0.01, 0.03)
    assert seen[0]["test/grad_norm"] == pytest.approx(math.sqrt(2))
    assert seen[0]["test/grad_norm_value"] == pytest.approx(1e4 * math.sqrt(2))


def test_frozen_parameters_stay() -> None:
    module = make_module()
    module[0].requires_grad_(False)
    frozen, trained = module[0].weight.clone(), module[2].weight.clone()
    run(module)
    assert torch.equal(module[0].weight, frozen) and not torch.equal(module[2].weight, trained)


@pytest.mark.parametrize("kill_at", range(STEPS))
def test_a_run_killed_in_any_step_ends_in_the_same_bytes(kill_at: int, tmp_path: Path, unbroken: list[bytes]) -> None:
    def kill(step: int) -> float:
        if step == kill_at:
            raise Killed
        return 1.0

    with pytest.raises(Killed):
        run(make_module(), Checkpoints(tmp_path, every=3), spoil=kill)
    module = make_module()
    result = run(module, Checkpoints(tmp_path, every=3))
    assert result.resumed_from == kill_at // 3 * 3
    assert weights(module) == unbroken


@pytest.mark.parametrize("place", ["rlhf.checkpoints.save_file", "rlhf.checkpoints.fingerprint", "pathlib.Path.rename"])
def test_a_run_killed_while_saving_ends_in_the_same_bytes(
    place: str, tmp_path: Path, unbroken: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 3 is saved; then the disk fails before the tensors, between tensors and manifest, or before the rename."""

    def die(*_: object) -> None:
        raise Killed

    def arm(step: int) -> float:
        if step == 4:
            monkeypatch.setattr(place, die)
        return 1.0

    with pytest.raises(Killed):
        run(make_module(), Checkpoints(tmp_path, every=3), spoil=arm)
    monkeypatch.undo()
    module = make_module()
    assert run(module, Checkpoints(tmp_path, every=3)).resumed_from == 3
    assert weights(module) == unbroken


@pytest.mark.faults(4, injected="a training that is complete, begun again", happens="no step is trained")
def test_a_finished_run_is_not_run_again(tmp_path: Path, unbroken: list[bytes]) -> None:
    run(make_module(), Checkpoints(tmp_path, every=5))
    module = make_module()
    assert run(module, Checkpoints(tmp_path, every=5)).resumed_from == STEPS
    assert weights(module) == unbroken


def test_extra_state_comes_back(tmp_path: Path) -> None:
    """A coefficient that the caller adapts each step goes on from where the checkpoint was."""

    def kill_or_adapt(extra: dict[str, float], kill_at: int | None) -> Callable[[int], float]:
        def spoil(step: int) -> float:
            if step == kill_at:
                raise Killed
            extra["coef"] = extra["coef"] * 1.5 + step
            return 1.0

        return spoil

    straight = {"coef": 1.0}
    run(make_module(), spoil=kill_or_adapt(straight, None), extra=straight)
    broken = {"coef": 1.0}
    with pytest.raises(Killed):
        run(make_module(), Checkpoints(tmp_path, every=4), spoil=kill_or_adapt(broken, 7), extra=broken)
    again = {"coef": 1.0}
    run(make_module(), Checkpoints(tmp_path, every=4), spoil=kill_or_adapt(again, None), extra=again)
    assert again == straight


class Falling:
    """Ends the training before the first step whose loss was known to be under 1.5, which `extra` remembers."""

    def __init__(self, module: nn.Module, kill_at: int | None = None) -> None:
        self.module, self.kill_at = module, kill_at
        self.extra: dict[str, list[float]] = {"looks": []}

    def run(self, checkpoints: Checkpoints | None) -> FitResult:
        def batch_at(step: int) -> StepBatch[tuple[Tensor, Tensor]] | None:
            if step == self.kill_at:
                raise Killed
            if step % 2 == 0:
                inputs, targets = rows_at(99)
                with torch.no_grad():
                    self.extra["looks"].append(((self.module(inputs).squeeze(-1) - targets) ** 2).mean().item())
            if len(self.extra["looks"]) > 1 and self.extra["looks"][-1] < 0.6 * self.extra["looks"][0]:
                return None
            return StepBatch([rows_at(step)], 8.0)

        return fit(
            {"model": self.module}, steps=STEPS, batch_at=batch_at, optimizer=SETTINGS, seed=0, name="test",
            loss=lambda rows: (((self.module(rows[0]).squeeze(-1) - rows[1]) ** 2).sum(), {}),
            checkpoints=checkpoints, extra=self.extra,
        )  # fmt: skip


def test_training_ends_where_there_is_no_more_work_and_there_again_after_a_kill(tmp_path: Path) -> None:
    straight = Falling(make_module())
    end = straight.run(None).steps
    assert 2 < end < STEPS
    for kill_at in range(end + 1):
        folder = tmp_path / str(kill_at)
        with pytest.raises(Killed):
            Falling(make_module(), kill_at).run(Checkpoints(folder, every=3))
        again = Falling(make_module())
        assert again.run(Checkpoints(folder, every=3)).steps == end
        assert weights(again.module) == weights(straight.module)
        assert again.extra == straight.extra
        assert Falling(make_module()).run(Checkpoints(folder, every=3)).steps == end  # done already, and called again


def test_a_step_with_no_micro_batches_leaves_weights_and_moments_alone() -> None:
    """Steps 3 and 4 have no work: not even the momentum of step 2 moves the weights."""
    module = make_module()
    snapshots: list[list[bytes]] = []

    def batch_at(step: int) -> StepBatch[tuple[Tensor, Tensor]]:
        snapshots.append(weights(module))
        return StepBatch([] if step in (3, 4) else [rows_at(step)], 8.0, {"dropped": 1.0})

    seen: list[dict[str, float]] = []
    result = fit(
        {"model": module}, steps=7, batch_at=batch_at, optimizer=SETTINGS, seed=0, name="test",
        loss=lambda rows: (((module(rows[0]).squeeze(-1) - rows[1]) ** 2).sum(), {}),
        log=lambda metrics, step: seen.append(metrics),
    )  # fmt: skip
    assert snapshots[3] == snapshots[4] == snapshots[5] != snapshots[2]
    assert snapshots[6] != snapshots[5]
    assert result.nonfinite == 0
    assert (seen[3]["test/loss"], seen[3]["test/dropped"]) == (0.0, 1.0)


def test_one_nonfinite_step_is_skipped_and_counted() -> None:
    module, seen = make_module(), []
    snapshots: dict[int, list[bytes]] = {}

    def spoil(step: int) -> float:
        snapshots[step] = weights(module)
        return math.nan if step == 5 else 1.0

    result = run(module, spoil=spoil, log=lambda metrics, step: seen.append(metrics["test/nonfinite"]))
    assert result.nonfinite == 1
    assert snapshots[6] == snapshots[5] != snapshots[4]
    assert seen == [0.0] * 5 + [1.0] * 7
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


@pytest.mark.faults(21, injected="an infinite gradient of a finite loss", happens="the update is skipped")
def test_an_infinite_gradient_of_a_finite_loss_is_skipped_too() -> None:
    module = make_module()
    before = weights(module)
    fit(
        {"model": module}, steps=1, seed=0, name="test", optimizer=SETTINGS,
        batch_at=lambda step: StepBatch([0], 1.0), loss=lambda _: (module[0].bias.mul(0).abs().sqrt().sum(), {}),
    )  # fmt: skip
    assert weights(module) == before


@pytest.mark.faults(
    21,
    injected="an infinite loss in steps 5, 6 and 9",
    happens="stops with code 86, the checkpoint of step 8 is intact",
)
def test_repeated_nonfinite_steps_stop_training_and_leave_the_last_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every=4)
    with pytest.raises(NumericsError, match=r"3 of the last 20 steps .*steps \[5, 6, 9\]") as caught:
        run(make_module(), checkpoints, spoil=lambda step: math.inf if step in (5, 6, 9, 10) else 1.0)
    assert caught.value.exit_code == 86
    saved = checkpoints.newest()
    assert saved is not None and saved.step == 8
    assert saved.state["skipped"] == [5, 6]


def test_a_step_without_items_is_refused() -> None:
    with pytest.raises(ValueError, match=r"denominator is 0\.0"):
        fit(
            {"model": make_module()}, steps=1, seed=0, name="test", optimizer=SETTINGS,
            batch_at=lambda step: StepBatch([], 0.0), loss=lambda _: (torch.zeros(()), {}),
        )  # fmt: skip


def test_dropout_of_a_step_is_the_same_after_resuming(tmp_path: Path) -> None:
    def dropping() -> nn.Module:
        return nn.Sequential(make_module(), nn.Dropout(0.5)).train()

    straight = dropping()
    run(straight)

    def kill(step: int) -> float:
        if step == 8:
            raise Killed
        return 1.0

    with pytest.raises(Killed):
        run(dropping(), Checkpoints(tmp_path, every=3), spoil=kill)
    torch.rand(17)
    again = dropping()
    run(again, Checkpoints(tmp_path, every=3))
    assert weights(again) == weights(straight)


@pytest.mark.parametrize("num_micro_batches", [1, 4])
def test_micro_batches_at_once_leave_the_bytes_of_one_after_the_other(
    num_micro_batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(ACCOUNT, "seconds_in_two", 0.0)
    found = []
    for at_once in (False, True):
        module, logged = make_module(), list[dict[str, float]]()
        run(
            module, num_micro_batches=num_micro_batches, log=lambda metrics, _, logged=logged: logged.append(metrics),
            at_once=list(module.parameters()) if at_once else (),
        )  # fmt: skip
        found.append((weights(module), logged))
    assert found[0] == found[1]
    assert (ACCOUNT.seconds_in_two > 0) == (num_micro_batches > 1)
