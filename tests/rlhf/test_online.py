import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rlhf import online
from rlhf.algorithms import ALGORITHMS, Experience, Rollouts, last_token, ppo, rloo, rows_of, sequence_kl
from rlhf.batching import Batch
from rlhf.errors import NumericsError
from rlhf.sampler import Completion
from tasks.config.params import Algorithms

PROMPTS = [[7, 8], [9]]
COMPLETIONS = [
    Completion(0, [1, 2, 3], [-0.1, -0.2, -0.3], "stop"),
    Completion(0, [3], [-0.4], "stop"),
    Completion(1, [2, 2], [-0.5, -0.6], "length"),
    Completion(1, [1, 1, 1, 3], [-0.7, -0.8, -0.9, -1.0], "stop"),
]
PPO = {"gamma": 1.0, "gae_lambda": 1.0, "value_clip": 0.2, "clip_low": 0.2, "clip_high": 0.2, "aggregation": "token"}


def zeros(batch: Batch) -> Tensor:
    return torch.zeros(batch.input_ids.shape)


def rollouts(ref: float = 0.0, rewards: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0)) -> Rollouts:
    """The four completions above; the reference gives every token the log-probability `ref`."""
    return online.collect(
        PROMPTS, COMPLETIONS, rewards=torch.tensor(rewards),
        reference=lambda batch: ref * batch.loss_mask, critic=zeros, group_size=2, pad_id=0, max_tokens=8,
    )  # fmt: skip


def test_completions_lie_where_they_were_sampled() -> None:
    batch, old_logprobs = online.to_batch(PROMPTS, COMPLETIONS, pad_id=0)
    assert batch.input_ids.tolist() == [[7, 8, 1, 2, 3], [7, 8, 3, 0, 0], [9, 2, 2, 0, 0], [9, 1, 1, 1, 3]]
    assert batch.loss_mask.int().tolist() == [[0, 0, 1, 1, 1], [0, 0, 1, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 1, 1]]
    assert old_logprobs[0].tolist() == pytest.approx([0, 0, -0.1, -0.2, -0.3])
    assert old_logprobs[2].tolist() == pytest.approx([0, -0.5, -0.6, 0, 0])
    assert last_token(batch.loss_mask).tolist() == [4, 2, 2, 4]


@pytest.mark.parametrize("max_tokens", [5, 10, 1000])
def test_micro_batches_give_what_the_whole_batch_gives(max_tokens: int) -> None:
    batch, _ = online.to_batch(PROMPTS, COMPLETIONS, pad_id=0)
    tokens = online.in_micro_batches(lambda part: part.input_ids * 2.0, batch, max_tokens)
    torch.testing.assert_close(tokens, batch.input_ids * 2.0)
    sums = online.in_micro_batches(lambda part: part.input_ids.sum(1).float(), batch, max_tokens)
    assert sums.tolist() == [21.0, 18.0, 13.0, 15.0]


def test_rows_are_cut_to_the_longest_of_them() -> None:
    batch, _ = online.to_batch(PROMPTS, COMPLETIONS, pad_id=0)
    assert rows_of(batch, [2, 1]).input_ids.tolist() == [[9, 2, 2], [7, 8, 3]]


def test_kl_is_policy_minus_reference_summed_over_the_completion() -> None:
    assert sequence_kl(rollouts(ref=-1.0)).tolist() == pytest.approx([3 - 0.6, 0.6, 2 - 1.1, 4 - 3.4])


def test_drifting_from_the_reference_lowers_the_advantage() -> None:
    """Equal rewards: the completion that the reference likes less must come out below its neighbour."""
    algorithm = rloo(normalise=False, clip_low=0.2, clip_high=0.2, aggregation="token")
    equal = rollouts(ref=-1.0, rewards=(1.0, 1.0, 1.0, 1.0))  # KL 2.4 against 0.6, and 0.9 against 0.6
    advantages = algorithm.prepare(equal, 0.5).advantages
    assert advantages[0, 2].item() == pytest.approx(-0.5 * (2.4 - 0.6))
    assert advantages[1, 2].item() == pytest.approx(0.5 * (2.4 - 0.6))
    assert (advantages[~equal.batch.loss_mask] == 0).all()


