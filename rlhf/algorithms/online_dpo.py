"""Online DPO: the best and the worst of what was just sampled, as a preference pair."""

import torch
from torch import Tensor

from rlhf.algorithms.base import Algorithm, Experience, Metrics, Rollouts, experience_of, policy_loss, sequence_kl
from rlhf.losses.policy_gradient import reinforce as log_likelihood


def online_dpo(*, beta: float, fixed_length: int | None = None) -> Algorithm:
    """Online DPO (Guo et al., 2402.04792): one step of DPO on each prompt's best and worst completion.

        h = log π(y_best)/π_ref(y_best) − log π(y_worst)/π_ref(y_worst);  loss −log σ(βh)

    The labeller is whatever the rewards come from, a reward model or a judge. At the policy that sampled, which
    `old_logprobs` belong to, the gradient of this loss is ∓βσ(−βh) ∇log π(y), which is a policy gradient with advantage
    +βσ(−βh) on each token of the best completion, −βσ(−βh) on the worst, and 0 on all others. So the two halves of a
    pair may lie in different micro-batches. It holds for ONE optimiser step a batch. Of equal rewards the first
    completion counts; a group of all equal ones gives 0.
    The step's loss is divided by all P*G completions, so its gradient is 1/G of that of the mean over pairs: AdamW sees
    it by its eps alone, and `max_grad_norm` is a limit G times as wide. β alone holds the policy near the reference:
    kl_coef has no part in it, nor has `fixed_length`.
    Metrics, over the completions of pairs: `dpo_loss` as above, and `dpo_accuracy`, whether log π/π_ref prefers the
    best too, before the step; ties count half.
    Differs from the paper: two completions are picked from group_size ≥ 2 by reward; the paper samples two and asks.
    """

    def prepare(rollouts: Rollouts, kl_coef: float) -> Experience:
        if rollouts.group_size < 2:
            raise ValueError(f"group_size is {rollouts.group_size}: online DPO needs at least 2 completions a prompt")
        rewards = rollouts.rewards.view(-1, rollouts.group_size)  # [P, G]
        logratios = sequence_kl(rollouts).view_as(rewards)  # log π(y)/π_ref(y)
        best, worst = rewards.argmax(dim=1, keepdim=True), rewards.argmin(dim=1, keepdim=True)
        margin = beta * (logratios.gather(1, best) - logratios.gather(1, worst))
        weight = beta * torch.sigmoid(-margin)
        advantages = torch.zeros_like(logratios).scatter_add(1, best, weight).scatter_add(1, worst, -weight)
        return experience_of(rollouts, advantages.flatten(), kl_coef, kl_in="none")

    def surrogate(logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> tuple[Tensor, Metrics]:
        losses, _ = log_likelihood(logprobs, advantages, mask)
        strength = advantages.abs().amax(dim=1) / beta  # σ(−βh)
        strength = strength[strength > 0]
        tie = (strength - 0.5).abs() < 1e-6
        accuracy = torch.where(tie, 0.5, (strength < 0.5).float())
        return losses, {"dpo_loss": -torch.log1p(-strength), "dpo_accuracy": accuracy}

    # `fixed` with L = 1: sums over tokens, as log π(y) is one.
    loss = policy_loss(surrogate, kl_in="none", kl_estimator="k1", aggregation="fixed", fixed_length=1)
    return Algorithm(prepare, loss, "fixed")
