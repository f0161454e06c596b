"""A reward model learns what was preferred, on prompts it has not seen, and keeps its scores on disk."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.batching import collate
from rlhf.chat import Chat
from rlhf.comparisons import Comparisons
from rlhf.models import RewardModel, new_policy
from rlhf.optimizer import OptimizerSettings
from rlhf.reward_training import fit_reward_model, normalise_on

CHAT = Chat.from_words(["a", "b", "c", "d", "good", "bad"])


def comparisons(first: str) -> Comparisons:
    """`good` beats `bad` beats nothing."""
    prompt = CHAT.encode_prompt([{"role": "user", "content": f"{first} b"}])
    completions = [CHAT.encode_completion(text) for text in (f"{first} good", f"bad {first}", first)]
    return Comparisons(first, prompt, completions, [(0, 1), (0, 2), (1, 2)])


def score(model: RewardModel, one: Comparisons) -> list[float]:
    rows = [([*one.prompt_ids, *ids], [False] * len(one.prompt_ids) + [True] * len(ids)) for ids in one.completions]
    with torch.no_grad():
        return model(collate(rows, CHAT.pad_id)).tolist()


def test_learns_an_order_and_keeps_it(tmp_path: Path) -> None:
    policy = new_policy(CHAT, seed=0, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64)
    model = RewardModel(policy, seed=0)
    train = [comparisons(word) for word in ("a", "c", "d") * 8]
    result = fit_reward_model(
        model,
        train,
        epochs=2,
        batch_size=2,
        max_batch_tokens=1024,
        lm_coef=0.5,
        centring=0.0,
        optimizer=OptimizerSettings(lr={"backbone": 1e-3, "heads": 5e-3}),
        seed=0,
        name="reward",
    )
    assert result.steps == 24
    best, middle, worst = score(model, comparisons("b"))
    assert best > middle > worst
    assert any(parameter.abs().max() > 0.01 for parameter in model.token_head[2].parameters())  # both readers learn
    normalise_on(model, [(one.prompt_ids, ids) for one in train for ids in one.completions], 64)
    scores = torch.tensor([score(model, one) for one in train])
    assert abs(scores.mean().item()) < 1e-4
    assert abs(scores.std(correction=0).item() - 1) < 1e-4
    model.save(tmp_path)
    assert score(RewardModel.load(tmp_path), comparisons("b")) == score(model, comparisons("b"))


@pytest.mark.parametrize("max_batch_tokens", [1024, 40])
def test_what_counts_alike_is_pairs_or_prompts(max_batch_tokens: int) -> None:
    """A prompt with three pairs and one with a single pair: the loss by hand, however the step is cut."""
    three = comparisons("a")
    one = Comparisons("c", three.prompt_ids, three.completions[:2], [(0, 1)], [2.0])

    def first_loss(**settings: Any) -> float:
        policy = new_policy(CHAT, seed=0, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64)
        losses: list[float] = []
        fit_reward_model(
            RewardModel(policy, seed=0), [three, one], epochs=1, batch_size=2, max_batch_tokens=max_batch_tokens,
            lm_coef=0.0, centring=0.0, optimizer=OptimizerSettings(lr={"backbone": 1e-3, "heads": 5e-3}), seed=0,
            name="reward", log=lambda figures, _: losses.append(figures["reward/loss"]), **settings,
        )  # fmt: skip
        return losses[0]

    policy = new_policy(CHAT, seed=0, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64)
    rewards = torch.tensor(score(RewardModel(policy, seed=0), three))

    def pair(winner: int, loser: int, margin: float = 0.0) -> float:
        return float(torch.nn.functional.softplus(rewards[loser] - rewards[winner] + margin))

    several = [pair(0, 1), pair(0, 2), pair(1, 2)]
    assert first_loss() == pytest.approx((sum(several) + pair(0, 1)) / 4, abs=1e-5)
    assert first_loss(weigh_by="prompt") == pytest.approx((sum(several) / 3 + pair(0, 1)) / 2, abs=1e-5)
    assert first_loss(margin_coef=0.5) == pytest.approx((sum(several) + pair(0, 1, 1.0)) / 4, abs=1e-5)


def test_at_rate_0_the_heads_learn_to_read_what_stays_as_it_is() -> None:
    policy = new_policy(CHAT, seed=0, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64)
    model = RewardModel(policy, seed=0)
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    still: dict[str, Any] = {
        "epochs": 8, "batch_size": 2, "max_batch_tokens": 1024, "centring": 0.0, "seed": 0, "name": "rm",
        "optimizer": OptimizerSettings(lr={"backbone": 0.0, "heads": 2e-2}, weight_decay=0.1),
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"lm_coef is 0\.5.*rate 0"):
        fit_reward_model(model, [comparisons("a")], lm_coef=0.5, **still)
    fit_reward_model(model, [comparisons(word) for word in ("a", "c") * 8], lm_coef=0.0, **still)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.model.state_dict().items())
    good, bad, nothing = score(model, comparisons("d"))
    assert good > bad > nothing