def test_ppo_pays_the_reward_at_the_last_real_token_and_kl_on_the_way() -> None:
    """λ = γ = 1 and V = 0: advantages are rewards-to-go, so their differences are the token rewards."""
    algorithm = ppo(whiten=False, **PPO)  # type: ignore[arg-type]
    experience = algorithm.prepare(rollouts(ref=-1.0), 0.5)
    k1 = 0.5 * torch.tensor([0.9, 0.8, 0.7])
    expected = 1.0 - torch.stack([k1.sum(), k1[1:].sum(), k1[2]])
    torch.testing.assert_close(experience.advantages[0], torch.cat([torch.zeros(2), expected]))
    assert experience.advantages[1].tolist() == pytest.approx([0, 0, 2.0 - 0.5 * 0.6, 0, 0])
    torch.testing.assert_close(experience.returns, experience.advantages)


def test_ppo_whitens_over_real_tokens_only() -> None:
    experience = ppo(whiten=True, **PPO).prepare(rollouts(), 0.0)  # type: ignore[arg-type]
    white = experience.advantages[experience.batch.loss_mask]
    assert white.mean().item() == pytest.approx(0, abs=1e-6)
    assert white.var(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert experience.returns is not None and experience.returns[0, 4].item() == 1.0


def test_ppo_without_a_critic_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="critic"):
        ppo(whiten=True, **PPO).prepare(replace(rollouts(), values=None), 0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_every_algorithm_loses_the_same_in_one_micro_batch_or_many(name: str) -> None:
    algorithm = ALGORITHMS[name](**getattr(Algorithms(), name).knobs(), fixed_length=9)
    experience = algorithm.prepare(rollouts(ref=-1.0), 0.1)

    def policy(batch: Batch) -> tuple[Tensor, Tensor]:
        return -0.1 * batch.input_ids * batch.loss_mask, torch.zeros(batch.input_ids.shape)

    totals = []
    for max_tokens in (5, 1000):
        at = online.step_batches(lambda update: (experience, {}), algorithm, 2, max_tokens)
        loss = online.loss_of(algorithm, policy, zeros)
        steps = [at(0), at(1)]  # the second inner step is not fresh: no check against the sampler
        step = steps[1]
        assert step is not None
        totals.append(sum(float(loss(part)[0]) for part in step.micro_batches) / step.denominator)
    assert totals[0] == pytest.approx(totals[1])
    assert abs(totals[0]) > 1e-4


def test_a_sampler_that_disagrees_with_the_trainer_is_noticed() -> None:
    algorithm = rloo(normalise=False, clip_low=0.2, clip_high=0.2, aggregation="token")
    experience = algorithm.prepare(rollouts(), 0.1)

    def shifted(by: float) -> float:
        loss = online.loss_of(
            algorithm, lambda batch: (experience.old_logprobs + by, torch.zeros(batch.input_ids.shape)), None
        )
        return loss(experience)[1]["sampler_gap"].mean().item()

    assert shifted(1e-3) == pytest.approx(1e-3, rel=1e-3)
    with pytest.raises(NumericsError, match=r"differ by 0\.1 nats a token"):
        shifted(0.1)


def test_importance_weights_by_hand() -> None:
    """Token 0 of the first completion: the learner finds it 0.2 nats likelier than the sampler did, and so on."""
    by = torch.zeros(4, 5)
    by[0, 2], by[0, 3], by[2, 1] = 0.2, -0.1, 0.04
    measured = rollouts()
    corrected, weights, metrics = online.importance_weights(
        measured, lambda batch: batch.loss_mask * 1.0 * _placed(measured.old_logprobs + by, batch, measured), 1.1, 8
    )
    torch.testing.assert_close(corrected.old_logprobs, (measured.old_logprobs + by) * measured.batch.loss_mask)
    assert weights[0].tolist() == pytest.approx([0, 0, 1.1, math.exp(-0.1), 1.0])
    assert weights[2].tolist() == pytest.approx([0, math.exp(0.04), 1.0, 0, 0])
    assert metrics["sampler_gap"] == pytest.approx((0.2 + 0.1 + 0.04) / 10)
    assert metrics["sampler_gap_max"] == pytest.approx(0.2)
    assert metrics["importance"] == pytest.approx((1.1 + math.exp(-0.1) + math.exp(0.04) + 7) / 10)
    assert metrics["importance_truncated"] == pytest.approx(0.1)


def _placed(values: Tensor, batch: Batch, whole: Rollouts) -> Tensor:
    """The rows of `values` that a micro-batch holds, by what they say."""
    width = batch.input_ids.shape[1]
    rows = [
        next(row for row in range(4) if torch.equal(whole.batch.input_ids[row, :width], ids)) for ids in batch.input_ids
    ]
    return values[rows, :width]


def test_a_sampler_far_from_the_learner_is_no_matter_of_weights() -> None:
    measured = rollouts()
    with pytest.raises(NumericsError, match=r"differ by 0\.1 nats a token"):
        online.importance_weights(
            measured, lambda batch: _placed(measured.old_logprobs + 0.1, batch, measured) * batch.loss_mask, 2.0, 1000
        )


def test_an_update_without_contrast_has_no_work_and_none_ends_the_training() -> None:
    algorithm = rloo(normalise=False, clip_low=0.2, clip_high=0.2, aggregation="token")
    at = online.step_batches(lambda update: None if update else (None, {"dropped_groups": 1.0}), algorithm, 2, 1000)
    empty = at(0)
    assert empty is not None and (list(empty.micro_batches), empty.denominator) == ([], 1.0)
    assert empty.metrics == {"dropped_groups": 1.0}
    again = at(1)
    assert again is not None and not again.micro_batches and not again.metrics
    assert at(2) is None


def test_inner_steps_share_rollouts_and_resuming_between_them_is_refused() -> None:
    algorithm = rloo(normalise=False, clip_low=0.2, clip_high=0.2, aggregation="token")
    collected: list[int] = []

    def collect(update: int) -> tuple[Experience, dict[str, float]]:
        collected.append(update)
        return algorithm.prepare(rollouts(), 0.1), {"reward": float(update)}

    at = online.step_batches(collect, algorithm, 3, 1000)
    batches = [at(step) for step in range(3, 9)]
    metrics = [dict(batch.metrics) for batch in batches if batch is not None]
    assert collected == [1, 2]
    assert metrics == [{"reward": 1.0}, {}, {}, {"reward": 2.0}, {}, {}]
    with pytest.raises(ValueError, match="multiple of 3"):
        online.step_batches(collect, algorithm, 3, 1000)(4)


def test_metrics_by_hand() -> None:
    measured = rollouts(ref=-1.0, rewards=(1.0, 1.0, 3.0, 5.0))
    metrics = online.rollout_metrics(measured, ppo(whiten=False, **PPO).prepare(measured, 0.5))  # type: ignore[arg-type]
    assert metrics["reward"] == 2.5
    assert metrics["kl"] == pytest.approx((2.4 + 0.6 + 0.9 + 0.6) / 4)
    assert metrics["objective"] == pytest.approx(2.5 - 0.5 * metrics["kl"])
    assert metrics["length"] == 2.5 and metrics["tokens"] == 10.0
    assert metrics["stop_rate"] == 0.75 and metrics["zero_std_groups"] == 0.5
    assert metrics["explained_variance"] == pytest.approx(0.0, abs=1e-6)  # values are all 0
