"""Stage `rl` with GRPO, RLOO or PPO.

Every completion has the same length on both sides: the stop token is one past the end of the vocabulary, which no model
can sample. GRPO and RLOO are rewarded by a rule, PPO by a reward model, from which its critic starts.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench.speed.cell import Cell
from bench.speed.clock import Clock
from bench.speed.ours.common import LR, NEVER, SEED, main, training
from rlhf.chat import Chat
from tasks.config.algorithms.on_policy import Grpo, OnPolicyAlgorithm, Ppo, Rloo
from tasks.config.generation import Generation
from tasks.config.rewards import Rewards
from tasks.config.rl import Rl
from tasks.journal import Log
from tasks.rl import rl


def run(cell: Cell, inputs: Path, policy: Path, clock: Clock, log: Log) -> None:
    ppo = cell.stage == "ppo"
    with endless():
        rl(
            Rl(
                algorithm=cell.stage,
                rewards=Rewards(reward_model=1.0) if ppo else Rewards(reward_model=0.0, sentiment=1.0),
                num_updates=cell.warmup + cell.steps,
                kl_coef=0.05,
                val_every=NEVER,
                num_val_prompts=2,
                checkpoint_every=NEVER,
                select_best=False,
                stop_early=False,
                signal_within=None,  # no completion ends, so all have the same reward
                allow_untrusted=True,
            ),
            generation=Generation(max_new_tokens=cell.new_tokens),
            training=training(cell),
            algorithm=algorithm(cell),
            seed=SEED,
            policy=policy,
            reference=policy,
            reward_model=policy.parent / "policy_rm" if ppo else None,
            prompts=inputs / "prompts",
            lexicon=inputs / "lexicon.txt",
            out=inputs / "out",
            scratch=inputs / "scratch",
            log=log,
        )


def algorithm(cell: Cell) -> OnPolicyAlgorithm:
    """As many prompts, completions and optimiser steps as TRL's."""
    same = {"lr": LR, "prompts_per_update": cell.rows, "inner_steps": cell.inner_steps}
    if cell.stage == "ppo":
        return Ppo(**same, value_lr=LR)
    kind: Any = {"grpo": Grpo, "rloo": Rloo}[cell.stage]
    return kind(**same, group_size=cell.group)


@contextlib.contextmanager
def endless() -> Iterator[None]:
    """Chats whose stop token is one past the end of the vocabulary."""
    load = Chat.load

    def loaded(folder: Path) -> Chat:
        chat = load(folder)
        chat.stop_id = chat.vocab_size
        return chat

    with patch.object(Chat, "load", loaded):
        yield


if __name__ == "__main__":
    main(run)
