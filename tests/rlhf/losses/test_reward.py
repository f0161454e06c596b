import math

import pytest
import torch

from rlhf.losses.reward import bradley_terry


def test_numbers_by_hand() -> None:
    losses, metrics = bradley_terry(torch.tensor([math.log(3.0), 0.0]), torch.tensor([0.0, math.log(3.0)]))
    assert losses.tolist() == pytest.approx([-math.log(3 / 4), -math.log(1 / 4)])
    assert metrics["accuracy"].tolist() == [1.0, 0.0]


def test_equals_softplus_form_and_ignores_a_common_shift() -> None:
    chosen, rejected = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    losses, _ = bradley_terry(chosen, rejected)
    torch.testing.assert_close(losses, torch.log1p((rejected - chosen).exp()))
    torch.testing.assert_close(bradley_terry(chosen + 3, rejected + 3)[0], losses)


def test_stays_finite_far_out() -> None:
    losses, _ = bradley_terry(torch.tensor([-500.0]), torch.tensor([500.0]))
    assert losses.item() == pytest.approx(1000.0)


def test_margin_asks_for_a_gap_of_its_size() -> None:
    losses, _ = bradley_terry(torch.tensor([2.0]), torch.tensor([0.5]), margin=torch.tensor([1.5]))
    assert losses.item() == pytest.approx(math.log(2))


def test_centring_pulls_the_mean_to_zero_without_moving_the_gap() -> None:
    chosen, rejected = torch.tensor([3.0], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    plain, centred = bradley_terry(chosen, rejected)[0], bradley_terry(chosen, rejected, centring=0.5)[0]
    assert (centred - plain).item() == pytest.approx(0.5 * 16)
    gradients = torch.autograd.grad((centred - plain).sum(), [chosen, rejected])
    assert gradients[0].item() == gradients[1].item() == pytest.approx(4.0)


def test_ties_count_half() -> None:
    _, metrics = bradley_terry(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
    assert metrics["accuracy"].tolist() == [0.5, 1.0]
