"""Our side: RLOO by stage `rl`, from the base that stage `base` makes of the checkpoint.

python -m bench.sentiment.ours base FOLDER
python -m bench.sentiment.ours train BASE FOLDER SEED [OPENINGS]

OPENINGS of an update: the budget's for as many completions as TRL, more for as many seconds.
"""

from bench.sentiment.task import Budget, Clock, lexicon_path, model_folder, openings

CLOCK = Clock()

import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402

from rlhf.records import write_rows  # noqa: E402
from tasks.base import base  # noqa: E402
from tasks.config.algorithms.on_policy import Rloo  # noqa: E402
from tasks.config.base import Base  # noqa: E402
from tasks.config.generation import Generation  # noqa: E402
from tasks.config.rewards import Rewards  # noqa: E402
from tasks.config.rl import Rl  # noqa: E402
from tasks.config.training import Training  # noqa: E402
from tasks.journal import Log  # noqa: E402
from tasks.rl import rl  # noqa: E402


def make_base(out: Path) -> None:
    """The policy that both are measured against, and ours starts from."""
    config = Base(source="checkpoint", template="continue", stop_token="<s>")
    base(config, corpus=out, checkpoint=model_folder(), out=out, scratch=out, log=Log.null())


def train(base_policy: Path, out: Path, seed: int, prompts: int) -> None:
    """Write the last policy to `out`/policy; an update samples for so many openings."""
    budget, (texts, _) = Budget(), openings()
    rows = [
        {"id": f"{number:04d}", "messages": [{"role": "user", "content": text}]} for number, text in enumerate(texts)
    ]
    write_rows(out / "prompts/train.jsonl", rows)
    write_rows(out / "prompts/val.jsonl", rows[:20])  # looked at twice, and decides nothing
    rl(
        Rl(
            algorithm="rloo",
            rewards=Rewards(reward_model=0.0, sentiment=1.0),
            num_updates=budget.updates,
            kl_coef=budget.kl_coef,
            warmup_steps=budget.warmup,
            final_lr_fraction=0.0,
            beta2=budget.beta2,
            eps=budget.eps,
            val_every=budget.updates,
            checkpoint_every=budget.updates,
            select_best=False,
            max_batch_tokens=8192,
        ),
        generation=Generation(max_new_tokens=budget.new_tokens),
        training=Training(),
        algorithm=Rloo(
            lr=budget.lr, prompts_per_update=prompts, group_size=budget.group_size, inner_steps=1, normalise=True
        ),
        seed=seed,
        policy=base_policy,
        reference=base_policy,
        prompts=out / "prompts",
        out=out,
        scratch=out,
        log=Log.null(),
        lexicon=lexicon_path(),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "base":
        make_base(Path(sys.argv[2]))
    else:
        train(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int((sys.argv[5:] or [Budget.prompts])[0]))
        CLOCK.write(Path(sys.argv[3]) / "seconds.json")
