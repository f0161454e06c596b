"""Rewards of completions as named components behind one protocol, and their weighted sum."""

from rlhf.rewards.base import Asked, Component, Score, Scored, compose
from rlhf.rewards.judged import Judged
from rlhf.rewards.models import claims, reward_model
from rlhf.rewards.rules import form, length, missing_stop, sentiment, verifier

__all__ = [
    "Asked",
    "Component",
    "Judged",
    "Score",
    "Scored",
    "claims",
    "compose",
    "form",
    "length",
    "missing_stop",
    "reward_model",
    "sentiment",
    "verifier",
]
