import math

import pytest
import torch

from rlhf.losses.policy_gradient import (
    clipped_surrogate,
    clipped_value_loss,
    clipped_weight,
    reinforce,
    sequence_surrogate,
    truncated_importance,
)

ALL = torch.ones(1, 1, dtype=torch.bool)


def test_at_ratio_1_the_clipped_surrogate_has_the_gradient_of_reinforce() -> None:
    generator = torch.Generator().manual_seed(0)
    logprobs = torch.randn(3, 4, generator=generator, requires_grad=True)
    advantages = torch.randn(3, 4, generator=generator)
    mask = torch.ones(3, 4, dtype=torch.bool)
    plain, _ = reinforce(logprobs, advantages, mask)
    torch.testing.assert_close(torch.autograd.grad(plain.sum(), logprobs)[0], -advantages)
    for surrogate in (clipped_surrogate, clipped_weight):
        clipped, metrics = surrogate(logprobs, logprobs.detach(), advantages, mask, 0.2, 0.2)
        torch.testing.assert_close(torch.autograd.grad(clipped.sum(), logprobs)[0], -advantages)
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


NAMES = ["ratio", "ratio_max", "clip_fraction", "clip_fraction_high", "clip_fraction_low", "approx_kl"]


@pytest.mark.parametrize("surrogate", [clipped_surrogate, sequence_surrogate, clipped_weight])
def test_ratios_beyond_what_exp_can_hold_are_finite_and_the_metrics_have_one_vocabulary(surrogate) -> None:  # type: ignore[no-untyped-def]
    logprobs = torch.tensor([[-1.0], [-900.0]], requires_grad=True)
    both, mask = torch.tensor([[-900.0], [-1.0]]), torch.ones(2, 1, dtype=torch.bool)
    losses, metrics = surrogate(logprobs, both, torch.tensor([[-1.0], [1.0]]), mask, 0.2, 0.2)
    assert losses.isfinite().all() and torch.autograd.grad(losses.sum(), logprobs)[0].isfinite().all()
    assert list(metrics) == NAMES
    assert all(values.dim() == 1 and values.isfinite().all() for values in metrics.values())


def test_one_ratio_a_sequence_is_the_geometric_mean_of_its_tokens() -> None:
    """Token ratios 4 and 1: 2 for the sequence; the padding beside the second is no token of it."""
    logprobs = torch.tensor([[math.log(4.0), 0.0], [math.log(0.5), 7.0]], requires_grad=True)
    mask = torch.tensor([[True, True], [True, False]])
    advantages = torch.tensor([[3.0, 3.0], [1.0, 1.0]])
    losses, metrics = sequence_surrogate(logprobs, torch.zeros(2, 2), advantages, mask, 0.9, 1.5)
    assert losses[0].tolist() == pytest.approx([-6.0, -6.0]) and losses[1, 0].item() == pytest.approx(-0.5)
    assert metrics["ratio"].tolist() == pytest.approx([2.0, 0.5]) and metrics["clip_fraction"].tolist() == [0.0, 0.0]
    assert metrics["approx_kl"].shape == (3,)  # over tokens, ratios over sequences
    means = losses[0].mean() + losses[1, 0]
    gradient = torch.autograd.grad(means, logprobs)[0]
    torch.testing.assert_close(gradient, torch.tensor([[-3.0, -3.0], [-0.5, 0.0]]))  # −A s / |a| on each token


def test_a_sequence_is_clipped_as_a_whole() -> None:
    """Ratios 4 and 1/2 a token: √2 for the sequence, above 1.2, so that even the falling token is left alone."""
    logprobs = torch.tensor([[math.log(4.0), math.log(0.5)]], requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    for advantage, clipped in ((1.0, 1.0), (-1.0, 0.0)):
        losses, metrics = sequence_surrogate(logprobs, torch.zeros(1, 2), torch.full((1, 2), advantage), mask, 0.2, 0.2)
        gradient = torch.autograd.grad(losses.mean(), logprobs)[0]
        assert metrics["clip_fraction"].tolist() == [clipped]
        assert gradient.tolist() == [pytest.approx([(1 - clipped) * 2**0.5 / 2] * 2)]


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight"),
    [(3.0, 2.0, 1.5), (3.0, -2.0, 1.5), (0.25, 2.0, 0.5), (0.25, -2.0, 0.5), (1.2, 2.0, 1.2)],
)
def test_a_cut_weight_never_drops_a_token(ratio: float, advantage: float, weight: float) -> None:
    logprobs = torch.tensor([[math.log(ratio) - 1.0]], requires_grad=True)
    losses, metrics = clipped_weight(logprobs, torch.full((1, 1), -1.0), torch.tensor([[advantage]]), ALL, 0.5, 0.5)
    assert losses.item() == pytest.approx(-weight * advantage * (math.log(ratio) - 1.0))
    assert torch.autograd.grad(losses.sum(), logprobs)[0].item() == pytest.approx(-weight * advantage)
    assert metrics["clip_fraction_high"].item() == float(ratio > 1.5)
    assert metrics["clip_fraction_low"].item() == float(ratio < 0.5)


def test_importance_weights_are_cut_above_and_nowhere_else() -> None:
    """Learner over sampler: 3, 1/3, e^12 held at e^10; padding has none."""
    learner = torch.tensor([[math.log(3.0), -math.log(3.0), 12.0, torch.inf]], requires_grad=True)
    mask = torch.tensor([[True, True, True, False]])
    weights, metrics = truncated_importance(learner, torch.zeros(1, 4), mask, 2.0)
    assert weights[0].tolist() == pytest.approx([2.0, 1 / 3, 2.0, 0.0]) and not weights.requires_grad
    assert metrics["importance"].tolist() == pytest.approx([2.0, 1 / 3, 2.0])
    assert metrics["importance_truncated"].tolist() == [1.0, 0.0, 1.0]
    loose, _ = truncated_importance(learner, torch.zeros(1, 4), mask, 1e9)
    assert loose[0].tolist() == pytest.approx([3.0, 1 / 3, math.exp(10.0), 0.0])
    equal, _ = truncated_importance(learner, learner, mask, 2.0)
    assert equal.tolist() == [[1.0, 1.0, 1.0, 0.0]]


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
