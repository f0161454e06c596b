"""One examination for all policies: the same prompts, settings and random numbers, the same scorers.

P prompts, G completions a prompt. Values of a metric are arrays [P, G] or [P], as `rlhf.comparison` takes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rlhf.answers import (
    Answers,
    Drawing,
    answer_golds,
    answer_logprobs,
    answer_rewards,
    demonstration_nll,
    draw,
    knows_gold,
    lengths,
    stop_rates,
)
from rlhf.chat import Chat, Message
from rlhf.comparison import by_prompt, interval
from rlhf.errors import PreflowError
from rlhf.models import Policy
from rlhf.rewards import Asked, Score
from rlhf.sampler import Completion
from rlhf.scoring import Scorer
from rlhf.selection import best_of_n, best_of_n_kl

Values: TypeAlias = NDArray[np.float64] | None


@dataclass(frozen=True, kw_only=True)
class Exam:
    """Questions, settings and scorers."""

    questions: Sequence[Mapping[str, Any]]
    """Rows with `messages` and `meta`, P of them."""
    stable: Sequence[Sequence[Message]]
    """Held-out demonstrations; their NLL shows what a policy forgot."""
    drawing: Drawing
    reference: Policy
    """What KL is measured against: the SFT policy."""
    policy_rm: Scorer | None
    """The reward that was optimised; None where none was."""
    held_out_rm: Scorer | None
    """A second reward that never was; None where there is none."""
    unfinished_reward: float
    max_batch_tokens: int
    rules: Score | None = None
    """Rewards that are rules (a verifier, sentiment, …); None where the run has none."""

    @property
    def chat(self) -> Chat:
        """How questions become token ids."""
        return self.reference.chat

    def prompts(self) -> list[list[int]]:
        """Token ids of the questions."""
        return [self.chat.encode_prompt(row["messages"]) for row in self.questions]

    def metas(self) -> list[Mapping[str, Any]]:
        """What the gold reward knows of each question; empty where it knows nothing."""
        return [row.get("meta") or {} for row in self.questions]

    def judge(self) -> str:
        """Who decides which answer is better: the gold reward where it is known, else the held-out reward model, else
        rules.

        Raises PreflowError where there is none of them.
        """
        if knows_gold(self.metas()):
            return "gold"
        if self.held_out_rm is not None:
            return "held_out_rm"
        if self.rules is not None:
            return "rules"
        raise PreflowError(
            f"nobody can judge answers to these {len(self.questions)} prompts: their gold reward is unknown and there "
            "is no held-out reward model; train one (stage reward_model) and give it with --held-out-rm, or name the "
            "rules that answers are held to (evaluate.rewards)"
        )

    def about(self, questions: Sequence[Mapping[str, Any]]) -> "Exam":
        """The same examination on other questions."""
        return replace(self, questions=questions)


def answer(exam: Exam, policy: Policy) -> tuple[Answers, Answers]:
    """The policy's sampled answers [P, G] and its greedy ones [P, 1]."""
    prompts = exam.prompts()
    return draw(policy, prompts, exam.drawing), draw(policy, prompts, exam.drawing.greedy())


def mark(exam: Exam, answers: Answers, greedy: Answers) -> dict[str, Values]:
    """Every metric that the answers alone decide, [P, G] each.

    kl is the k1 estimate, log π(y) − log π_sft(y) for y drawn from π, nats a completion; its mean is KL(π ‖ SFT).
    answer_nll is −log π_sft(y) in nats a token: how fluent the answer is to a model that was not optimised.
    """
    prompts, metas = exam.prompts(), exam.metas()
    own = np.array([[one.logprob for one in group] for group in answers])
    reference = answer_logprobs(
        exam.reference,
        prompts,
        answers,
        temperature=exam.drawing.temperature,
        max_batch_tokens=exam.max_batch_tokens,
    )
    return {
        "gold_reward": answer_golds(metas, answers),
        "reward": rewards(exam, exam.policy_rm, answers),
        "held_out_reward": rewards(exam, exam.held_out_rm, answers),
        "kl": own - reference,
        "length": lengths(answers),
        "stop_rate": stop_rates(answers),
        "greedy_gold_reward": answer_golds(metas, greedy),
        "rule_reward": rule_rewards(exam, answers),
        "answer_nll": -reference / lengths(answers),
    }


def forgetting(exam: Exam, policy: Policy) -> Values:
    """NLL of the stable demonstrations, nats a token; one value each. None without any."""
    return demonstration_nll(policy, exam.stable, exam.max_batch_tokens) if exam.stable else None


def rule_rewards(exam: Exam, answers: Answers) -> Values:
    """What the rules make of the answers, [P, G]; None without rules."""
    if exam.rules is None:
        return None
    asked = [Asked.from_row(dict(row), ids) for row, ids in zip(exam.questions, exam.prompts(), strict=True)]
    completions = [
        Completion(index, list(one.ids), [], "stop" if one.stopped else "length")
        for index, group in enumerate(answers)
        for one in group
    ]
    return np.array(exam.rules(asked, completions).total.tolist()).reshape(len(answers), -1)


def rewards(exam: Exam, reward_model: Scorer | None, answers: Answers) -> Values:
    """Normalised rewards of the answers, [P, G]; None without a reward model."""
    if reward_model is None:
        return None
    return answer_rewards(
        reward_model,
        exam.prompts(),
        answers,
        unfinished_reward=exam.unfinished_reward,
        max_batch_tokens=exam.max_batch_tokens,
    )


def selection_score(exam: Exam, policy: Policy) -> NDArray[np.float64]:
    """One score a prompt [P] to choose between policies, by the judge of the examination."""
    answers = draw(policy, exam.prompts(), exam.drawing)
    judged = {
        "gold": lambda: answer_golds(exam.metas(), answers),
        "held_out_rm": lambda: rewards(exam, exam.held_out_rm, answers),
        "rules": lambda: rule_rewards(exam, answers),
    }
    return by_prompt(judged[exam.judge()]())


def best_of_n_curve(exam: Exam, sizes: Sequence[int], seed: int, samples: int) -> list[dict[str, Any]]:
    """What picking the favourite of `policy_rm` among n answers of the reference gives, for each n, with intervals.

    The proxy rises with n by construction; where gold stops rising, the proxy has been spent. The KL of best-of-n is
    at most log n − (n − 1)/n. Null is what nobody can tell. Without `policy_rm` there is no favourite, and the curve is
    empty.
    """
    if exam.policy_rm is None:
        return []
    answers = draw(exam.reference, exam.prompts(), replace(exam.drawing, group_size=max(sizes)))
    proxy, golds = rewards(exam, exam.policy_rm, answers), answer_golds(exam.metas(), answers)
    assert proxy is not None
    shown: dict[str, Values] = {
        "gold_reward": golds,
        "reward": proxy,
        "held_out_reward": rewards(exam, exam.held_out_rm, answers),
        "rule_reward": rule_rewards(exam, answers),
        "length": lengths(answers),
    }
    curve: list[dict[str, Any]] = []
    for n in sorted(sizes):
        point: dict[str, Any] = {"n": n, "kl_bound": best_of_n_kl(n)}
        for name, values in shown.items():
            expected = None if values is None else best_of_n(proxy, values, n)
            point[name] = interval(expected, seed, samples)
        curve.append(point)
    return curve
