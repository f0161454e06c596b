"""Where the time of a GRPO step goes: sampling, the reward model, the reference, learning, and all else.

The figures are those of `rlhf.spending`, which every stage writes into its journal; a GPU is waited for where one kind
of work ends and another begins.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.gpu.model import SEED, chat_of, endless, policy_of, texts
from bench.gpu.setting import Setting
from rlhf.algorithms import ALGORITHMS, Experience
from rlhf.models import RewardModel, logprobs_and_entropy, token_logprobs
from rlhf.online import collect, loss_of, rollout_metrics, step_batches
from rlhf.optimizer import OptimizerSettings
from rlhf.sampler import sample
from rlhf.scoring import rewards_of
from rlhf.spending import ACCOUNT, spent
from rlhf.trainer import fit

WARM_UP, STEPS = 1, 3


class Steps:
    """GRPO on prompts of random tokens, with a reward model and a reference of the policy's own size."""

    def __init__(self, setting: Setting) -> None:
        self._setting, self._chat = setting, endless(chat_of(setting))
        self.policy, self._reference = (policy_of(setting, self._chat) for _ in range(2))
        self._reward_model = RewardModel(policy_of(setting, self._chat), SEED, "last_token").eval()
        self.method = ALGORITHMS["grpo"](clip_low=0.2, clip_high=0.2, aggregation="sequence")
        self.scoring = 0.0
        """Seconds of the reward model, which `rlhf.spending` has under one name with the reference's."""

    def collected(self, update: int) -> tuple[Experience, Mapping[str, float]]:
        """Rollouts of one update, weighed."""
        setting = self._setting
        prompts = texts(setting, setting.prompts, setting.prompt_tokens)
        completions = sample(
            self.policy, prompts, max_new_tokens=setting.new_tokens, temperature=1.0, group_size=setting.group,
            seed=update, batch_size=setting.sequences,
        )  # fmt: skip
        before = ACCOUNT.seconds["score"]
        rewards = rewards_of(
            self._reward_model, [(prompts[one.prompt_index], one.ids) for one in completions],
            [True] * len(completions), 0.0, setting.max_batch_tokens,
        )  # fmt: skip
        self.scoring += ACCOUNT.seconds["score"] - before
        rollouts = collect(
            prompts, completions, rewards=rewards, critic=None, group_size=setting.group, pad_id=self._chat.pad_id,
            reference=lambda batch: token_logprobs(self._reference.model, batch), max_tokens=setting.max_batch_tokens,
        )  # fmt: skip
        experience = self.method.prepare(rollouts, 0.05)
        return experience, rollout_metrics(rollouts, experience)


def measured(setting: Setting, scratch: Path) -> dict[str, Any]:
    """Seconds of a step by kind, and what part of it each is."""
    steps = Steps(setting)
    marks: list[dict[str, float]] = []

    def progress(done: int, total: int, **_: float) -> None:
        with spent("other"):  # what came before is charged to its kind now
            marks.append({**ACCOUNT.seconds, "reward": steps.scoring, "clock": time.perf_counter()})

    fit(
        {"policy": steps.policy.model}, steps=WARM_UP + STEPS, name="rl", seed=SEED, progress=progress,
        batch_at=step_batches(steps.collected, steps.method, 1, setting.max_batch_tokens),
        loss=loss_of(steps.method, lambda batch: logprobs_and_entropy(steps.policy.model, batch), None),
        optimizer=OptimizerSettings(lr=1e-6),
    )  # fmt: skip
    first, last = marks[WARM_UP - 1], marks[-1]
    took = {name: (last[name] - first[name]) / STEPS for name in last}
    seconds = {
        "sample": took["sample"], "score": took["reward"], "reference": took["score"] - took["reward"],
        "train": took["train"], "other": took["clock"] - took["sample"] - took["score"] - took["train"],
    }  # fmt: skip
    shares = {kind: value / took["clock"] for kind, value in seconds.items()}
    tokens = setting.sequences * setting.new_tokens
    return {
        "step_seconds": took["clock"], "seconds": seconds, "shares": shares,
        "tokens_per_second": tokens / took["clock"],
    }  # fmt: skip
