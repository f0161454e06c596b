"""Models: policies with their chat, log-probabilities from them, and reward and value heads on top."""

from rlhf.models.adapt import adapt_policy
from rlhf.models.forward import (
    hidden_states,
    logprobs_and_entropy,
    logprobs_from_hidden,
    token_logprobs,
)
from rlhf.models.heads import RewardModel, ValueModel
from rlhf.models.policy import Policy, load_policy, new_policy, save_policy
from rlhf.models.pretrained import extend_embeddings, room
from rlhf.models.trainable import load_reference, merged, trainable

__all__ = [
    "Policy",
    "RewardModel",
    "ValueModel",
    "adapt_policy",
    "extend_embeddings",
    "hidden_states",
    "load_policy",
    "load_reference",
    "logprobs_and_entropy",
    "logprobs_from_hidden",
    "merged",
    "new_policy",
    "room",
    "save_policy",
    "token_logprobs",
    "trainable",
]
