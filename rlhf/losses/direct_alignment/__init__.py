"""Losses that learn from preferences without a reward model, one file a method.

All read the same few numbers of a completion y to a prompt x: log π(y|x) of the policy and, where the method has one,
of the frozen reference, both SUMMED over the completion's tokens (stop token included, prompt not), and its length |y|
in tokens. From these each makes one loss a pair (KTO: a completion) and metrics under common names:

* `chosen_reward`, `rejected_reward`  what the method compares sides by: its implicit reward r̂, scaled as in its loss
* `margin`        r̂_c − r̂_r
* `accuracy`      1 where the chosen side is ahead, ½ where they tie (a policy that is its own reference gets ½)
* `displacement`  log π/π_ref of chosen; below 0 the chosen completions became LESS likely too. Only with a reference.

| method   | r̂                      | loss                                  | reference |
|----------|------------------------|---------------------------------------|-----------|
| dpo      | β log π/π_ref          | −log σ(r̂_c − r̂_r)                     | yes       |
| cdpo     | β log π/π_ref          | the same, for labels wrong at times   | yes       |
| ipo      | β log π/π_ref          | ((r̂_c − r̂_r − ½)/β)²                  | yes       |
| kto      | β log π/π_ref          | 1 − σ(±(r̂ − βz)), no pairs            | yes       |
| dpo_norm | β log π/π_ref / |y|    | −log σ(r̂_c − r̂_r)                     | yes       |
| dpo_nll  | β log π/π_ref          | −log σ(r̂_c − r̂_r) + α NLL of chosen   | yes       |
| simpo    | β log π / |y|          | −log σ(r̂_c − r̂_r − γ)                 | no        |
| orpo     | log odds of a token    | NLL of chosen − λ log σ(r̂_c − r̂_r)    | no        |
"""

from rlhf.losses.direct_alignment.cdpo import cdpo
from rlhf.losses.direct_alignment.dpo import dpo
from rlhf.losses.direct_alignment.dpo_nll import dpo_nll
from rlhf.losses.direct_alignment.dpo_norm import dpo_norm
from rlhf.losses.direct_alignment.ipo import ipo
from rlhf.losses.direct_alignment.kto import kto, kto_baseline
from rlhf.losses.direct_alignment.orpo import orpo
from rlhf.losses.direct_alignment.simpo import simpo

__all__ = ["cdpo", "dpo", "dpo_nll", "dpo_norm", "ipo", "kto", "kto_baseline", "orpo", "simpo"]
