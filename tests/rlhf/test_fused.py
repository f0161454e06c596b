"""RMS norms against the formula in float64, and in the models that have them."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rlhf.chat import Chat
from rlhf.models import adapt_policy, new_policy
from rlhf.models.fused import fuse_norms, rms_norm
from tests.rlhf.tiny_models import ARCHITECTURES

EPS = 1e-2


def exact(values: Tensor, weight: Tensor) -> Tensor:
    return weight * values / (values.pow(2).mean(-1, keepdim=True) + EPS).sqrt()


def test_by_hand() -> None:
    found = rms_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([1.0, 2.0]), 0.5)
    scale = (12.5 + 0.5) ** -0.5
    torch.testing.assert_close(found, torch.tensor([[3 * scale, 8 * scale], [0.0, 0.0]]))


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7)])
def test_values_and_gradients_are_those_of_the_formula(shape: tuple[int, ...]) -> None:
    made = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=made, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, generator=made, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(shape, generator=made, dtype=torch.float64)
    wanted, found = exact(values, weight), rms_norm(values, weight, EPS)
    torch.testing.assert_close(found, wanted)
    for one, other in zip(
        torch.autograd.grad((found * upstream).sum(), (values, weight)),
        torch.autograd.grad((wanted * upstream).sum(), (values, weight)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def norms_of(model: nn.Module) -> list[nn.Module]:
    return [part for part in model.modules() if type(part).__name__.endswith("RMSNorm")]


def is_fused(norm: nn.Module) -> bool:
    return type(norm).__module__ == "rlhf.models.fused"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_only_norms_of_this_formula_are_replaced(name: str, checkpoint: Callable[[str], Path]) -> None:
    norms = norms_of(adapt_policy(checkpoint(name), 0).model)
    if name in ("gpt2", "gpt_neox"):
        assert norms == []
    else:
        assert {is_fused(norm) for norm in norms} == {name != "gemma3_text"}  # Gemma's is 1 + w


def test_other_precisions_and_copies_stay_what_they_are() -> None:
    model = new_policy(Chat.from_words("abcdefgh"), 0, hidden_size=32).model
    norm = norms_of(model)[0]
    assert is_fused(norm)
    half = copy.deepcopy(norm).to(torch.bfloat16)
    values = torch.randn(3, 32)
    with torch.no_grad():
        norm.weight.mul_(2)
        assert torch.equal(half(values.bfloat16()), type(half).__base__.forward(half, values.bfloat16()))  # type: ignore[union-attr]
        torch.testing.assert_close(norm(values), 2 * half.float()(values))  # the copy has its own weight


def test_a_norm_of_another_formula_is_left_alone() -> None:
    class CubedRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(4)), 1e-6

        def forward(self, values: Tensor) -> Tensor:
            return values**3

    class HiddenEpsRMSNorm(nn.RMSNorm):
        def __init__(self) -> None:
            super().__init__(4, eps=1e-5)
            self.norm_eps, self.eps = self.eps, 0.0

        def forward(self, values: Tensor) -> Tensor:
            return nn.functional.rms_norm(values, (4,), self.weight, self.norm_eps)

    class GatedRMSNorm(nn.RMSNorm):
        def forward(self, values: Tensor, gate: Tensor | None = None) -> Tensor:
            return super().forward(values) * (1 if gate is None else gate)

    others = [CubedRMSNorm(), HiddenEpsRMSNorm(), GatedRMSNorm(4, eps=1e-6), nn.RMSNorm(4)]
    holder = nn.Sequential(*others, nn.RMSNorm(4, eps=1e-6))
    fuse_norms(holder)
    assert [is_fused(norm) for norm in holder] == [False] * len(others) + [True]
