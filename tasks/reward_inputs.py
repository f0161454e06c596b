"""What rewards are worked out from beside the completion: a folder or file that the stage's command has to give."""

from pathlib import Path

from rlhf.errors import PreflowError
from tasks.config.rewards import Rewards


def model_for(config: Rewards, reward_model: Path | None) -> Path | None:
    """The reward model where it has a weight.

    Raises:
        PreflowError: it has one, and none is given.
    """
    if config.reward_model and reward_model is None:
        raise PreflowError(
            f"rewards.reward_model has weight {config.reward_model} and there is no reward model: "
            "give --reward-model, or set the weight to 0"
        )
    return reward_model if config.reward_model else None


def lexicon_for(config: Rewards, lexicon: Path | None) -> Path | None:
    """The lexicon where the sentiment has a weight.

    Raises:
        PreflowError: it has one, and none is given.
    """
    if config.sentiment and lexicon is None:
        raise PreflowError(
            f"rewards.sentiment has weight {config.sentiment} and there is no lexicon: give --lexicon, "
            "or set the weight to 0"
        )
    return lexicon if config.sentiment else None
