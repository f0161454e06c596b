"""What every loss on pairs reports."""

from torch import Tensor

from rlhf.losses.reward import accuracy


def pair_metrics(chosen_reward: Tensor, rejected_reward: Tensor) -> dict[str, Tensor]:
    """`accuracy` (ties half), `margin`, `chosen_reward` and `rejected_reward` of implicit rewards; [B], detached."""
    chosen_reward, rejected_reward = chosen_reward.detach(), rejected_reward.detach()
    margin = chosen_reward - rejected_reward
    return {
        "accuracy": accuracy(margin),
        "margin": margin,
        "chosen_reward": chosen_reward,
        "rejected_reward": rejected_reward,
    }
