import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rlhf.losses.direct_alignment import cdpo, dpo, dpo_nll, dpo_norm, ipo, kto, kto_baseline, orpo, simpo
from rlhf.losses.direct_alignment.orpo import log_odds

ONES = torch.ones(1)
Losses = tuple[Tensor, dict[str, Tensor]]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def both_sides(losses: Callable[..., Losses]) -> Callable[..., Losses]:
    """A loss of single completions on pairs: chosen good, rejected bad."""

    def of_pairs(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *_: Tensor) -> Losses:
        good = torch.cat([torch.ones(len(chosen), dtype=torch.bool), torch.zeros(len(rejected), dtype=torch.bool)])
        return losses(torch.cat([chosen, rejected]), torch.cat([ref_chosen, ref_rejected]), good)

    return of_pairs


METHODS: dict[str, Callable[..., Losses]] = {
    "dpo": lambda c, r, rc, rr, lc, lr: dpo(c, r, rc, rr, beta=0.2),
    "cdpo": lambda c, r, rc, rr, lc, lr: cdpo(c, r, rc, rr, beta=0.2, label_smoothing=0.1),
    "ipo": lambda c, r, rc, rr, lc, lr: ipo(c, r, rc, rr, beta=0.2),
    "kto": both_sides(lambda p, ref, good: kto(p, ref, good, baseline=0.5, beta=0.2)),
    "orpo": lambda c, r, rc, rr, lc, lr: orpo(c, r, lc, lr, odds_coef=1.0),
    "simpo": lambda c, r, rc, rr, lc, lr: simpo(c, r, lc, lr, beta=2.0, gamma=1.0),
    "dpo_norm": lambda c, r, rc, rr, lc, lr: dpo_norm(c, r, rc, rr, lc, lr, beta=5.0),
    "dpo_nll": lambda c, r, rc, rr, lc, lr: dpo_nll(c, r, rc, rr, lc, beta=0.2, nll_coef=0.2),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@every_method
@pytest.mark.parametrize(("chosen", "rejected"), [(-1e3, -1.0), (-1.0, -1e3), (-1e3, -1e3), (0.0, 0.0), (0.0, -1e3)])
def test_log_ratios_of_a_thousand_nats_give_finite_losses_and_gradients(
    method: Callable[..., Losses], chosen: float, rejected: float
) -> None:
    sides = [torch.tensor([value], requires_grad=True) for value in (chosen, rejected)]
    losses, metrics = method(*sides, -ONES, -ONES, ONES, ONES)
    gradients = torch.autograd.grad(losses.sum(), sides)
    assert all(values.isfinite().all() for values in (losses, *gradients, *metrics.values()))


@every_method
def test_a_loss_is_one_value_an_item_and_metrics_carry_no_gradient(method: Callable[..., Losses]) -> None:
    """The items of a batch do not see each other, so a step may be cut anywhere."""
    generator = torch.Generator().manual_seed(0)
    values = [-5 * torch.rand(6, generator=generator) for _ in range(4)] + [torch.arange(1.0, 7.0), torch.full((6,), 3)]
    values[0].requires_grad_()
    whole, metrics = method(*values)
    parts = [method(*(value[start : start + 2] for value in values)) for start in (0, 2, 4)]
    torch.testing.assert_close(whole.sum(), torch.stack([losses.sum() for losses, _ in parts]).sum())
    assert whole.dim() == 1 and whole.requires_grad
    for name, figures in metrics.items():
        assert figures.dim() == 1 and not figures.requires_grad
        assert figures.sum().item() == pytest.approx(sum(part[name].sum().item() for _, part in parts), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("dpo", math.log(2)),
        ("cdpo", math.log(2)),
        ("dpo_norm", math.log(2)),
        ("dpo_nll", math.log(2) + 0.2 * 3),
        ("ipo", 1 / (2 * 0.2) ** 2),
    ],
)
def test_at_the_reference_accuracy_is_a_tie_and_nothing_is_displaced(name: str, loss: float) -> None:
    losses, metrics = METHODS[name](-3 * ONES, -5 * ONES, -3 * ONES, -5 * ONES, ONES, 4 * ONES)
    assert losses.item() == pytest.approx(loss)
    assert metrics["accuracy"].item() == 0.5
    assert metrics["margin"].item() == metrics["displacement"].item() == 0.0


def test_dpo_by_hand() -> None:
    """β = 0.5: rewards 0.5·(−1 − −3) = 1 and 0.5·(−4 − −4) = 0, so −log σ(1)."""
    losses, metrics = dpo(-1 * ONES, -4 * ONES, -3 * ONES, -4 * ONES, beta=0.5)
    assert losses.item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert metrics["chosen_reward"].item() == 1.0 and metrics["rejected_reward"].item() == 0.0
    assert metrics["displacement"].item() == 2.0 and metrics["accuracy"].item() == 1.0


