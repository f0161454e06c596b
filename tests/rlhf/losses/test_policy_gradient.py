import math

import pytest
import torch

from rlhf.losses.policy_gradient import clipped_surrogate, clipped_value_loss, reinforce

ALL = torch.ones(1, 1, dtype=torch.bool)


def test_at_ratio_1_the_clipped_surrogate_has_the_gradient_of_reinforce() -> None:
    generator = torch.Generator().manual_seed(0)
    logprobs = torch.randn(3, 4, generator=generator, requires_grad=True)
    advantages = torch.randn(3, 4, generator=generator)
    mask = torch.ones(3, 4, dtype=torch.bool)
    plain, _ = reinforce(logprobs, advantages)
    clipped, metrics = clipped_surrogate(logprobs, logprobs.detach(), advantages, mask, 0.2, 0.2)
    first = torch.autograd.grad(plain.sum(), logprobs)[0]
    second = torch.autograd.grad(clipped.sum(), logprobs)[0]
    torch.testing.assert_close(first, -advantages)
    torch.testing.assert_close(second, first)
    assert metrics["clip_fraction"].sum() == 0 and metrics["approx_kl"].sum() == 0


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.5, 2.0, -1.3 * 2.0, 0.0),  # good and already likelier than 1 + 0.3: no more pull
        (1.5, -2.0, 1.5 * 2.0, 1.5 * 2.0),  # bad and likelier: full push back
        (0.5, 2.0, -0.5 * 2.0, -0.5 * 2.0),  # good and less likely: full pull
        (0.5, -2.0, 0.9 * 2.0, 0.0),  # bad and already below 1 − 0.1: no more push
        (1.2, 2.0, -1.2 * 2.0, -1.2 * 2.0),  # inside the asymmetric bounds
        (0.95, -2.0, 0.95 * 2.0, 0.95 * 2.0),
    ],
)
def test_the_four_clipping_cases_with_two_bounds(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    logprobs = torch.tensor([[math.log(ratio)]], requires_grad=True)
    losses, metrics = clipped_surrogate(logprobs, torch.zeros(1, 1), torch.tensor([[advantage]]), ALL, 0.1, 0.3)
    assert losses.item() == pytest.approx(loss)
    assert torch.autograd.grad(losses.sum(), logprobs)[0].item() == pytest.approx(gradient)
    assert metrics["clip_fraction"].item() == float(gradient == 0.0)
    assert metrics["ratio_max"].item() == pytest.approx(ratio)
    assert metrics["approx_kl"].item() == pytest.approx(math.log(ratio) ** 2 / 2)


def test_metrics_leave_padding_out() -> None:
    logprobs = torch.tensor([[0.0, 5.0]])
    mask = torch.tensor([[True, False]])
    _, metrics = clipped_surrogate(logprobs, torch.zeros(1, 2), torch.ones(1, 2), mask, 0.2, 0.2)
    assert {name: values.tolist() for name, values in metrics.items()} == {
        "ratio": [1.0],
        "ratio_max": [1.0],
        "clip_fraction": [0.0],
        "clip_fraction_high": [0.0],
        "clip_fraction_low": [0.0],
        "approx_kl": [0.0],
    }


@pytest.mark.parametrize(
    ("value", "loss", "clipped"),
    [
        (1.1, 0.5 * 0.9**2, 0.0),  # within ±0.2 of the old value 1: plain error to the return 2
        (1.5, 0.5 * 0.8**2, 1.0),  # moved too far towards the return: judged as if at 1.2
        (0.5, 0.5 * 1.5**2, 0.0),  # moved away: the larger, true error counts
    ],
)
def test_value_loss_is_the_worse_of_two_errors(value: float, loss: float, clipped: float) -> None:
    values = torch.tensor([[value]], requires_grad=True)
    losses, metrics = clipped_value_loss(values, torch.ones(1, 1), torch.full((1, 1), 2.0), ALL, 0.2)
    assert losses.item() == pytest.approx(loss)
    assert metrics["value_clip_fraction"].item() == clipped
    assert (torch.autograd.grad(losses.sum(), values)[0].item() == 0.0) == bool(clipped)
