"""What makes one on-policy algorithm: how rewards become advantages, and what loss they go into.

Each is one function of its own knobs, in a file of its own, that returns an `Algorithm`; sampling, scoring and the
optimiser loop are the same for all (`rlhf.online`, `rlhf.trainer`). What they share is in `rlhf.algorithms.base`.

                      advantage                         ratio, clip         averaged by   KL
    reinforce           R − mean of the batch             none                token         reward
    rloo                R − mean of the others            token               token         reward, per completion
    ppo                 GAE with a critic                 token               token         reward, per token
    grpo                (r − mean) / std of the group     token               sequence      loss, k3
    dr_grpo             R − mean of the group             token               fixed length  reward, per completion
    dapo                as grpo, less overlong penalty    token, 0.2 / 0.28   token         none
    gspo                as grpo                           sequence            sequence      loss, k3
    cispo               as grpo                           weight only         token         loss, k3
    reinforce_plus_plus return to go, over the batch      token               token         reward, per token
    online_dpo          ±βσ(−βh) on best and worst        none                sum           β

The column of KL holds defaults; that of averaging those of the configuration.
"""

from collections.abc import Callable, Mapping

from rlhf.algorithms.base import Algorithm, Experience, Rollouts, last_token, rows_of, sequence_kl
from rlhf.algorithms.cispo import cispo
from rlhf.algorithms.dapo import dapo
from rlhf.algorithms.dr_grpo import dr_grpo
from rlhf.algorithms.grpo import grpo
from rlhf.algorithms.gspo import gspo
from rlhf.algorithms.online_dpo import online_dpo
from rlhf.algorithms.ppo import ppo
from rlhf.algorithms.reinforce import reinforce
from rlhf.algorithms.reinforce_plus_plus import reinforce_plus_plus
from rlhf.algorithms.rloo import rloo

ALGORITHMS: Mapping[str, Callable[..., Algorithm]] = {
    "reinforce": reinforce,
    "rloo": rloo,
    "ppo": ppo,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "gspo": gspo,
    "cispo": cispo,
    "reinforce_plus_plus": reinforce_plus_plus,
    "online_dpo": online_dpo,
}

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Experience",
    "Rollouts",
    "cispo",
    "dapo",
    "dr_grpo",
    "grpo",
    "gspo",
    "last_token",
    "online_dpo",
    "ppo",
    "reinforce",
    "reinforce_plus_plus",
    "rloo",
    "rows_of",
    "sequence_kl",
]
