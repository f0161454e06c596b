"""What each algorithm credits a completion or token with, by hand; online DPO, from reward to gradient."""

import inspect
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf.algorithms import (
    ALGORITHMS,
    grpo,
    online_dpo,
    ppo,
    reinforce,
    reinforce_plus_plus,
    rloo,
)
from rlhf.algorithms.dapo import soft_overlong
from tasks.config.params import Algorithms
from tests.rlhf.four_rollouts import CLIPS, DELTA, MASK, OLD, build, by_completion, gradient, rollouts

everyone = pytest.mark.parametrize("name", sorted(ALGORITHMS))


@everyone
def test_functions_and_configuration_have_the_same_defaults(name: str) -> None:
    block = getattr(Algorithms(), name).knobs()
    parameters = inspect.signature(ALGORITHMS[name]).parameters
    assert set(block) | {"fixed_length"} == set(parameters)
    given = {key: value.default for key, value in parameters.items() if value.default is not inspect.Parameter.empty}
    assert {**block, "fixed_length": None} | given == {**block, "fixed_length": None}


def test_who_needs_what() -> None:
    assert {name for name in ALGORITHMS if build(name).critic} == {"ppo"}
    assert {name for name in ALGORITHMS if build(name).dynamic_sampling} == {"dapo"}
    assert not build("dapo", dynamic_sampling=False).dynamic_sampling


# Advantages by hand. With kl_coef 0.5 and k1, R = r − 0.5 · (0, 0.4, 0.3, 0.6) = 1, 2.8, 1.85, 7.7.


def test_reinforce_has_the_batch_mean_as_baseline() -> None:
    plain = reinforce(normalise=False, aggregation="token").prepare(rollouts(), 0.5)
    centred = torch.tensor([1, 2.8, 1.85, 7.7]) - 3.3375
    torch.testing.assert_close(by_completion(plain), centred)
    scaled = reinforce(normalise=True, aggregation="token").prepare(rollouts(), 0.5)
    torch.testing.assert_close(by_completion(scaled), centred / (centred**2).mean().sqrt())


def test_rloo_has_the_others_of_the_prompt_as_baseline() -> None:
    experience = rloo(normalise=False, aggregation="token", **CLIPS).prepare(rollouts(), 0.5)
    torch.testing.assert_close(by_completion(experience), torch.tensor([-1.8, 1.8, -5.85, 5.85]))
    scaled = rloo(normalise=True, aggregation="token", **CLIPS).prepare(rollouts(), 0.5)
    spread = ((1.8**2 + 5.85**2) / 2) ** 0.5
    torch.testing.assert_close(by_completion(scaled), torch.tensor([-1.8, 1.8, -5.85, 5.85]) / spread)


@pytest.mark.parametrize("group_size", [2, 4])
def test_dr_grpo_is_a_shrunken_rloo(group_size: int) -> None:
    """(G − 1)/G of it, whatever the rewards; and the loss is a sum over tokens divided by the length limit."""
    left = build("dr_grpo").prepare(rollouts(group_size=group_size), 0.5)
    right = build("rloo", normalise=False).prepare(rollouts(group_size=group_size), 0.5)
    torch.testing.assert_close(left.advantages, (group_size - 1) / group_size * right.advantages)
    assert build("dr_grpo").aggregation == "fixed"


def test_grpo_divides_by_the_population_spread_of_the_group() -> None:
    """Of two completions the spread is half their distance: ±1, whatever the rewards, KL apart."""
    for algorithm in (build("grpo"), build("gspo"), build("cispo"), build("dapo", overlong_penalty=0.0)):
        experience = algorithm.prepare(rollouts(), 0.5)
        expected = torch.tensor([-1 / 1.0001, 1 / 1.0001, -3 / 3.0001, 3 / 3.0001])
        torch.testing.assert_close(by_completion(experience), expected)
    whole = grpo(aggregation="sequence", **CLIPS).prepare(rollouts(group_size=4), 0.5)
    centred = torch.tensor([1.0, 3.0, 2.0, 8.0]) - 3.5
    torch.testing.assert_close(by_completion(whole), centred / (7.25**0.5 + 1e-4))