def gradients_of(function: Callable[..., Losses], chosen: float, rejected: float, *rest: Tensor) -> tuple[float, float]:
    sides = [torch.tensor([value], requires_grad=True) for value in (chosen, rejected)]
    found = torch.autograd.grad(function(*sides, *rest)[0].sum(), sides)
    return found[0].item(), found[1].item()


def test_dpo_s_gradient_weight_is_the_probability_of_the_wrong_order() -> None:
    """r̂_c = 0.3·(−2 + 2.5) = 0.15, r̂_r = 0.3·(−1 + 3) = 0.6: each side is pushed by 0.3·σ(0.45)."""
    found = gradients_of(lambda c, r: dpo(c, r, torch.tensor([-2.5]), torch.tensor([-3.0]), beta=0.3), -2.0, -1.0)
    assert found == pytest.approx((-0.3 * sigmoid(0.45), 0.3 * sigmoid(0.45)))


def test_cdpo_mixes_both_orders_and_without_smoothing_is_dpo() -> None:
    """r̂_c − r̂_r = 0.5·2 = 1 and ε = 0.2: −0.8·log σ(1) − 0.2·log σ(−1)."""
    sides = (-1 * ONES, -4 * ONES, -3 * ONES, -4 * ONES)
    losses, metrics = cdpo(*sides, beta=0.5, label_smoothing=0.2)
    assert losses.item() == pytest.approx(-0.8 * math.log(sigmoid(1)) - 0.2 * math.log(sigmoid(-1)))
    assert metrics["accuracy"].item() == 1.0 and metrics["margin"].item() == 1.0
    assert cdpo(*sides, beta=0.5, label_smoothing=0.0)[0].item() == dpo(*sides, beta=0.5)[0].item()


def test_cdpo_rests_where_the_labels_are_as_often_wrong_as_it_says() -> None:
    """σ(βh) = 1 − ε, so h = log(0.9/0.1)/0.2 for ε = 0.1; DPO still pulls there."""
    h = math.log(9) / 0.2
    zero = torch.zeros(1)
    at_rest = gradients_of(lambda c, r: cdpo(c, r, zero, zero, beta=0.2, label_smoothing=0.1), h, 0.0)
    assert at_rest == pytest.approx((0.0, 0.0), abs=1e-6)
    assert gradients_of(lambda c, r: dpo(c, r, zero, zero, beta=0.2), h, 0.0)[0] == pytest.approx(-0.2 * 0.1)


@pytest.mark.parametrize("share", [0.5, -0.1])
def test_a_label_that_says_nothing_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"label_smoothing is {share}"):
        cdpo(ONES, ONES, ONES, ONES, beta=0.1, label_smoothing=share)


@pytest.mark.parametrize(("h", "loss", "gradient"), [(0.0, 4.0, -4.0), (2.0, 0.0, 0.0), (3.0, 1.0, 2.0)])
def test_ipo_asks_for_a_gap_and_pulls_back_what_is_beyond(h: float, loss: float, gradient: float) -> None:
    """β = 0.25 asks for h = 1/(2β) = 2: (h − 2)², with gradient 2(h − 2)."""
    ref = torch.tensor([-3.0])
    losses, metrics = ipo(torch.tensor([h - 3.0]), ref, ref, ref, beta=0.25)
    assert losses.item() == pytest.approx(loss)
    assert metrics["margin"].item() == pytest.approx(0.25 * h) and metrics["displacement"].item() == pytest.approx(h)
    found = gradients_of(lambda c, r: ipo(c, r, ref, ref, beta=0.25), h - 3.0, -3.0)
    assert found == pytest.approx((gradient, -gradient))


GOOD = torch.tensor([True, False])


def test_kto_by_hand() -> None:
    """z = 1, β = 0.5: the good one has h = 2, so 0.5·(2 − 1) = 0.5; the bad one h = −3, so 0.5·(1 + 3) = 2."""
    losses, metrics = kto(
        torch.tensor([-2.0, -5.0]), torch.tensor([-4.0, -2.0]), GOOD, 1.0, 0.5, desirable_weight=2, undesirable_weight=3
    )
    assert losses.tolist() == [pytest.approx(2 * (1 - sigmoid(0.5))), pytest.approx(3 * (1 - sigmoid(2.0)))]
    assert metrics["margin"].tolist() == [0.5, 2.0] and metrics["accuracy"].tolist() == [1.0, 1.0]
    assert metrics["chosen_reward"].tolist() == [1.0] and metrics["rejected_reward"].tolist() == [-1.5]
    assert metrics["displacement"].tolist() == [2.0]


