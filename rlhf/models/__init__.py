"""Models: policies with their chat, log-probabilities from them, and reward and value heads on top."""

from rlhf.models.forward import (
    hidden_states,
    logprobs_and_entropy,
    logprobs_from_hidden,
    token_logprobs,
)
from rlhf.models.heads import RewardModel, ValueModel
from rlhf.models.policy import (
    Policy,
    adapt_policy,
    extend_embeddings,
    load_policy,
    new_policy,
    save_policy,
)

__all__ = [
    "Policy",
    "RewardModel",
    "ValueModel",
    "adapt_policy",
    "extend_embeddings",
    "hidden_states",
    "load_policy",
    "logprobs_and_entropy",
    "logprobs_from_hidden",
    "new_policy",
    "save_policy",
    "token_logprobs",
]
