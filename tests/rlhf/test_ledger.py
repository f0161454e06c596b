"""What is counted of tensors with and without data: by hand on a matrix, and alike on a model in training."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from rlhf import ledger as ledgers
from rlhf.errors import PreflowError
from rlhf.ledger import Ledger, Weightless
from rlhf.models import token_logprobs
from rlhf.models.fused import fuse_norms
from rlhf.optimizer import OptimizerSettings
from rlhf.sizes import Sizes
from rlhf.trainer import StepBatch, fit
from tests.rlhf.test_footprint import EVEN, RAGGED, batch_of, model_of

SIZES = Sizes(900, 64, 3, 4, 2, 16, 256, tied=False)


def trained(ledger: Ledger, model: nn.Module, lengths: tuple[int, ...] = EVEN) -> Ledger:
    batch = batch_of(SIZES, lengths, 0)

    def loss(_: Any) -> Any:
        return -token_logprobs(model, batch).sum(), {}

    ledger.claim_model("weights", model)
    with ledger:
        fit(
            {"policy": model},
            steps=1,
            batch_at=lambda _: StepBatch([batch], 1.0),
            loss=loss,
            optimizer=OptimizerSettings(lr=1e-3),
            seed=0,
            name="test",
        )
    return ledger


@pytest.mark.parametrize("kind", [Ledger, Weightless])
def test_a_matrix_by_hand(kind: type[Ledger]) -> None:
    """W [8, 4] and x [16, 8] of float32: x @ W is 256 bytes, its square too; a gradient is as W, moments are twice."""
    ledger = kind()
    if isinstance(ledger, Weightless):
        with ledger.making():
            weight = nn.Parameter(torch.zeros(8, 4))
    else:
        weight = nn.Parameter(torch.zeros(8, 4))
    values = torch.ones(16, 8)
    holder = nn.ParameterList([weight])
    ledger.claim_model("weights", holder)
    ledger.claim("others", [values])
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9)
    with ledger:
        product = values @ weight
        squared = product * product
        assert (ledger.now["weights"], ledger.now["rest"]) == (128, 2 * 256)
        squared.sum().backward()
        assert ledger.now["gradients"] == 128
        del product, squared
        assert ledger.now["rest"] == 0
        optimizer.step()
    assert ledger.now["moments"] == 128  # SGD has one
    assert ledger.peak["weights"] == 128 and ledger.peak["moments"] == 128


@pytest.mark.parametrize("lengths", [EVEN, RAGGED])
def test_weights_gradients_and_moments_of_a_model_are_theirs_exactly(lengths: tuple[int, ...]) -> None:
    found = trained(Ledger(), model_of(SIZES), lengths)
    weights = 4 * SIZES.parameters
    buffers = 2 * 4 * SIZES.head_size // 2  # of rotary positions, twice
    assert found.most["weights"] == weights + buffers
    assert found.most["gradients"] == weights
    steps = 4 * sum(1 for _ in model_of(SIZES).parameters())  # AdamW counts its steps, tensor by tensor
    assert found.most["moments"] == 2 * weights + steps


@pytest.mark.parametrize("lengths", [EVEN, RAGGED])
def test_without_data_the_same_is_kept(lengths: tuple[int, ...]) -> None:
    real = trained(Ledger(), model_of(SIZES), lengths)
    fake, config = Weightless(), model_of(SIZES).config
    with fake.making():
        model: Any = LlamaForCausalLM(config).eval()
    with fake:
        fuse_norms(model)
    trained(fake, model, lengths)
    for kind in ("weights", "gradients", "rest"):
        assert fake.most[kind] == real.most[kind], kind
    assert fake.peak["rest"] == real.peak["rest"]


def test_nothing_of_a_model_without_data_is_in_memory() -> None:
    fake = Weightless()
    with fake.making():
        huge = nn.Linear(2**20, 2**20)
    fake.claim_model("weights", huge)
    assert fake.now["weights"] == 4 * (2**40 + 2**20)


def test_a_torch_without_fake_tensors_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._subclasses import fake_tensor

    monkeypatch.delattr(fake_tensor, "FakeTensorMode")
    with pytest.raises(PreflowError, match="plan without --exact"):
        ledgers.Weightless()
