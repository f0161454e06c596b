"""Every on-policy way of learning that is held to its fixed point: the algorithm's knobs, and what they amount to."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor

from rlhf.algorithms import ALGORITHMS, Algorithm
from tests.golden.fixed_points import Credit, Kl, centred_of_two, fixed_point, of_two, plain, standardised
from tests.golden.language import LANGUAGES, Language, tilted, total_variation
from tests.golden.training import Draw, in_labelled_pairs, in_one_group, in_pairs

BETA = 0.3
SPREAD_BETA = 2.0
"""Where rewards are divided by their spread: in units of that, so larger. See `COLLAPSED`."""

CLIP = {"clip_low": 0.2, "clip_high": 0.2}
PPO = {"gamma": 1.0, "whiten": True, "value_clip": 0.5, "aggregation": "token", **CLIP}
DAPO = {"dynamic_sampling": True, "overlong_penalty": 0.0, "overlong_share": 0.2, "aggregation": "token", **CLIP}
SEQUENCE, TOKEN = {"aggregation": "sequence", **CLIP}, {"aggregation": "token", **CLIP}
FIXED = {"aggregation": "fixed", "fixed_length": 2}


def _loss(estimator: str) -> dict[str, str]:
    return {"kl_in": "loss", "kl_estimator": estimator}


def _reward(estimator: str) -> dict[str, str]:
    return {"kl_in": "reward", "kl_estimator": estimator}


@dataclass(frozen=True, eq=False)
class Method:
    """One row of docs/proofs.md."""

    about: str
    algorithm: str
    knobs: dict[str, Any]
    kl: Kl
    """What theory is to assume."""
    credit: Credit = plain
    beta: float = BETA
    draw: Callable[[Language], Draw] = in_one_group
    inner_steps: int = 1
    updates: int = 60
    lr: float = 0.2

    def make(self) -> Algorithm:
        return ALGORITHMS[self.algorithm](**self.knobs)


ON_TARGET = (
    Method("reinforce", "reinforce", {"normalise": False, **FIXED, **_reward("k1")}, "reward"),
    Method("rloo, groups of 2", "rloo", {"normalise": False, **SEQUENCE, **_reward("k1")}, "reward", draw=in_pairs),
    Method(
        "rloo, normalised, 2 inner steps",
        "rloo",
        {"normalise": True, **TOKEN, **_reward("k1")},
        "reward",
        inner_steps=2,
    ),
    Method("ppo, λ = 1", "ppo", {"gae_lambda": 1.0, **PPO, **_reward("k1")}, "reward"),
    Method("ppo, λ = 0.5, 2 inner steps", "ppo", {"gae_lambda": 0.5, **PPO, **_reward("k1")}, "reward", inner_steps=2),
    Method("dr_grpo, groups of 2", "dr_grpo", {**FIXED, **CLIP, **_reward("k1")}, "reward", draw=in_pairs),
    Method("reinforce_plus_plus", "reinforce_plus_plus", {**TOKEN, **_reward("k1")}, "reward"),
    Method("grpo, KL in the reward", "grpo", {**SEQUENCE, **_reward("k1")}, "reward"),
    Method(
        "online_dpo, Bradley-Terry labels",
        "online_dpo",
        {"beta": BETA},
        "reward",
        draw=in_labelled_pairs,
        updates=70,
        lr=0.1,
    ),
)
"""KL in the reward (k1), or a pair's labels: the tilted policy, whatever the length of a sentence."""

ELSEWHERE = (
    Method("reinforce, k2 in the loss", "reinforce", {"normalise": False, **FIXED, **_loss("k2")}, "k2"),
    Method("rloo, k2 in the loss", "rloo", {"normalise": False, **SEQUENCE, **_loss("k2")}, "k2"),
    Method("ppo, k2 in the loss", "ppo", {"gae_lambda": 1.0, **PPO, "whiten": False, **_loss("k2")}, "k2"),
    Method("dr_grpo, k2 in the loss", "dr_grpo", {**FIXED, **CLIP, **_loss("k2")}, "k2"),
    Method(
        "dr_grpo, k2 in the loss, groups of 2",
        "dr_grpo",
        {**FIXED, **CLIP, **_loss("k2")},
        "k2",
        centred_of_two,
        draw=in_pairs,
    ),
    Method("rloo, k3 in the loss", "rloo", {"normalise": False, **SEQUENCE, **_loss("k3")}, "k3"),
    Method("ppo, k3 in the loss", "ppo", {"gae_lambda": 1.0, **PPO, "whiten": False, **_loss("k3")}, "k3"),
    Method("grpo, k3 in the loss", "grpo", {**SEQUENCE, **_loss("k3")}, "k3", standardised, SPREAD_BETA),
    Method(
        "grpo, k3 in the loss, groups of 2", "grpo", {**SEQUENCE, **_loss("k3")}, "k3", of_two, SPREAD_BETA, in_pairs
    ),
    Method("grpo, k2 in the loss", "grpo", {**SEQUENCE, **_loss("k2")}, "k2", standardised, SPREAD_BETA),
    Method("gspo, k3 in the loss", "gspo", {**SEQUENCE, **_loss("k3")}, "k3", standardised, SPREAD_BETA),
    Method("cispo, k3 in the loss", "cispo", {**TOKEN, **_loss("k3")}, "k3", standardised, SPREAD_BETA),
)
"""Fixed points of their own: each token answers for its own KL only, another divergence, or a spread."""

UNLEASHED = (
    Method("rloo, k1 in the loss", "rloo", {"normalise": False, **SEQUENCE, **_loss("k1")}, "k1"),
    Method("grpo, k1 in the loss", "grpo", {**SEQUENCE, **_loss("k1")}, "k1", standardised, SPREAD_BETA),
    Method("dapo, no KL", "dapo", DAPO, "none", standardised, SPREAD_BETA),
    Method("grpo, k2 in the loss, β = 0.5", "grpo", {**SEQUENCE, **_loss("k2")}, "k2", standardised, 0.5),
)
"""Nothing holds: one sentence alone remains; the best one in theory, while a sampler may lose that on the way."""

BACKWARDS = tuple(
    Method(f"rloo, {estimator} in the reward", "rloo", {"normalise": False, **SEQUENCE, **_reward(estimator)}, "none")
    for estimator in ("k2", "k3")
)
"""These values grow on both sides of the reference. In the reward they charge a sentence for having become rarer, which
makes it rarer still; their own gradient, which would pull it back, is not taken."""


@cache
def theory(method: Method, language: str) -> Tensor:
    """Where the exact expected gradient ends, by name of the language."""
    return fixed_point(LANGUAGES[language], method.beta, method.kl, method.credit)


def from_target(method: Method, language: str) -> float:
    """Total variation between that and π*."""
    return total_variation(theory(method, language), tilted(LANGUAGES[language], method.beta))
