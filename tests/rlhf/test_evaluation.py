"""Laws of an examination: KL against exact sums, best-of-n against means, equal policies as equals."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlhf.answers import Answers, Drawing
from rlhf.chat import Chat
from rlhf.errors import PreflowError
from rlhf.evaluation import Exam, answer, best_of_n_curve, forgetting, mark, rewards, selection_score
from rlhf.models import Policy, RewardModel, new_policy

WORDS = ["red", "blue", "green", "one", "two", "three"]
SMALL = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32}
QUESTIONS = [
    {"id": str(number), "messages": [{"role": "user", "content": text}]}
    for number, text in enumerate(["red", "blue one", "two"])
]
STABLE = [[{"role": "user", "content": "red"}, {"role": "assistant", "content": text}] for text in ("one", "two two")]


def tiny(seed: int) -> Policy:
    return new_policy(Chat.from_words(WORDS), seed, init_std=0.3, **SMALL)


def exam(**changes: int) -> Exam:
    settings = {"group_size": 4, "max_new_tokens": 8, "batch_size": 4096, "seed": 1}
    return Exam(
        questions=QUESTIONS,
        stable=STABLE,
        drawing=Drawing(temperature=1.0, **{**settings, **changes}),
        reference=tiny(0),
        policy_rm=RewardModel(tiny(2), seed=2),
        held_out_rm=RewardModel(tiny(3), seed=3),
        unfinished_reward=-2.0,
        max_batch_tokens=4096,
    )


def rewarded(given: Exam, reward_model: RewardModel | None, answers: Answers) -> np.ndarray:
    found = rewards(given, reward_model, answers)
    assert found is not None
    return found


def test_kl_of_the_reference_to_itself_is_zero() -> None:
    given = exam()
    marks = mark(given, *answer(given, tiny(0)))
    assert marks["kl"] is not None
    np.testing.assert_allclose(marks["kl"], 0.0, atol=1e-4)


def test_mean_kl_is_the_exact_divergence_in_the_right_direction() -> None:
    """One token a completion, so that KL(π ‖ SFT) is a sum over the vocabulary."""
    given = exam(group_size=6000, max_new_tokens=1)
    policy = tiny(1)
    marks = mark(given, *answer(given, policy))
    assert marks["kl"] is not None
    for prompt, estimates in zip(given.prompts(), marks["kl"], strict=True):
        with torch.no_grad():
            ours = policy.model(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1)
            theirs = given.reference.model(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1)
        forward = (ours.exp() * (ours - theirs)).sum().item()
        error = 5 * estimates.std() / np.sqrt(len(estimates))
        assert estimates.mean() == pytest.approx(forward, abs=error)
        assert forward > error  # so that the sign is not in doubt


def test_equal_policies_give_equal_answers() -> None:
    given = exam()
    assert answer(given, tiny(1)) == answer(given, tiny(1))
    assert answer(given, tiny(1)) != answer(replace(given, drawing=replace(given.drawing, seed=9)), tiny(1))


def test_without_gold_the_held_out_reward_selects() -> None:
    given = exam()
    scores = selection_score(given, tiny(1))
    answers, _ = answer(given, tiny(1))
    assert given.judge() == "held_out_rm"
    np.testing.assert_allclose(scores, rewarded(given, given.held_out_rm, answers).mean(axis=1))
    assert mark(given, answers, answers)["gold_reward"] is None


def test_with_gold_gold_selects() -> None:
    meta = {"kind": "greet", "args": {"name": "anna", "time": "evening", "place": "beach"}}
    given = exam().about([{**row, "meta": meta} for row in QUESTIONS])
    scores = selection_score(given, tiny(1))
    assert given.judge() == "gold"
    assert scores.shape == (3,) and ((scores >= 0) & (scores <= 1)).all()


def test_best_of_one_is_the_mean_and_the_proxy_rises_with_n() -> None:
    given = exam(group_size=1, max_new_tokens=6)
    curve = best_of_n_curve(given, [4, 1, 2], seed=0, samples=200)
    assert [point["n"] for point in curve] == [1, 2, 4]
    assert curve[0]["kl_bound"] == 0.0
    four = replace(given, drawing=replace(given.drawing, group_size=4))
    answers, _ = answer(four, given.reference)
    assert curve[0]["reward"]["mean"] == pytest.approx(rewarded(given, given.policy_rm, answers).mean())
    assert curve[0]["reward"]["mean"] < curve[1]["reward"]["mean"] < curve[2]["reward"]["mean"]
    best = rewarded(given, given.policy_rm, answers).max(axis=1).mean()
    assert curve[2]["reward"]["mean"] == pytest.approx(best)


def test_without_reward_models_their_figures_are_none_and_gold_alone_can_judge() -> None:
    bare = replace(exam(), policy_rm=None, held_out_rm=None)
    marks = mark(bare, *answer(bare, tiny(1)))
    assert marks["reward"] is None and marks["held_out_reward"] is None and marks["kl"] is not None
    assert best_of_n_curve(bare, [1, 2], seed=0, samples=200) == []
    with pytest.raises(PreflowError, match=r"nobody can judge answers to these 3 prompts.*--held-out-rm"):
        bare.judge()
    meta = {"kind": "greet", "args": {"name": "anna", "time": "evening", "place": "beach"}}
    assert bare.about([{**row, "meta": meta} for row in QUESTIONS]).judge() == "gold"


def test_forgetting_is_one_number_a_demonstration() -> None:
    assert forgetting(exam(), tiny(0)).shape == (2,)
