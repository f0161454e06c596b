"""From the configured weights to the function that scores completions."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlhf import rewards
from rlhf.chat import Chat
from rlhf.judge import Server
from rlhf.models import Policy
from rlhf.models.ensembles import load_reward_model
from rlhf.sentiment import read_lexicon
from rlhf.verifiers import check_of
from tasks.config.generation import Generation
from tasks.config.rewards import Rewards
from tasks.redact import redacted
from tasks.replies import Replies
from tasks.reward_inputs import lexicon_for, model_for


def build(
    config: Rewards,
    generation: Generation,
    reward_model: Path | None,
    chat: Chat,
    *,
    lexicon: Path | None = None,
    max_batch_tokens: int = 8192,
    over: Policy | None = None,
    max_unscorable: float = 0.0,
    replies: Path | None = None,
) -> rewards.Score:
    """The weighted sum of the components that have a weight.

    `chat` is the sampled policy's; `over` is a policy that the reward model may share its base with (`load_policy`).
    With `max_unscorable` that share of a call's totals may be NaN: who asks for it must leave these out. `replies` is a
    file of the stage's scratch in which what the judge says outlives a kill, and the judge.

    Raises PreflowError where the reward model or the sentiment has a weight and there is no model or no lexicon.
    """
    parts: dict[str, tuple[float, rewards.Component]] = {}
    if folder := model_for(config, reward_model):
        model = load_reward_model(folder, over)
        scored = rewards.reward_model(model, generation.unfinished_reward, max_batch_tokens)
        parts["reward_model"] = (config.reward_model, scored)
    if config.verifier:
        parts["verifier"] = (config.verifier, rewards.verifier(chat.decode, _verifier_of(config)))
    if config.format:
        parts["format"] = (config.format, rewards.form(chat.decode, config.format_pattern or ""))
    if words := lexicon_for(config, lexicon):
        parts["sentiment"] = (config.sentiment, rewards.sentiment(chat.decode, read_lexicon(words)))
    if config.length:
        parts["length"] = (config.length, rewards.length(config.length_budget))
    if config.missing_stop:
        parts["missing_stop"] = (config.missing_stop, rewards.missing_stop)
    if config.judge:
        ask = _server(config).ask if replies is None else Replies(_server(config).ask, replies)
        parts["judge"] = (config.judge, rewards.Judged(ask, chat.decode, config.judge_server.parallel))
    return rewards.compose(parts, max_unscorable)


def refuse_unverifiable(config: Rewards, metas: Iterable[Mapping[str, Any]]) -> None:
    """Before any work is done: a prompt that its verifier can make nothing of would end the stage when its turn came.

    Raises PreflowError as the verifiers do.
    """
    if config.verifier:
        for meta in metas:
            check_of(meta, _verifier_of(config))


def _verifier_of(config: Rewards) -> str | None:
    return None if config.verify_with == "prompt" else config.verify_with


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
