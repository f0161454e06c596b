"""Laws that the losses of all algorithms obey."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rlhf.algorithms import ALGORITHMS
from rlhf.kl import KlIn
from tests.rlhf.four_rollouts import DELTA, LENGTHS, MASK, OLD, build, gradient, rollouts, with_kl

everyone = pytest.mark.parametrize("name", sorted(ALGORITHMS))
SHARES = {
    "sequence": MASK / torch.tensor(LENGTHS)[:, None],
    "token": MASK.float(),
    "fixed": MASK / 5,
}  # fmt: skip


@everyone
@pytest.mark.parametrize("aggregation", sorted(SHARES))
def test_at_the_first_step_all_are_plain_policy_gradients(name: str, aggregation: str) -> None:
    """−A_t on each token, in its share: clipping, ratios and stop-gradients do nothing at the policy that sampled."""
    if name == "online_dpo":
        algorithm, shares = build(name), MASK.float()
    else:
        algorithm, shares = build(name, aggregation=aggregation, kl_in="none"), SHARES[aggregation]
    experience = algorithm.prepare(rollouts(), 0.5)
    _, found, _ = gradient(algorithm, experience, OLD)
    torch.testing.assert_close(found, -experience.advantages * shares)
    assert found.abs().sum() > 0.1


@everyone
@pytest.mark.parametrize("inside", ["reward", "loss", "none"])
def test_garbage_outside_the_completions_is_exactly_nothing(name: str, inside: KlIn) -> None:
    knobs = {"kl_in": inside} if with_kl(name) else {}
    algorithm = build(name, **knobs)
    clean = rollouts()

    def spoilt(tensor: Tensor, by: float) -> Tensor:
        return torch.where(MASK, tensor, by)

    dirty = replace(
        clean,
        old_logprobs=spoilt(OLD, torch.nan),
        ref_logprobs=spoilt(clean.ref_logprobs, -torch.inf),
        values=spoilt(clean.values, torch.inf),  # type: ignore[arg-type]
    )
    results = []
    for given, logprobs in ((clean, OLD + 0.01 * MASK), (dirty, spoilt(OLD + 0.01, torch.inf))):
        experience = algorithm.prepare(given, 0.5)
        importance = torch.where(MASK, 0.5, 0.0 if given is clean else torch.nan)
        results.append((experience, *gradient(algorithm, replace(experience, importance=importance), logprobs)))
    (first, losses, found, metrics), (second, dirty_losses, dirty_found, dirty_metrics) = results
    assert torch.equal(first.advantages, second.advantages) and torch.equal(losses, dirty_losses)
    assert torch.equal(found, dirty_found) and (found[~MASK] == 0).all() and found.isfinite().all()
    for key, values in metrics.items():
        assert torch.equal(values, dirty_metrics[key]), key
        assert values.isfinite().all(), key


@everyone
def test_groups_without_contrast_teach_nothing_and_break_nothing(name: str) -> None:
    """Rewards of 0.1, which no binary fraction holds; without KL there is nothing left to learn."""
    algorithm = build(name, **({"kl_in": "none"} if with_kl(name) else {}))
    experience = algorithm.prepare(rollouts(rewards=(0.1, 0.1, 0.1, 0.1), values=0.1), 0.5)
    _, found, metrics = gradient(algorithm, experience, OLD)
    assert found.isfinite().all() and found.abs().max() < 2e-4
    assert all(values.isfinite().all() for values in metrics.values())
    if name not in ("ppo", "reinforce_plus_plus"):  # whitening over tokens may leave a rounding error
        assert torch.equal(experience.advantages, torch.zeros(4, 6))


KNOBS_OF_KL = [name for name in sorted(ALGORITHMS) if with_kl(name)]


@pytest.mark.parametrize("name", KNOBS_OF_KL)
@pytest.mark.parametrize(
    ("estimator", "slope"),
    [("k1", lambda delta: 1.0), ("k2", lambda delta: delta), ("k3", lambda delta: 1 - math.exp(-delta))],
)
def test_kl_in_the_loss_adds_its_own_gradient(name: str, estimator: str, slope: Callable[[float], float]) -> None:
    """Beside the policy gradient: kl_coef · d estimate/d log π on each token, in the token's share."""
    algorithm = build(name, kl_in="loss", kl_estimator=estimator, aggregation="sequence")
    experience = algorithm.prepare(rollouts(), 0.5)
    without, plain, _ = gradient(algorithm, replace(experience, kl_coef=0.0), OLD)
    losses, found, metrics = gradient(algorithm, experience, OLD)
    slopes = torch.tensor([[slope(delta) for delta in row] for row in DELTA.tolist()])
    torch.testing.assert_close(found - plain, 0.5 * slopes * SHARES["sequence"], atol=1e-5, rtol=1e-4)
    assert metrics["kl_loss"].shape == (10,)
    estimates = torch.zeros(4, 6).masked_scatter(MASK, metrics["kl_loss"])
    torch.testing.assert_close(losses - without, 0.5 * (estimates * SHARES["sequence"]).sum(dim=1))
    assert (metrics["kl_loss"].min() < -0.2) == (estimator == "k1")


