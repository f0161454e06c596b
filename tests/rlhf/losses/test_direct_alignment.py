import math

import pytest
import torch

from rlhf.losses.direct_alignment import dpo

ONES = torch.ones(1)


def test_at_the_reference_the_loss_is_log_2_and_accuracy_a_tie() -> None:
    losses, metrics = dpo(-3 * ONES, -5 * ONES, -3 * ONES, -5 * ONES, beta=0.1)
    assert losses.item() == pytest.approx(math.log(2))
    assert metrics["accuracy"].item() == 0.5 and metrics["margin"].item() == 0.0


def test_numbers_by_hand() -> None:
    """β = 0.5: rewards 0.5·(−1 − −3) = 1 and 0.5·(−4 − −4) = 0, so −log σ(1)."""
    losses, metrics = dpo(-1 * ONES, -4 * ONES, -3 * ONES, -4 * ONES, beta=0.5)
    assert losses.item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert metrics["chosen_reward"].item() == 1.0 and metrics["rejected_reward"].item() == 0.0
    assert metrics["displacement"].item() == 2.0 and metrics["accuracy"].item() == 1.0


def test_gradient_weight_is_the_probability_of_the_wrong_order() -> None:
    """∂L/∂log π(y_c) = −β σ(r̂_r − r̂_c), and the opposite for y_r."""
    chosen, rejected = torch.tensor([-2.0], requires_grad=True), torch.tensor([-1.0], requires_grad=True)
    losses, metrics = dpo(chosen, rejected, torch.tensor([-2.5]), torch.tensor([-3.0]), beta=0.3)
    gradients = torch.autograd.grad(losses.sum(), [chosen, rejected])
    weight = 0.3 * torch.sigmoid(metrics["rejected_reward"] - metrics["chosen_reward"]).item()
    assert gradients[0].item() == pytest.approx(-weight) and gradients[1].item() == pytest.approx(weight)


def test_label_smoothing_mixes_both_orders() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected, ref_chosen, ref_rejected = torch.randn(4, 5, generator=generator)
    forward, _ = dpo(chosen, rejected, ref_chosen, ref_rejected, beta=0.7)
    backward, _ = dpo(rejected, chosen, ref_rejected, ref_chosen, beta=0.7)
    smoothed, _ = dpo(chosen, rejected, ref_chosen, ref_rejected, beta=0.7, label_smoothing=0.2)
    torch.testing.assert_close(smoothed, 0.8 * forward + 0.2 * backward)


def test_smoothing_of_half_teaches_nothing_and_is_refused() -> None:
    with pytest.raises(ValueError, match=r"label_smoothing is 0\.5"):
        dpo(ONES, ONES, ONES, ONES, beta=0.1, label_smoothing=0.5)
