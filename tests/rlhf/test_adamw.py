"""Moments whose memory is taken beforehand and embeddings' gradients as rows: the numbers are torch's own AdamW's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhf.adamw import AdamW, large_embeddings
from rlhf.checkpoints import Checkpoints
from rlhf.optimizer import OptimizerSettings, adamw, clip
from rlhf.seeding import generator
from rlhf.trainer import StepBatch, fit

STEPS, WORDS, WIDTH = 5, 40, 3
READ = [[3, 3, 7], [0, 39, 3], [5], [7, 7], [1, 2, 3]]
SETTINGS = OptimizerSettings(lr=0.05, weight_decay=0.1, max_grad_norm=0.5)


class Model(nn.Module):
    """A table of words, a matrix, and one that is never read."""

    def __init__(self, padding_idx: int | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, WIDTH, padding_idx=padding_idx)
        self.matrix, self.unread = nn.Linear(WIDTH, 2), nn.Linear(4, 4)
        with torch.no_grad():
            for number, weight in enumerate(self.parameters()):
                weight.copy_(torch.randn(weight.shape, generator=generator(0, "init", number)))

    def loss_of(self, ids: list[int]) -> Tensor:
        return self.matrix(self.table(torch.tensor(ids))).square().sum()


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every embedding is a large one."""
    monkeypatch.setattr("rlhf.adamw.LARGE", 1)


def trained(model: Model, checkpoints: Checkpoints | None = None, kill_at: int | None = None, **more: Any) -> Model:
    def batch_at(step: int) -> StepBatch[list[int]]:
        if step == kill_at:
            raise KeyboardInterrupt
        return StepBatch([READ[step], READ[step - 1]], denominator=4.0)

    fit(
        {"model": model}, steps=STEPS, batch_at=batch_at, loss=lambda ids: (model.loss_of(ids), {}),
        optimizer=SETTINGS, seed=0, name="test", checkpoints=checkpoints, **more,
    )  # fmt: skip
    return model


def by_torch(model: Model) -> Model:
    """The same by torch's AdamW over gradients that are whole matrices."""
    matrices, others = [one for one in model.parameters() if one.dim() > 1], [model.matrix.bias, model.unread.bias]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=0.05, eps=1e-5
    )
    for step in range(STEPS):
        for ids in (READ[step], READ[step - 1]):
            (model.loss_of(ids) / 4.0).backward()
        torch.nn.utils.clip_grad_norm_([one for one in model.parameters() if one.grad is not None], 0.5)
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / (STEPS - 1))
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("padding_idx", [None, 3])
def test_rows_are_trained_as_whole_matrices_are(padding_idx: int | None) -> None:
    """Words that no step has read before move too, by what decays; the padding's row gets no gradient."""
    model, expected = trained(Model(padding_idx)), by_torch(Model(padding_idx))
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert not model.table.sparse


@pytest.mark.usefixtures("rows")
def test_a_killed_run_ends_in_the_same_bytes(tmp_path: Path) -> None:
    unbroken = trained(Model(), Checkpoints(tmp_path / "unbroken", every=2))
    with pytest.raises(KeyboardInterrupt):
        trained(Model(), Checkpoints(tmp_path / "killed", every=2), kill_at=3)
    resumed = trained(Model(), Checkpoints(tmp_path / "killed", every=2))
    assert all(torch.equal(one, other) for one, other in zip(resumed.parameters(), unbroken.parameters(), strict=True))


@pytest.mark.usefixtures("rows")
def test_the_length_of_a_gradient_counts_its_rows_and_limits_them() -> None:
    """Of 40 words one is read twice, its row is (2·3, 2·4): 10 long, then 5."""
    holder = nn.Sequential(nn.Embedding(WORDS, 2, sparse=True))
    (holder(torch.tensor([3, 3])) * torch.tensor([3.0, 4.0])).sum().backward()
    holder[0].weight.grad = holder[0].weight.grad.coalesce()  # type: ignore[operator, union-attr]
    assert clip(holder, 5.0) == pytest.approx(10.0)
    gradient = holder[0].weight.grad.to_dense()  # type: ignore[operator, union-attr]
    torch.testing.assert_close(gradient[3], torch.tensor([3.0, 4.0]))
    assert int(gradient.count_nonzero()) == 2


@pytest.mark.usefixtures("rows")
def test_tables_that_a_head_shares_or_that_stay_as_they_are_have_whole_gradients() -> None:
    model = Model()
    assert large_embeddings({"model": model}) == [model.table]
    assert large_embeddings({"model": model.requires_grad_(False)}) == []
    tied = Model()
    tied.add_module("head", nn.Linear(WIDTH, WORDS))
    tied.head.weight = tied.table.weight  # type: ignore[assignment]
    assert large_embeddings({"model": tied}) == []


def test_small_tables_have_whole_gradients() -> None:
    assert large_embeddings({"model": Model()}) == []


def test_moments_are_those_of_weights_that_have_a_gradient() -> None:
    model = Model()
    optimizer = adamw({"model": model}, SETTINGS)
    assert isinstance(optimizer, AdamW)
    assert {one.shape for both in optimizer.reserved.values() for one in both} == {
        one.shape for one in model.parameters()
    }
    model.loss_of([1]).backward()
    optimizer.step()
    assert set(optimizer.state) == {model.table.weight, *model.matrix.parameters()}
    assert not optimizer.reserved  # the unread matrix holds no memory from now on
