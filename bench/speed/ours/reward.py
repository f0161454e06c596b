"""A reward model as stage `reward_model` trains each of its two; without the language-model loss, which TRL has not."""

from pathlib import Path

from safetensors.torch import load_file

from bench.speed.cell import Cell
from bench.speed.clock import Clock
from bench.speed.ours.common import LR, NEVER, SEED, main, training
from rlhf.comparisons import by_prompt
from rlhf.models import RewardModel, trainable
from rlhf.records import read_rows
from tasks.config.reward_model import RewardModel as Config
from tasks.journal import Log
from tasks.reward_fits import fit_member


def run(cell: Cell, inputs: Path, policy: Path, clock: Clock, log: Log) -> None:
    settings = training(cell)
    begun = trainable(policy, settings, SEED, "policy_rm")
    config = Config(batch_size=cell.rows, lr=LR, head_lr=LR, lm_coef=0.0, reads="last_token", checkpoint_every=NEVER)
    model = RewardModel(begun, SEED, config.reads)
    model.head.weight.data.copy_(load_file(inputs / "head.safetensors")["head"][None])
    fit_member(
        config,
        model,
        by_prompt(begun.chat, read_rows(inputs / "pairs/train.jsonl")),
        seed=SEED,
        name="policy_rm",
        scratch=inputs / "scratch",
        log=log,
        training=settings,
    )


if __name__ == "__main__":
    main(run)
