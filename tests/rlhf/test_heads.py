"""Reward and value heads: read at the right token, saved whole, started where they should."""

import copy
import math
from pathlib import Path

import pytest
import torch

from rlhf.batching import collate
from rlhf.models import Policy, RewardModel, ValueModel, save_policy, token_logprobs
from rlhf.models.heads import Reads

SEQUENCES = [
    ([2, 3, 6, 7, 4, 8, 5], [False] * 5 + [True] * 2),
    ([2, 3, 9, 4, 5], [False] * 4 + [True]),
    ([2, 3, 6, 4, 7, 8, 9, 0, 5], [False] * 4 + [True] * 5),  # holds the pad id as a real token
]


def test_scores_are_read_at_the_last_real_token(policy: Policy) -> None:
    reward_model = RewardModel(policy, seed=0)
    scores = reward_model(collate(SEQUENCES, pad_id=0))
    for (ids, _), score in zip(SEQUENCES, scores, strict=True):
        output = policy.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        expected = reward_model.head(output.hidden_states[-1][0, -1])[0]
        torch.testing.assert_close(score, expected, atol=1e-5, rtol=1e-5)


def test_head_initialisation(llama: Policy) -> None:
    weights = torch.cat([RewardModel(llama, seed=seed).head.weight.flatten() for seed in range(40)])
    assert weights.std().item() == pytest.approx(1 / math.sqrt(33), rel=0.1)  # 1280 draws, hidden size 32
    assert torch.equal(RewardModel(llama, seed=1).head.weight, RewardModel(llama, seed=1).head.weight)
    assert RewardModel(llama, seed=0).head.bias.item() == 0


def test_normalisation_gives_mean_0_and_std_1_and_composes(llama: Policy) -> None:
    reward_model, batch = RewardModel(llama, seed=0), collate(SEQUENCES, pad_id=0)
    raw = reward_model(batch)
    reward_model.normalise(raw.mean().item(), raw.std().item())
    torch.testing.assert_close(reward_model(batch), (raw - raw.mean()) / raw.std())
    reward_model.normalise(2.0, 4.0)
    torch.testing.assert_close(reward_model(batch), ((raw - raw.mean()) / raw.std() - 2) / 4)
    with pytest.raises(ValueError, match="std above 0"):
        reward_model.normalise(0.0, 0.0)


def test_language_model_loss_shares_the_forward_pass(policy: Policy) -> None:
    reward_model, batch = RewardModel(policy, seed=0), collate(SEQUENCES, pad_id=0)
    scores, logprobs = reward_model.scores_and_logprobs(batch)
    assert torch.equal(scores, reward_model(batch))
    assert torch.equal(logprobs, token_logprobs(policy.model, batch))


def test_token_head_adds_what_it_sees_on_completions(policy: Policy) -> None:
    """With g(h, l) = l the token head adds ten times the mean log-probability of the completion, and nothing else."""
    reward_model, batch = RewardModel(policy, seed=0), collate(SEQUENCES, pad_id=0)
    before = reward_model(batch)
    reward_model.token_head = torch.nn.Linear(policy.model.config.hidden_size + 1, 1, bias=False)
    with torch.no_grad():
        reward_model.token_head.weight.zero_()
        reward_model.token_head.weight[0, -1] = 1.0
    mean = token_logprobs(policy.model, batch).sum(dim=1) / batch.loss_mask.sum(dim=1)
    torch.testing.assert_close(reward_model(batch) - before, 10.0 * mean)


def test_the_last_token_alone_is_read_without_the_lm_head(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    both, alone = RewardModel(policy, seed=3), RewardModel(policy, seed=3, reads="last_token")
    batch = collate(SEQUENCES, pad_id=0)
    expected = both(batch)  # the other reader starts at zero
    scores, logprobs = alone.scores_and_logprobs(batch)
    assert torch.equal(logprobs, token_logprobs(policy.model, batch))
    monkeypatch.setattr(policy.model.get_output_embeddings(), "forward", None)
    for found in (alone(batch), scores):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("reads", ["tokens", "last_token"])
def test_save_load_and_bytes(policy: Policy, tmp_path: Path, reads: Reads) -> None:
    reward_model, batch = RewardModel(policy, seed=4, reads=reads), collate(SEQUENCES, pad_id=0)
    reward_model.normalise(0.3, 1.7)
    reward_model.save(tmp_path / "a")
    loaded = RewardModel.load(tmp_path / "a")
    loaded.save(tmp_path / "b")
    assert torch.equal(loaded(batch), reward_model(batch))
    assert loaded.chat.encode_conversation([{"role": "assistant", "content": "w1"}]) == ([2, 4, 7, 5], [False, False, True, True])  # fmt: skip  # noqa: E501
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_a_policy_is_no_reward_model(llama: Policy, tmp_path: Path) -> None:
    save_policy(llama, tmp_path)
    with pytest.raises(ValueError, match=r"no head\.safetensors"):
        RewardModel.load(tmp_path)


def test_values_start_at_zero_on_a_copy(llama: Policy) -> None:
    reward_model, batch = RewardModel(llama, seed=0), collate(SEQUENCES, pad_id=0)
    critic = ValueModel(copy.deepcopy(reward_model.model))
    assert not critic(batch).any()
    before = reward_model(batch)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.add_(0.1)
    assert torch.equal(reward_model(batch), before)


def test_a_value_sees_what_is_before_its_token(policy: Policy) -> None:
    critic = ValueModel(policy.model)
    torch.nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(0))
    batch = collate(SEQUENCES, pad_id=0)
    values = critic(batch)
    assert not values[~batch.loss_mask].any()
    # The value at token 5 of the first sequence is the head on the hidden state after tokens 0 to 4, and nothing later.
    output = policy.model(input_ids=batch.input_ids[:1, :5], output_hidden_states=True)
    torch.testing.assert_close(values[0, 5], critic.head(output.hidden_states[-1][0, -1])[0], atol=1e-5, rtol=1e-5)


def test_head_and_backbone_get_gradients(llama: Policy) -> None:
    reward_model = RewardModel(llama, seed=0)
    reward_model(collate(SEQUENCES, pad_id=0)).sum().backward()
    assert reward_model.head.weight.grad.abs().sum() > 0
    assert llama.model.get_input_embeddings().weight.grad.abs().sum() > 0