def test_kto_pushes_most_at_the_baseline_and_not_at_all_far_away() -> None:
    """∂/∂log π = ∓λβσ(x)σ(−x), x the distance on the right side: β/4 at the baseline."""
    logprobs = torch.tensor([1.0, 1.0, 1e3, -1e3], requires_grad=True)
    good = torch.tensor([True, False, True, True])
    losses, metrics = kto(logprobs, torch.zeros(4), good, baseline=1.0, beta=0.5)
    gradient = torch.autograd.grad(losses.sum(), logprobs)[0]
    assert gradient.tolist() == [pytest.approx(-0.5 / 4), pytest.approx(0.5 / 4), 0.0, 0.0]
    assert metrics["accuracy"].tolist() == [0.5, 0.5, 1.0, 0.0]


def test_the_baseline_is_a_mean_that_is_never_negative() -> None:
    assert kto_baseline(torch.tensor([-1.0, -5.0]), torch.tensor([-4.0, -4.0])) == 1.0
    assert kto_baseline(torch.tensor([-4.0]), torch.tensor([-1.0])) == 0.0
    assert kto_baseline(torch.tensor([]), torch.tensor([])) == 0.0


def test_orpo_by_hand() -> None:
    """Geometric means of 0.8 and 0.25 a token are odds of 4 and 1/3: −log 0.8 − λ log σ(log 12), σ(log 12) = 12/13."""
    chosen, rejected = torch.tensor([math.log(0.9) + math.log(0.64 / 0.9)]), torch.tensor([3 * math.log(0.25)])
    losses, metrics = orpo(chosen, rejected, 2 * ONES, 3 * ONES, odds_coef=0.5)
    assert losses.item() == pytest.approx(-math.log(0.8) - 0.5 * math.log(12 / 13))
    assert metrics["margin"].item() == pytest.approx(math.log(12))
    assert metrics["chosen_reward"].item() == pytest.approx(math.log(4))
    assert metrics["nll"].item() == pytest.approx(-math.log(0.8)) and metrics["accuracy"].item() == 1.0


def test_log_odds_are_those_of_double_precision_from_certain_to_impossible() -> None:
    logprobs = torch.tensor([-1e-5, -1e-3, -0.1, -math.log(2), -0.7, -3.0, -20.0, -90.0], requires_grad=True)
    exact = logprobs.detach().double()
    expected = exact - torch.log(-torch.expm1(exact))
    found = log_odds(logprobs)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    gradient = torch.autograd.grad(found.sum(), logprobs)[0]
    torch.testing.assert_close(gradient.double(), -1 / torch.expm1(exact), rtol=1e-3, atol=1e-6)  # 1/(1 − p)


def test_simpo_by_hand() -> None:
    """Means of −1 and −2 a token, β = 2: rewards −2 and −4, so −log σ(2 − γ); γ is no part of accuracy."""
    sides = (torch.tensor([-3.0]), torch.tensor([-10.0]), 3 * ONES, 5 * ONES)
    losses, metrics = simpo(*sides, beta=2.0, gamma=0.5)
    assert losses.item() == pytest.approx(-math.log(sigmoid(1.5)))
    assert metrics["chosen_reward"].item() == -2.0 and metrics["rejected_reward"].item() == -4.0
    assert metrics["accuracy"].item() == 1.0 and metrics["margin"].item() == 2.0
    assert "displacement" not in metrics
    assert simpo(*sides, beta=2.0, gamma=3.0)[1]["accuracy"].item() == 1.0


def test_simpo_without_a_margin_is_normalised_dpo_with_a_uniform_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = -9 * torch.rand(2, 5, generator=generator)
    first, second = torch.tensor([1.0, 2, 3, 4, 5]), torch.tensor([4.0, 4, 1, 2, 7])
    expected, metrics = dpo_norm(
        chosen, rejected, -first * math.log(208), -second * math.log(208), first, second, beta=2.0
    )
    found, _ = simpo(chosen, rejected, first, second, beta=2.0, gamma=0.0)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(metrics["displacement"], chosen + first * math.log(208))


def test_normalised_dpo_by_hand() -> None:
    """β = 2: log-ratios of 3 over 3 tokens and of −2 over 4: rewards 2·1 and 2·(−½), so −log σ(3)."""
    losses, metrics = dpo_norm(-1 * ONES, -6 * ONES, -4 * ONES, -4 * ONES, 3 * ONES, 4 * ONES, beta=2.0)
    assert losses.item() == pytest.approx(-math.log(sigmoid(3)))
    assert metrics["chosen_reward"].item() == 2.0 and metrics["rejected_reward"].item() == -1.0
    assert metrics["displacement"].item() == 3.0


def test_dpo_and_nll_by_hand() -> None:
    """DPO as above (−log σ(1)), and 0.3 times the chosen completion's mean of 1/4 nat a token."""
    losses, metrics = dpo_nll(-1 * ONES, -4 * ONES, -3 * ONES, -4 * ONES, 4 * ONES, beta=0.5, nll_coef=0.3)
    assert losses.item() == pytest.approx(-math.log(sigmoid(1)) + 0.3 * 0.25)
    assert metrics["nll"].item() == 0.25 and metrics["margin"].item() == 1.0
