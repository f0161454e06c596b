"""From the configured weights to the function that scores completions."""

from pathlib import Path

from rlhf import rewards
from rlhf.chat import Chat
from rlhf.errors import PreflowError
from rlhf.judge import Server
from rlhf.models.ensembles import load_reward_model
from tasks.config.generation import Generation
from tasks.config.rewards import Rewards
from tasks.redact import redacted


def build(
    config: Rewards, generation: Generation, reward_model: Path | None, chat: Chat, *, max_batch_tokens: int = 8192
) -> rewards.Score:
    """The weighted sum of the components that have a weight; `chat` is the sampled policy's.

    Raises PreflowError where the reward model has a weight and there is none.
    """
    parts: dict[str, tuple[float, rewards.Component]] = {}
    if config.reward_model:
        if reward_model is None:
            raise PreflowError(
                f"rewards.reward_model has weight {config.reward_model} and there is no reward model: "
                "give --reward-model, or set the weight to 0"
            )
        model = load_reward_model(reward_model)
        scored = rewards.reward_model(model, generation.unfinished_reward, max_batch_tokens)
        parts["reward_model"] = (config.reward_model, scored)
    if config.verifier:
        name = None if config.verify_with == "prompt" else config.verify_with
        parts["verifier"] = (config.verifier, rewards.verifier(chat.decode, name))
    if config.format:
        parts["format"] = (config.format, rewards.form(chat.decode, config.format_pattern or ""))
    if config.length:
        parts["length"] = (config.length, rewards.length(config.length_budget))
    if config.missing_stop:
        parts["missing_stop"] = (config.missing_stop, rewards.missing_stop)
    if config.judge:
        parts["judge"] = (config.judge, rewards.Judged(_server(config).ask, chat.decode, config.judge_server.parallel))
    return rewards.compose(parts)


def _server(config: Rewards) -> Server:
    about = config.judge_server
    return Server(
        about.url,
        about.model,
        about.key_variable,
        about.timeout_seconds,
        about.attempts,
        max_tokens=about.max_tokens,
        redact=redacted,
    )
