"""Closed forms that tie two parts of the library together. Those of one function stand beside its other tests; all of
them are listed in docs/proofs.md."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf.algorithms import ALGORITHMS, Experience
from rlhf.batching import Batch
from rlhf.chat import Chat
from rlhf.comparisons import Comparisons, comparison_batch
from rlhf.losses.reward import bradley_terry
from rlhf.masks import denominator
from rlhf.selection import best_of_n, top_overall

LOSS: dict[str, Any] = {"kl_in": "loss", "kl_estimator": "k2"}


def experience(lengths: list[int], moved: float) -> tuple[Experience, Tensor]:
    """Random rollouts, and log-probabilities of a policy that has `moved` since."""
    numbers = torch.Generator().manual_seed(0)
    width = 1 + max(lengths)
    places = torch.arange(width)
    real = places < 1 + torch.tensor(lengths)[:, None]
    batch = Batch(torch.ones(real.shape, dtype=torch.long), real, real & (places >= 1))
    old, reference, noise = torch.randn(3, *real.shape, generator=numbers, dtype=torch.float64)
    advantages = torch.randn(len(lengths), 1, generator=numbers, dtype=torch.float64) * batch.loss_mask
    return Experience(batch, old, reference, advantages, kl_coef=0.1), (old + moved * noise).requires_grad_()


def losses_and_gradient(name: str, made: tuple[Experience, Tensor], **knobs: Any) -> tuple[Tensor, Tensor]:
    rollouts, logprobs = made
    algorithm = ALGORITHMS[name](**knobs)
    losses, _ = algorithm.loss(rollouts, logprobs, None)
    total = losses.sum() / denominator(rollouts.batch.loss_mask, algorithm.aggregation)
    return losses, torch.autograd.grad(total, logprobs)[0]


def test_gspo_is_grpo_for_answers_of_one_token() -> None:
    """At ratios on both sides of the clip, with KL in the loss."""
    made = experience([1] * 40, moved=0.5)
    knobs = {"clip_low": 0.2, "clip_high": 0.3, "aggregation": "sequence", **LOSS}
    for left, right in zip(losses_and_gradient("gspo", made, **knobs), losses_and_gradient("grpo", made, **knobs)):
        torch.testing.assert_close(left, right)


def test_cispo_at_ratio_1_is_reinforce_averaged_over_tokens() -> None:
    made = experience([3, 1, 5, 2], moved=0.0)
    _, cispo = losses_and_gradient("cispo", made, clip_low=0.2, clip_high=0.2, aggregation="token", **LOSS)
    _, reinforce = losses_and_gradient("reinforce", made, normalise=False, aggregation="token", **LOSS)
    torch.testing.assert_close(cispo, reinforce)
    rollouts, _ = made
    _, alone = losses_and_gradient("reinforce", made, normalise=False, aggregation="token", kl_in="none")
    torch.testing.assert_close(alone, -rollouts.advantages / rollouts.batch.loss_mask.sum())


@pytest.mark.parametrize("size", [2, 3, 4, 9])
def test_a_prompts_share_of_the_loss_does_not_depend_on_its_number_of_completions(size: int) -> None:
    """One completion ahead of all others by 0.7: −log σ(0.7), whatever K."""
    one = Comparisons("g", [1], [[2]] * size, [(0, other) for other in range(1, size)])
    made = comparison_batch([one], pad_id=0)
    scores = torch.tensor([0.7] + [0.0] * (size - 1))
    losses, _ = bradley_terry(scores[made.chosen], scores[made.rejected])
    assert (losses * made.share).sum().item() == pytest.approx(math.log1p(math.exp(-0.7)))


def test_the_best_of_all_completions_with_one_a_prompt_are_the_best_prompts() -> None:
    rewards = np.array([[0.3], [0.9], [-1.0], [0.5]])
    assert top_overall(rewards, np.ones((4, 1), dtype=bool), 2) == [(1, 0), (3, 0)]


def test_best_of_n_never_falls_with_n_nor_where_completions_tie() -> None:
    rewards = np.random.default_rng(0).integers(0, 4, size=(50, 8)).astype(float)
    curve = np.stack([best_of_n(rewards, rewards, n) for n in range(1, 9)])
    assert (np.diff(curve, axis=0) >= -1e-12).all()
    assert np.allclose(curve[-1], rewards.max(axis=1))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_best_of_n_of_right_and_wrong_is_pass_at_k(k: int) -> None:
    """The largest of k draws is 1 where one of them is right: 1 − C(n − c, k)/C(n, k), and the count of all draws."""
    right = np.array([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 0, 1, 0], [1, 1, 1, 1, 1]], dtype=float)
    found = best_of_n(right, right, k)
    for row, share in zip(right, found):
        wrong = 5 - int(row.sum())
        assert share == pytest.approx(1 - math.comb(wrong, k) / math.comb(5, k))
        assert share == pytest.approx(np.mean([max(draw) for draw in itertools.combinations(row, k)]))


def test_a_folder_whose_padding_is_its_stop_token_is_not_loaded(tmp_path: Path) -> None:
    Chat.from_words(["a"]).save(tmp_path)
    markers = json.loads((tmp_path / "chat.json").read_text())
    (tmp_path / "chat.json").write_text(json.dumps(markers | {"pad": markers["stop"]}))
    with pytest.raises(ValueError, match="shares ids"):
        Chat.load(tmp_path)
