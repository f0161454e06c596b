"""What is compared: method by method with the same knobs on both sides, first as shipped, then with a choice taken out.

Standard library only, as both environments read it. A case that `differs` must say why, and a later case of the same
method, with that choice `changed`, must agree: the explanation is measured, not believed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    method: str
    batch: str
    """Key of batches.json."""
    knobs: Mapping[str, Any]
    """Hyperparameters by TRL's names, the same on both sides."""
    changed: str = ""
    """The choice that was taken out, as the table says it; empty for the code as shipped. Data take it out, or …"""
    config: Mapping[str, Any] = field(default_factory=dict)
    """… settings of TRL's trainer, or …"""
    patches: tuple[str, ...] = ()
    """… functions of TRL that are replaced: names in `theirs.PATCHES`."""
    on_policy: bool = False
    """Whether the rollouts are those of the trained policy itself, so that no ratio differs from 1."""
    gradient_only: bool = False
    """Whether the losses are different numbers with the same gradient."""
    differs: str = ""
    """Why the two are not equal; empty where they must be."""

    @property
    def name(self) -> str:
        """File stem of its results."""
        slug = "".join(letter if letter.isalnum() else "-" for letter in f"{self.method} {self.changed}".lower())
        return slug.strip("-")


KNOBS: Mapping[str, Mapping[str, Any]] = {
    "SFT": {},
    "Reward": {"center_rewards_coefficient": 0.01},
    "DPO": {"beta": 0.3},
    "DPO norm": {"beta": 3.0},
    "DPO + NLL": {"beta": 0.3, "loss_weights": [1.0, 0.2]},
    "IPO": {"beta": 0.3},
    "KTO": {"beta": 0.3, "desirable_weight": 1.0, "undesirable_weight": 1.5},
    "ORPO": {"beta": 0.3},
    "SimPO": {"beta": 2.0, "simpo_gamma": 0.7},
    "GRPO": {"beta": 0.05, "epsilon": 0.2},
    "Dr. GRPO": {"beta": 0.0, "epsilon": 0.2},
    "DAPO": {"beta": 0.0, "epsilon": 0.2, "epsilon_high": 0.28},
    "GSPO": {"beta": 0.0, "epsilon": 0.05, "epsilon_high": 0.08},
    "CISPO": {"beta": 0.0, "epsilon_high": 1.2},
    "RLOO": {"beta": 0.05, "epsilon": 0.2},
    "PPO": {"kl_coef": 0.05, "cliprange": 0.2, "cliprange_value": 0.1, "vf_coef": 1.0, "gamma": 1.0, "lam": 0.95},
}
"""Clip ranges that some ratios leave on either side, and a leash."""


def case(method: str, batch: str, **more: Any) -> Case:
    return Case(method, batch, KNOBS[method], **more)


NLL_MEAN = "TRL's supervised term is the mean over all tokens of the batch, ours that of each completion"
GROUP_STD = "TRL divides by the sample std of the group (n − 1), we by the population std (n)"
OVER_N: dict[str, Any] = {"changed": "TRL's group std over n", "patches": ("population_group_std",)}

CASES = [
    case("SFT", "pairs"),
    case("Reward", "pairs"),
    case("DPO", "pairs"),
    case("DPO norm", "pairs"),
    case("DPO + NLL", "pairs", differs=NLL_MEAN),
    case("DPO + NLL", "bare_pairs", changed="chosen completions of one length"),
    case("IPO", "pairs", differs="TRL compares log-ratios a token, we those of whole completions"),
    case("IPO", "one_token_pairs", changed="completions of one token"),
    case("KTO", "unpaired", differs="for the baseline z each prompt is given another's completion: not the same other"),
    case("KTO", "unpaired", changed="our mismatched completions on both sides"),
    case("ORPO", "pairs", differs=f"{NLL_MEAN}; and TRL trains prompts too"),
    case("ORPO", "bare_pairs", changed="prompts of one token, chosen completions of one length"),
    case("SimPO", "pairs"),
    case("GRPO", "ragged", differs=f"{GROUP_STD}; and it multiplies the KL estimate by the ratio"),
    case(
        "GRPO",
        "ragged",
        changed="TRL's group std over n, use_bias_correction_kl off",
        patches=("population_group_std",),
        config={"use_bias_correction_kl": False},
    ),
    case("Dr. GRPO", "ragged"),
    case("DAPO", "ragged", differs=GROUP_STD),
    case("DAPO", "ragged", **OVER_N),
    case("GSPO", "ragged", differs=GROUP_STD),
    case("GSPO", "ragged", **OVER_N),
    case("CISPO", "ragged", differs=GROUP_STD),
    case("CISPO", "ragged", **OVER_N),
    case("RLOO", "ragged", differs="TRL clips one ratio a completion, we one a token"),
    case("RLOO", "ragged", changed="rollouts of the policy itself", on_policy=True, gradient_only=True),
    case("RLOO", "one_token", changed="completions of one token"),
    case("PPO", "ragged", differs="TRL pays the reward behind the stop token, and whitens by n − 1 and not n"),
    case(
        "PPO",
        "one_length",
        changed="completions that fill the width, TRL's whitening over n",
        patches=("population_whitening",),
    ),
]
