"""The cut of a step into micro-batches changes no gradient, for every trainer of the library.

What is compared is what `fit` holds in `.grad` when it is about to clip, of one step as one micro-batch and as several:
not a copy of the loop, but the loop. In float64, norms too, which transformers computes in float32: so nothing but a
wrong denominator can make a difference. Direct
alignment has the same test beside its stage (tests/tasks/test_dpo.py).
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhf import online, trainer
from rlhf.algorithms import ALGORITHMS, Algorithm, Experience
from rlhf.batching import Batch
from rlhf.chat import Chat
from rlhf.comparisons import Comparisons
from rlhf.models import Policy, RewardModel, ValueModel, logprobs_and_entropy, new_policy, token_logprobs
from rlhf.models.token_rewards import TokenRewardModel
from rlhf.optimizer import OptimizerSettings
from rlhf.ptx import demonstrations_at
from rlhf.reward_training import fit_reward_model
from rlhf.sampler import sample
from rlhf.supervised import fit_supervised
from rlhf.trainer import fit
from rlhf.verification_training import Labelled, fit_token_rewards, process
from tasks.config.params import Algorithms

CHAT = Chat.from_words(["a", "b", "c", "d", ";"])
LR = OptimizerSettings(lr=1e-3)
WIDE = 10_000
"""Tokens that any batch here fits in."""
ANSWERS = ["a", "b c", "c c c d", "d", "a b", "b", "c a d", "d d d d d"]

Run = Callable[[int], None]
"""Trains one step in micro-batches of at most so many tokens."""


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run, int], tuple[int, Tensor]]:
    """Number of micro-batches and all gradients of the first step of a run."""
    steps: list[tuple[int, list[Tensor]]] = []
    accumulate, clip = trainer._accumulate, trainer.clip

    def counted(batch: Any, *given: Any) -> dict[str, float]:
        steps.append((len(batch.micro_batches), []))
        return accumulate(batch, *given)

    def recorded(module: nn.Module, limit: float) -> float:
        steps[-1][1].extend(p.grad.flatten().clone() for p in module.parameters() if p.grad is not None)
        return clip(module, limit)

    monkeypatch.setattr(trainer, "_accumulate", counted)
    monkeypatch.setattr(trainer, "clip", recorded)

    def of(run: Run, max_tokens: int) -> tuple[int, Tensor]:
        steps.clear()
        run(max_tokens)
        return steps[0][0], torch.cat(steps[0][1])

    return of


def check(gradients: Callable[[Run, int], tuple[int, Tensor]], run: Run, narrow: int) -> None:
    one, whole = gradients(run, WIDE)
    several, parts = gradients(run, narrow)
    assert one == 1 and several >= 4
    assert whole.norm() > 1e-6
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


def policy() -> Policy:
    made = new_policy(
        CHAT, 0, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=24, max_tokens=48, init_std=0.3
    )
    made.model.double()
    for part in list(made.model.modules()):
        for name, norm in part.named_children():
            if type(norm).__name__ == "LlamaRMSNorm":
                part.register_module(name, nn.RMSNorm(16, eps=norm.variance_epsilon, dtype=torch.float64))
    return made


def conversations() -> list[tuple[list[int], list[bool]]]:
    asked = ["a", "b b b", "c d", "d", "a b c d", "b", "c", "d d"]
    return [
        CHAT.encode_conversation([{"role": "user", "content": one}, {"role": "assistant", "content": other}])
        for one, other in zip(asked, ANSWERS, strict=True)
    ]


def test_supervised(gradients: Any) -> None:
    def run(max_tokens: int) -> None:
        fit_supervised(
            policy(),
            conversations(),
            epochs=1,
            batch_size=8,
            max_batch_tokens=max_tokens,
            optimizer=LR,
            seed=0,
            name="t",
        )

    check(gradients, run, 24)


@pytest.mark.parametrize("weigh_by", ["pair", "prompt"])
def test_reward_model(gradients: Any, weigh_by: Any) -> None:
    prompts = [
        Comparisons(
            word, CHAT.encode_prompt([{"role": "user", "content": word}]), list(map(CHAT.encode_completion, answers)),
            [(0, other) for other in range(1, len(answers))], [float(other) for other in range(1, len(answers))],
        )
        for word, answers in (("a", ANSWERS[:4]), ("b", ANSWERS[3:5]), ("c d", ANSWERS[5:8]), ("d", ANSWERS[2:4]))
    ]  # fmt: skip

    def run(max_tokens: int) -> None:
        fit_reward_model(
            RewardModel(policy(), 0).double(), prompts, epochs=1, batch_size=4, max_batch_tokens=max_tokens,
            lm_coef=0.5, centring=0.1, margin_coef=0.3, weigh_by=weigh_by, seed=0, name="t",
            optimizer=OptimizerSettings(lr={"backbone": 1e-3, "heads": 1e-3}),
        )  # fmt: skip

    check(gradients, run, 40)


@pytest.mark.parametrize(
    ("separator", "classes", "form"), [(None, 1, "token"), (None, 1, "sequence"), (";", 1, "token"), (";", 3, "token")]
)
def test_outcome_and_process_models(gradients: Any, separator: str | None, classes: int, form: Any) -> None:
    def run(max_tokens: int) -> None:
        model = TokenRewardModel(policy(), 0, separator, classes).double()
        prompt = CHAT.encode_prompt([{"role": "user", "content": "a b"}])
        rows = [Labelled(prompt, CHAT.encode_completion(text), [place % 2]) for place, text in enumerate(ANSWERS)]
        if separator is not None:
            rows = [
                process(model, {"messages": [{"role": "user", "content": "a b"}], "steps": texts, "ratings": ratings})
                for texts, ratings in (
                    (ANSWERS[place : place + count], [1, 0, 1][:count])
                    for place, count in enumerate([1, 3, 2, 1, 2, 3])
                )
            ]
        fit_token_rewards(
            model, rows, form=form, epochs=1, batch_size=8, max_batch_tokens=max_tokens,
            optimizer=OptimizerSettings(lr={"backbone": 1e-3, "head": 1e-3}), seed=0, name="t",
        )  # fmt: skip

    check(gradients, run, 24)


# name, aggregation, where KL goes
ON_POLICY = [
    (name, aggregation, kl_in)
    for name in ALGORITHMS
    for aggregation, kl_in in (("sequence", "loss"), ("token", "loss"), ("fixed", "reward"))
    if name != "online_dpo" or aggregation == "fixed"
]


def build(name: str, **knobs: Any) -> Algorithm:
    """With the knobs of the configuration, but for those given that it has."""
    known = getattr(Algorithms(), name).knobs()
    return ALGORITHMS[name](**known | {key: value for key, value in knobs.items() if key in known}, fixed_length=6)


@pytest.mark.parametrize(("name", "aggregation", "kl_in"), ON_POLICY)
def test_on_policy(gradients: Any, name: str, aggregation: str, kl_in: str) -> None:
    """At ratios that are not 1, some beyond the clip: the policy has moved a little since the rollouts."""
    algorithm = build(name, aggregation=aggregation, kl_in=kl_in, clip_low=0.01, clip_high=0.02)
    reference = policy()
    prompts = [CHAT.encode_prompt([{"role": "user", "content": text}]) for text in ("a", "b c d")]
    completions = sample(reference, prompts, max_new_tokens=6, temperature=1.0, group_size=4, seed=3)
    assert len({len(one.ids) for one in completions}) > 2

    def run(max_tokens: int) -> None:
        learner, critic = policy(), ValueModel(policy().model).double() if algorithm.critic else None
        with torch.no_grad():
            for parameter in learner.model.parameters():
                parameter.mul_(1.003)
            if critic is not None:
                critic.head.weight.add_(0.1)
        experience = _experience(algorithm, reference, prompts, completions, critic)
        fit(
            {"policy": learner.model} | ({"value": critic} if critic else {}),
            steps=1,
            batch_at=online.step_batches(lambda update: (experience, {}), algorithm, 1, max_tokens),
            loss=online.loss_of(algorithm, lambda batch: logprobs_and_entropy(learner.model, batch), critic),
            optimizer=LR,
            seed=0,
            name="t",
        )

    check(gradients, run, 20)


def _experience(algorithm: Algorithm, reference: Policy, prompts: Any, completions: Any, critic: Any) -> Experience:
    def other(batch: Batch) -> Tensor:
        return token_logprobs(reference.model, batch, temperature=1.5)

    rollouts = online.collect(
        prompts, completions, rewards=torch.arange(8.0).double() % 3, reference=other, critic=critic, group_size=4,
        pad_id=CHAT.pad_id, max_tokens=WIDE,
    )  # fmt: skip
    return algorithm.prepare(rollouts, 0.1)


def test_demonstrations_beside_rollouts(gradients: Any) -> None:
    """PPO-ptx: two losses in one step, each with its own denominator."""
    algorithm, reference = build("rloo"), policy()
    prompts = [CHAT.encode_prompt([{"role": "user", "content": text}]) for text in ("a", "b c d")]
    completions = sample(reference, prompts, max_new_tokens=6, temperature=1.0, group_size=4, seed=3)

    def run(max_tokens: int) -> None:
        learner = policy()
        experience = _experience(algorithm, reference, prompts, completions, None)
        ptx = demonstrations_at(
            conversations(), ptx_coef=0.5, batch_size=8, pad_id=CHAT.pad_id, max_tokens=max_tokens, seed=0
        )
        fit(
            {"policy": learner.model}, steps=1, optimizer=LR, seed=0, name="t",
            batch_at=online.step_batches(lambda update: (experience, {}), algorithm, 1, max_tokens, ptx),
            loss=online.loss_of(
                algorithm, lambda batch: logprobs_and_entropy(learner.model, batch), None,
                lambda batch: token_logprobs(learner.model, batch),
            ),
        )  # fmt: skip

    one, whole = gradients(run, WIDE)
    several, parts = gradients(run, 20)
    assert one == 2 and several >= 8
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)