@pytest.mark.parametrize("name", KNOBS_OF_KL)
def test_without_kl_the_reference_does_not_matter(name: str) -> None:
    algorithm = build(name, kl_in="none")
    near, far = rollouts(), replace(rollouts(), ref_logprobs=OLD - 3.0 * MASK)
    experiences = [algorithm.prepare(given, 0.5) for given in (near, far)]
    results = [gradient(algorithm, experience, OLD + 0.1 * MASK) for experience in experiences]
    assert torch.equal(results[0][1], results[1][1])
    assert "kl_loss" not in results[0][2]
    assert [experience.kl_coef for experience in experiences] == [0.0, 0.0]
    assert build(name, kl_in="reward").prepare(near, 0.5).kl_coef == 0.5


@everyone
def test_importance_weights_multiply_the_policy_gradient_and_nothing_else(name: str) -> None:
    algorithm = build(name, **({"kl_in": "loss", "kl_estimator": "k2"} if with_kl(name) else {}))
    experience = algorithm.prepare(rollouts(), 0.5)
    weights = 0.5 + torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    plain = gradient(algorithm, replace(experience, kl_coef=0.0), OLD)[1]
    kl = gradient(algorithm, experience, OLD)[1] - plain
    weighted = gradient(algorithm, replace(experience, importance=weights * MASK), OLD)[1]
    if name == "gspo":  # the loss of the whole sequence stands on each token
        weights = (weights * MASK).sum(dim=1, keepdim=True) / MASK.sum(dim=1, keepdim=True)
    torch.testing.assert_close(weighted, weights * plain + kl, atol=1e-6, rtol=1e-4)
    ones = gradient(algorithm, replace(experience, importance=MASK.float()), OLD)[1]
    torch.testing.assert_close(ones, plain + kl)


def test_the_critic_learns_the_same_whatever_the_importance_weights() -> None:
    algorithm = build("ppo")
    experience = algorithm.prepare(rollouts(), 0.5)
    found = []
    for importance in (None, 0.1 * MASK):
        values = (0.3 * MASK).requires_grad_()
        losses, metrics = algorithm.loss(replace(experience, importance=importance), OLD, values)
        found.append(torch.autograd.grad(losses.sum(), values)[0])
        assert {"value_loss", "value_clip_fraction"} <= set(metrics)
    assert torch.equal(found[0], found[1]) and found[0].abs().sum() > 0
    with pytest.raises(ValueError, match="critic"):
        algorithm.loss(experience, OLD, None)


@everyone
def test_micro_batches_carry_everything_with_them(name: str) -> None:
    algorithm = build(name)
    experience = replace(algorithm.prepare(rollouts(), 0.5), importance=0.5 + 0.1 * torch.arange(6) * MASK)
    whole, _, _ = gradient(algorithm, experience, OLD + 0.1 * MASK)
    for row in range(4):
        part = experience.rows([row])
        width = 1 + LENGTHS[row]
        assert part.importance is not None and part.importance.shape == (1, width)
        values = None if part.old_values is None else part.old_values
        losses, _ = algorithm.loss(part, (OLD + 0.1 * MASK)[[row], :width], values)
        torch.testing.assert_close(losses[0], whole[row])


@everyone
def test_only_later_steps_clip(name: str) -> None:
    """Metrics in one vocabulary; REINFORCE and online DPO have no ratio."""
    algorithm = build(name)
    experience = algorithm.prepare(rollouts(), 0.5)
    fresh = gradient(algorithm, experience, OLD)[2]
    moved = gradient(algorithm, experience, OLD + 2.0 * MASK)[2]
    if name in ("reinforce", "online_dpo"):
        assert "ratio" not in fresh
        return
    assert {"ratio", "ratio_max", "clip_fraction", "clip_fraction_high", "clip_fraction_low", "approx_kl"} <= set(fresh)
    assert fresh["clip_fraction"].sum() == 0 and (fresh["ratio"] == 1).all() and fresh["approx_kl"].sum() == 0
    assert moved["clip_fraction_high"].mean() > 0 and moved["clip_fraction_low"].sum() == 0
    assert moved["ratio_max"].max().item() == pytest.approx(math.exp(2.0), rel=1e-5)
    assert moved["approx_kl"].mean().item() == pytest.approx(2.0, rel=1e-5)