def test_kl_in_the_reward_is_normalised_along_with_it() -> None:
    experience = build("grpo", kl_in="reward", kl_estimator="k1").prepare(rollouts(group_size=4), 0.5)
    objective = torch.tensor([1, 2.8, 1.85, 7.7]) - 3.3375
    torch.testing.assert_close(by_completion(experience), objective / ((objective**2).mean().sqrt() + 1e-4))


def test_the_overlong_penalty_falls_over_the_last_stretch() -> None:
    lengths = torch.tensor([1, 16, 17, 18, 20, 25])
    assert soft_overlong(lengths, limit=20, window=4).tolist() == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]


def test_dapo_takes_it_off_the_reward_and_leaves_the_rollouts_alone() -> None:
    """Limit 4, window 2: lengths 3, 1, 2, 4 cost 1/2, 0, 0, 1 of 6; so the groups hold −2 and 3, 2 and 2."""
    measured = rollouts()
    algorithm = build("dapo", overlong_penalty=6.0, overlong_share=0.5, fixed_length=4)
    torch.testing.assert_close(
        by_completion(algorithm.prepare(measured, 0.5)), torch.tensor([-2.5 / 2.5001, 2.5 / 2.5001, 0.0, 0.0])
    )
    assert measured.rewards.tolist() == [1.0, 3.0, 2.0, 8.0]
    with pytest.raises(ValueError, match="no fixed_length"):
        build("dapo", fixed_length=None)


def test_reinforce_plus_plus_whitens_returns_to_go_over_the_batch() -> None:
    """r at the last token, 0.5 · k1 taken off on the way: a token pays for its own KL and for what follows."""
    experience = reinforce_plus_plus(aggregation="token", **CLIPS).prepare(rollouts(), 0.5)
    returns = torch.tensor(
        [1.0, 1.05, 1.15, 2.8, 1.85, 1.75, 7.7, 7.75, 7.8, 7.85]  # rows 0, 1, 2, 3
    )
    white = (returns - returns.mean()) / returns.std(correction=0)
    torch.testing.assert_close(experience.advantages[MASK], white)
    assert (experience.advantages[~MASK] == 0).all()


def test_ppo_is_reinforce_plus_plus_where_the_critic_says_nothing() -> None:
    left = ppo(
        gamma=1.0, gae_lambda=1.0, whiten=True, value_clip=0.2, aggregation="token", **CLIPS
    ).prepare(rollouts(values=0.0), 0.5)  # fmt: skip
    right = reinforce_plus_plus(aggregation="token", **CLIPS).prepare(rollouts(), 0.5)
    torch.testing.assert_close(left.advantages, right.advantages)


def test_a_critic_is_to_predict_what_it_earns_whatever_it_said() -> None:
    """λ = 1: returns are rewards to go, for a critic that said 0.25 all along; advantages are what is missing."""
    experience = build("ppo", gae_lambda=1.0, whiten=False).prepare(rollouts(values=0.25), 0.5)
    earned = torch.tensor([1.0, 1.05, 1.15, 2.8, 1.85, 1.75, 7.7, 7.75, 7.8, 7.85])
    assert experience.returns is not None and experience.old_values is not None
    torch.testing.assert_close(experience.returns[MASK], earned)
    torch.testing.assert_close(experience.advantages[MASK], earned - 0.25)
    assert (experience.old_values[MASK] == 0.25).all()


