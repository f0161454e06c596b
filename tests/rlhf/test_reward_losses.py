"""Losses of reward models against numbers worked out by hand and against each other."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf.losses.reward import bradley_terry, combine, plackett_luce
from rlhf.losses.verification import (
    aggregate,
    not_wrong,
    outcome_by_sequence,
    outcome_by_token,
    process_binary,
    process_three_way,
)


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_bradley_terry_in_three_forms() -> None:
    chosen, rejected = tensor(1.0, -2.0, 0.5), tensor(0.0, 1.0, 0.5)
    losses, metrics = bradley_terry(chosen, rejected)
    torch.testing.assert_close(losses, F.softplus(rejected - chosen))  # Anthropic's form
    torch.testing.assert_close(losses[2], tensor(math.log(2))[0])
    torch.testing.assert_close(bradley_terry(chosen + 7, rejected + 7)[0], losses)  # the constant is free
    torch.testing.assert_close(bradley_terry(chosen, rejected, torch.zeros(3, dtype=torch.float64))[0], losses)
    assert metrics["accuracy"].tolist() == [1.0, 0.0, 0.5]


def test_a_margin_asks_for_more_and_centring_holds_the_level() -> None:
    gap = tensor(2.0)
    loss, metrics = bradley_terry(gap, tensor(0.0), margin=tensor(3.0))
    assert loss.item() == pytest.approx(math.log(1 + math.e))  # −log σ(2 − 3)
    assert metrics["margin"].item() == 2.0  # what is reported is the gap itself
    centred = bradley_terry(tensor(3.0), tensor(1.0), centring=0.01)[0] - bradley_terry(tensor(3.0), tensor(1.0))[0]
    assert centred.item() == pytest.approx(0.16)


def test_plackett_luce_of_two_is_bradley_terry() -> None:
    rewards = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(plackett_luce(rewards)[0], bradley_terry(rewards[:, 0], rewards[:, 1])[0])


def test_plackett_luce_is_a_distribution_over_orders() -> None:
    rewards = tensor(0.3, -1.0, 2.0, 0.0)
    orders = torch.stack([rewards[list(order)] for order in itertools.permutations(range(4))])
    losses, _ = plackett_luce(orders)
    assert torch.exp(-losses).sum().item() == pytest.approx(1.0)
    # The likeliest order by hand: 2.0 of all four, 0.3 of three, 0.0 of two.
    total = [math.exp(2.0), math.exp(0.3), 1.0, math.exp(-1.0)]
    chance = total[0] / sum(total) * total[1] / sum(total[1:]) * total[2] / sum(total[2:])
    assert torch.exp(-losses.min()).item() == pytest.approx(chance)


def test_plackett_luce_leaves_out_what_was_not_ranked() -> None:
    rewards = torch.tensor([[1.0, 0.0, 99.0]], dtype=torch.float64, requires_grad=True)
    losses, metrics = plackett_luce(rewards, torch.tensor([[True, True, False]]))
    losses.sum().backward()
    assert losses.item() == pytest.approx(math.log(1 + math.exp(-1.0)))
    assert metrics["accuracy"].item() == 1.0
    assert rewards.grad is not None
    assert rewards.grad[0, 2].item() == 0.0 and bool(torch.isfinite(rewards.grad).all())
    assert plackett_luce(tensor([0.0, 1.0, 2.0]))[1]["accuracy"].item() == 0.0
    with pytest.raises(ValueError, match="1 completions, expected at least 2"):
        plackett_luce(tensor([1.0, 2.0]), torch.tensor([[True, False]]))


def test_outcome_losses_by_hand() -> None:
    """Odds 3 : 1 and 1 : 1 on two tokens; what stands outside the mask does not count."""
    logits = tensor([50.0, math.log(3), 0.0, -50.0])
    mask = torch.tensor([[False, True, True, False]])
    by_token, metrics = outcome_by_token(logits, torch.tensor([1]), mask)
    assert by_token.item() == pytest.approx((-math.log(3 / 4) - math.log(1 / 2)) / 2)
    assert metrics["accuracy"].item() == 0.5  # the last token claims ½
    wrong, _ = outcome_by_token(logits, torch.tensor([0]), mask)
    assert wrong.item() == pytest.approx((-math.log(1 / 4) - math.log(1 / 2)) / 2)
    by_sequence, metrics = outcome_by_sequence(logits, torch.tensor([1]), mask)
    claimed = 1 / (1 + 3**-0.5)  # σ of the mean logit, not the mean of σ
    assert by_sequence.item() == pytest.approx(-math.log(claimed))
    assert (metrics["accuracy"].item(), metrics["claimed"].item()) == (1.0, pytest.approx(claimed))


def test_process_losses_by_hand() -> None:
    mask = torch.tensor([[True, False, True], [False, True, False]])
    logits = tensor([math.log(3), 9.0, -math.log(3)], [9.0, 0.0, 9.0])
    losses, metrics = process_binary(logits, torch.tensor([[1, 0, 1], [0, 0, 0]]), mask)
    assert losses.tolist() == pytest.approx([-math.log(3 / 4) - math.log(1 / 4), math.log(2)])
    assert metrics["accuracy"].tolist() == [1.0, 0.0, 0.5]
    three = torch.zeros(2, 3, 3, dtype=torch.float64)
    three[0, 0] = tensor(math.log(2), 0.0, 0.0)  # ½, ¼, ¼
    three[0, 2] = tensor(0.0, 0.0, math.log(2))
    ratings = torch.tensor([[-1, 9, 0], [9, 1, 9]])
    losses, metrics = process_three_way(three, ratings, mask)
    assert losses.tolist() == pytest.approx([math.log(2) + math.log(4), math.log(3)])
    assert metrics["accuracy"].tolist()[:2] == [1.0, 0.0]
    assert not_wrong(three)[0, [0, 2]].tolist() == pytest.approx([0.5, 0.75])
    with pytest.raises(ValueError, match=r"ratings are \[.*2.*\]"):
        process_three_way(three, torch.full((2, 3), 2), mask)


def test_three_classes_of_which_one_is_impossible_are_two() -> None:
    """With the class of `neither` at probability 0 the three-way loss is the binary one of the other two."""
    logits = tensor([0.7, -1.3])
    three = torch.stack([torch.zeros_like(logits), torch.full_like(logits, -1e9), logits], dim=-1)
    mask = torch.ones(1, 2, dtype=torch.bool)
    binary, _ = process_binary(logits, torch.tensor([[1, 0]]), mask)
    torch.testing.assert_close(process_three_way(three, torch.tensor([[1, -1]]), mask)[0], binary)


def test_claims_become_one_number() -> None:
    claims = tensor([0.5, 0.8, 0.9, 0.1], [0.4, 0.9, 0.9, 0.9])
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    found = {how: aggregate(claims, mask, how) for how in ("mean", "min", "product", "last")}  # type: ignore[arg-type]
    assert found["mean"].tolist() == pytest.approx([2.2 / 3, 0.4])
    assert found["min"].tolist() == [0.5, 0.4]
    assert found["product"].tolist() == pytest.approx([0.36, 0.4])
    assert found["last"].tolist() == [0.9, 0.4]
    for how in found:
        with pytest.raises(ValueError, match="row 1 has 0 tokens"):
            aggregate(claims, torch.tensor([[True] * 4, [False] * 4]), how)  # type: ignore[arg-type]


def test_members_that_differ_make_a_cautious_ensemble_worth_less() -> None:
    rewards = tensor([1.0, 2.0], [1.0, 0.0], [1.0, 4.0])  # [M, B]
    assert combine(rewards, "mean").tolist() == [1.0, 2.0]
    assert combine(rewards, "min").tolist() == [1.0, 0.0]
    assert combine(rewards, "mean_minus_std").tolist() == pytest.approx([1.0, 2.0 - math.sqrt(8 / 3)])
