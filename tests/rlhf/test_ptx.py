from collections.abc import Mapping
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from rlhf import online
from rlhf.algorithms import Experience, rloo
from rlhf.batching import Batch
from rlhf.ptx import demonstrations_at
from rlhf.sampler import Completion
from rlhf.trainer import OptimizerSettings, fit

SEQUENCES = [
    ([7, 1, 2, 3], [False, False, True, True]),
    ([8, 2, 2, 2, 1, 3], [False, False, True, True, True, True]),
    ([9, 3], [False, True]),
]
ANSWER_TOKENS = 2 + 4 + 1
PTX_COEF = 0.7


class Bigram(nn.Module):
    """log π(x_t | x_{t−1}) as a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(10, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64))

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        before, after = batch.input_ids[:, :-1], batch.input_ids[:, 1:]
        logprobs = self.table.log_softmax(-1)[before, after]
        logprobs = nn.functional.pad(logprobs, (1, 0)) * batch.loss_mask
        return logprobs, torch.zeros_like(logprobs)


def experience(policy: Bigram) -> Experience:
    """Two groups of two, sampled (as far as the log-probabilities say) from this very policy."""
    words = [(0, [1, 2, 3]), (0, [3]), (1, [2, 2]), (1, [1, 1, 1, 3])]
    prompts = [[7, 8], [9]]
    table = policy.table.detach().log_softmax(-1)
    completions = []
    for prompt, ids in words:
        text = [prompts[prompt][-1], *ids]
        logprobs = [table[before, after].item() for before, after in pairwise(text)]
        completions.append(Completion(prompt, ids, logprobs, "stop"))
    rollouts = online.collect(
        prompts, completions, rewards=torch.tensor([1.0, 2.0, 3.0, 5.0]), reference=lambda batch: 0.0 * batch.loss_mask,
        critic=None, group_size=2, pad_id=0, max_tokens=1000,
    )  # fmt: skip
    return ALGORITHM.prepare(rollouts, 0.1)


ALGORITHM = rloo(normalise=False, clip_low=0.2, clip_high=0.2, aggregation="token")


def gradient(max_tokens: int, ptx_coef: float, demonstrations_only: bool = False) -> tuple[Tensor, Mapping[str, float]]:
    """What one step of `fit` finds in `.grad`, and what it logs."""
    policy = Bigram()

    def demonstrated(batch: Batch) -> Tensor:
        return policy(batch)[0]  # type: ignore[no-any-return]

    found: list[Tensor] = []
    policy.table.register_post_accumulate_grad_hook(lambda table: found.append(table.grad.clone()))  # type: ignore[union-attr]
    ptx = demonstrations_at(SEQUENCES, ptx_coef=ptx_coef, batch_size=3, pad_id=0, max_tokens=max_tokens, seed=0)
    made = None if demonstrations_only else experience(policy)
    seen: list[Mapping[str, float]] = []
    fit(
        {"policy": policy}, steps=1, seed=0, name="test", optimizer=OptimizerSettings(lr=0.1),
        batch_at=online.step_batches(lambda update: (made, {}), ALGORITHM, 1, max_tokens, ptx if ptx_coef else None),
        loss=online.loss_of(ALGORITHM, policy, None, demonstrated), log=lambda metrics, step: seen.append(metrics),
    )  # fmt: skip
    return found[-1], seen[0]


def mean_nll_gradient() -> Tensor:
    """−(1/N) Σ log π over the answer tokens of all three demonstrations, written out."""
    policy = Bigram()
    total = torch.zeros((), dtype=torch.float64)
    for ids, mask in SEQUENCES:
        for place in range(1, len(ids)):
            if mask[place]:
                total = total - policy.table.log_softmax(-1)[ids[place - 1], ids[place]]
    (total / ANSWER_TOKENS).backward()
    assert policy.table.grad is not None
    return policy.table.grad


@pytest.mark.parametrize("max_tokens", [6, 13, 1000])
def test_demonstrations_add_their_own_mean_however_the_step_is_cut(max_tokens: int) -> None:
    alone, _ = gradient(1000, 0.0)
    both, logged = gradient(max_tokens, PTX_COEF)
    torch.testing.assert_close(both - alone, PTX_COEF * mean_nll_gradient())
    assert alone.abs().max() > 0.1
    assert logged["test/ptx_nll"] == pytest.approx(
        sum(
            -Bigram().table.log_softmax(-1)[ids[place - 1], ids[place]].item()
            for ids, mask in SEQUENCES
            for place in range(1, len(ids))
            if mask[place]
        )
        / ANSWER_TOKENS
    )


def test_demonstrations_are_learnt_where_the_rollouts_have_nothing_to_teach() -> None:
    found, _ = gradient(6, PTX_COEF, demonstrations_only=True)
    torch.testing.assert_close(found, PTX_COEF * mean_nll_gradient())


def test_every_pass_takes_every_demonstration_once() -> None:
    at = demonstrations_at(SEQUENCES, ptx_coef=1.0, batch_size=2, pad_id=0, max_tokens=1000, seed=0)
    firsts = [int(ids) for step in range(2) for part in at(step, 5.0) for ids in part.batch.input_ids[:, 0]]
    assert sorted(firsts) == [7, 8, 9]
    tokens = [int(part.batch.loss_mask.sum()) for step in range(2) for part in at(step, 5.0)]
    assert [part.scale for step in range(2) for part in at(step, 5.0)] == [5.0 / count for count in tokens]