@pytest.mark.parametrize(
    ("estimator", "value"),
    [("k1", lambda delta: delta), ("k2", lambda delta: delta**2 / 2), ("k3", lambda delta: math.expm1(-delta) + delta)],
)
def test_the_value_of_any_estimator_can_be_charged(estimator: str, value: Callable[[float], float]) -> None:
    """Equal rewards, so that advantages are charges alone: summed over the completion, or from each token on."""
    charges = [[0.5 * value(delta) for delta in row[mask].tolist()] for row, mask in zip(DELTA, MASK, strict=True)]
    total = [sum(row) for row in charges]
    equal = rollouts(rewards=(1.0, 1.0, 1.0, 1.0), values=0.0)
    experience = build("rloo", normalise=False, kl_estimator=estimator).prepare(equal, 0.5)
    expected = [total[1] - total[0], total[0] - total[1], total[3] - total[2], total[2] - total[3]]
    assert by_completion(experience).tolist() == pytest.approx(expected, abs=1e-6)
    tokens = build("ppo", kl_estimator=estimator, whiten=False, gae_lambda=1.0).prepare(equal, 0.5).advantages
    for row, mask, charge in zip(tokens, MASK, charges, strict=True):
        assert row[mask].tolist() == pytest.approx([1.0 - sum(charge[t:]) for t in range(len(charge))], abs=1e-6)


# Online DPO.


def dpo_gradient(best: int, worst: int, beta: float, rows: list[int]) -> Tensor:
    """By autograd, from the definition of DPO's loss."""
    logprobs = OLD.clone().requires_grad_()
    logratio = ((logprobs - (OLD - DELTA)) * MASK).sum(dim=1)
    loss = -F.logsigmoid(beta * (logratio[rows[best]] - logratio[rows[worst]]))
    return torch.autograd.grad(loss, logprobs)[0]


def test_online_dpo_has_the_gradient_of_dpo_at_the_policy_that_sampled() -> None:
    """One group of four: the best is the last, the worst the first, and those between have no part in it."""
    algorithm = online_dpo(beta=0.7)
    experience = algorithm.prepare(rollouts(group_size=4), 0.5)
    losses, found, metrics = gradient(algorithm, experience, OLD)
    torch.testing.assert_close(found, dpo_gradient(3, 0, 0.7, [0, 1, 2, 3]))
    assert (found[1:3] == 0).all() and (losses[1:3] == 0).all() and algorithm.aggregation == "fixed"
    h = 0.6  # the completions' log π/π_ref are 0.6 and 0
    weight = 0.7 / (1 + math.exp(0.7 * h))
    assert by_completion(experience).tolist() == pytest.approx([-weight, 0, 0, weight])
    assert metrics["dpo_loss"].tolist() == pytest.approx([math.log1p(math.exp(-0.7 * h))] * 2)
    assert metrics["dpo_accuracy"].tolist() == [1.0, 1.0]
    assert experience.kl_coef == 0.0  # β holds it


def test_online_dpo_pairs_within_the_prompt_and_counts_ties_half() -> None:
    """Rewards 3 over 1: log π/π_ref 0 against 0.4, wrong. The other prompt has no contrast, so no pair."""
    algorithm = online_dpo(beta=0.7)
    experience = algorithm.prepare(rollouts(rewards=(3.0, 1.0, 2.0, 2.0)), 0.5)
    _, found, metrics = gradient(algorithm, experience, OLD)
    torch.testing.assert_close(found, dpo_gradient(0, 1, 0.7, [0, 1]))
    assert metrics["dpo_accuracy"].tolist() == [0.0, 0.0]
    start = algorithm.prepare(replace(rollouts(), ref_logprobs=OLD), 0.5)
    _, _, metrics = gradient(algorithm, start, OLD)
    assert metrics["dpo_accuracy"].tolist() == [0.5] * 4
    assert metrics["dpo_loss"].tolist() == pytest.approx([math.log(2)] * 4)


@pytest.mark.parametrize("name", ["rloo", "online_dpo"])
def test_a_group_of_one_is_refused_where_it_can_teach_nothing(name: str) -> None:
    with pytest.raises(ValueError, match="group_size is 1"):
        build(name).prepare(rollouts(group_size=1), 0.5)
