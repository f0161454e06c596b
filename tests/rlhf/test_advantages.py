import pytest
import torch

from rlhf.advantages import centred, gae, group_normalised, leave_one_out, returns_to_go, zero_std_share

REWARDS = torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])


def test_leave_one_out_by_hand_and_as_scaled_centring() -> None:
    expected = torch.tensor([[1 - 4.0, 2 - 3.5, 6 - 1.5], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(leave_one_out(REWARDS), expected)
    torch.testing.assert_close(leave_one_out(REWARDS), 1.5 * (REWARDS - REWARDS.mean(1, keepdim=True)))


def test_leave_one_out_needs_two() -> None:
    with pytest.raises(ValueError, match="group_size is 1"):
        leave_one_out(torch.ones(3, 1))


def test_group_normalised_has_population_std() -> None:
    """Mean 3, deviations −2 −1 3, population variance 14/3."""
    std = (14 / 3) ** 0.5
    expected = torch.tensor([[-2.0, -1.0, 3.0], [0.0, 0.0, 0.0]]) / (std + 1e-4)
    torch.testing.assert_close(group_normalised(REWARDS), expected)
    assert group_normalised(REWARDS).sum(1).abs().max() < 1e-6


def test_equal_rewards_give_exactly_nothing() -> None:
    """The mean of seven times 0.1 need not be 0.1 in floating point; a division by the spread would make it much."""
    equal = torch.tensor([[0.1] * 7, [-1e6 / 3] * 7])
    for advantages in (centred, leave_one_out, group_normalised):
        assert torch.equal(advantages(equal), torch.zeros(2, 7))


def test_share_of_groups_without_contrast() -> None:
    assert zero_std_share(REWARDS) == 0.5


def _plain_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """Σ_l (γλ)^l δ_{t+l}, written out as the double sum."""
    ahead = [*values[1:], 0.0]
    deltas = [r + gamma * n - v for r, n, v in zip(rewards, ahead, values, strict=True)]
    return [
        sum((gamma * lam) ** (later - t) * deltas[later] for later in range(t, len(deltas))) for t in range(len(deltas))
    ]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (1.0, 0.0)])
def test_gae_is_the_double_sum_over_each_completion(gamma: float, lam: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 3, 8, generator=generator)
    spans = [(2, 8), (1, 4), (3, 4)]  # prompt before, padding after
    mask = torch.zeros(3, 8, dtype=torch.bool)
    for row, (start, end) in enumerate(spans):
        mask[row, start:end] = True
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for row, (start, end) in enumerate(spans):
        expected = _plain_gae(rewards[row, start:end].tolist(), values[row, start:end].tolist(), gamma, lam)
        torch.testing.assert_close(advantages[row, start:end], torch.tensor(expected))
    assert (advantages[~mask] == 0).all() and (returns[~mask] == 0).all()
    torch.testing.assert_close(returns[mask], (advantages + values)[mask])


def test_returns_to_go_sum_what_is_still_to_come() -> None:
    mask = torch.tensor([[False, True, True, True], [True, False, True, False]])
    rewards = torch.tensor([[9.0, 1.0, 2.0, 4.0], [1.0, 9.0, 2.0, torch.nan]])
    assert returns_to_go(rewards, mask).tolist() == [[0.0, 7.0, 6.0, 4.0], [3.0, 0.0, 2.0, 0.0]]


def test_gae_of_a_critic_that_says_nothing_is_the_return_to_go() -> None:
    generator = torch.Generator().manual_seed(2)
    rewards = torch.randn(5, 7, generator=generator)
    mask = torch.rand(5, 7, generator=generator) < 0.7
    advantages, returns = gae(rewards, torch.zeros(5, 7), mask, 1.0, 1.0)
    torch.testing.assert_close(advantages, returns_to_go(rewards, mask))
    assert torch.equal(advantages, returns)


def test_gae_limits() -> None:
    """λ = 1: return − V; λ = 0: the one-step error."""
    rewards = torch.tensor([[0.0, 1.0, 2.0]])
    values = torch.tensor([[0.5, 0.25, -1.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    torch.testing.assert_close(gae(rewards, values, mask, 1.0, 1.0)[0], torch.tensor([[3 - 0.5, 3 - 0.25, 2 + 1.0]]))
    torch.testing.assert_close(gae(rewards, values, mask, 1.0, 0.0)[0], torch.tensor([[-0.25, 1 - 1.25, 3.0]]))


def test_gae_steps_over_masked_tokens_in_the_middle() -> None:
    """A token the policy did not choose (a tool's answer) is no step of its own."""
    rewards = torch.tensor([[1.0, 9.0, 2.0]])
    values = torch.tensor([[0.5, 7.0, 0.25]])
    gap, _ = gae(rewards, values, torch.tensor([[True, False, True]]), 0.9, 0.8)
    joined, _ = gae(rewards[:, ::2], values[:, ::2], torch.ones(1, 2, dtype=torch.bool), 0.9, 0.8)
    torch.testing.assert_close(gap[:, ::2], joined)
