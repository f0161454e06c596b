"""How much better a completion or token was than expected.

P prompts, G completions a prompt (prompt-major: row p*G + g of a batch is completion g of prompt p), B = P*G, T tokens.
Standard deviations are POPULATION ones (divided by the count; not PyTorch's default).
"""

import torch
from torch import Tensor

from rlhf.masks import kept


def centred(rewards: Tensor) -> Tensor:
    """A_k = R_k − mean of the G rewards of the prompt. [P, G] -> [P, G]. Exactly 0 where all are equal.

    The mean is taken of differences to the first reward: that of G equal numbers may miss them by a rounding error,
    which a later division by a spread of about 0 would blow up.
    """
    differences = rewards - rewards[:, :1]
    return differences - differences.mean(dim=1, keepdim=True)


def leave_one_out(rewards: Tensor) -> Tensor:
    """A_k = R_k − mean of the other G−1 rewards of the prompt. [P, G] -> [P, G]. RLOO (Ahmadian et al., 2402.14740).

    Computed as G/(G−1) · (R_k − mean of all G), which is the same. Raises ValueError where G < 2.
    """
    group_size = rewards.shape[1]
    if group_size < 2:
        raise ValueError(f"group_size is {group_size}: leaving one out needs at least 2 completions a prompt")
    return centred(rewards) * group_size / (group_size - 1)


def group_normalised(rewards: Tensor, eps: float = 1e-4) -> Tensor:
    """A_k = (R_k − mean) / (std + eps) within each prompt's group. [P, G] -> [P, G]. GRPO (Shao et al., 2402.03300).

    Equal rewards give exactly 0.
    """
    return centred(rewards) / (rewards.std(dim=1, keepdim=True, correction=0) + eps)


def zero_std_share(rewards: Tensor) -> float:
    """Share of prompts whose completions all have the same reward, and so teach a group method nothing. [P, G]."""
    return (rewards == rewards[:, :1]).all(dim=1).float().mean().item()


def returns_to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """Σ_{s ≥ t} r_s over the masked tokens of a sequence; 0 outside. [B, T], [B, T] -> [B, T]."""
    return kept(kept(rewards, mask).flip(1).cumsum(dim=1).flip(1), mask)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al., 1506.02438), over the tokens in `mask` only.

    δ_t = r_t + γ V_{t+1} − V_t and Â_t = δ_t + γλ Â_{t+1}, where t+1 is the next masked token of the sequence and both
    V and Â are 0 behind the last one (the episode ends there). Returns are Â + V.

    Args:
        rewards: [B, T] reward of taking token t.
        values: [B, T] V of the state BEFORE token t.
        mask: [B, T] True on the tokens taken by the policy.

    Returns:
        (advantages, returns), both [B, T] and 0 outside `mask`.
    """
    advantages = torch.zeros_like(values)
    next_value = torch.zeros_like(values[:, 0])
    next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = kept(advantage, mask[:, t])
        next_value = torch.where(mask[:, t], values[:, t], next_value)
        next_advantage = torch.where(mask[:, t], advantage, next_advantage)
    return advantages, kept(advantages + values, mask)
