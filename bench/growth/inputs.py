"""Rows of every stage and size, made in one process, so that no measured one holds what it took to make them.

python -m bench.growth.inputs FOLDER
"""

import random
import sys
from pathlib import Path

import torch

from bench.data.__main__ import write_raw
from bench.growth.stages import BASE, START_UP, TIMES
from bench.speed.cells import TINY
from bench.speed.inputs import write_splits
from rlhf.chat import Chat
from rlhf.models import RewardModel, new_policy, save_policy
from rlhf.records import Row
from tasks.config.prepare import Prepare
from tasks.journal import Log
from tasks.prepare import prepare

SEED = 11


def main(folder: Path) -> None:
    """FOLDER/policy, policy_rm, and for each size FOLDER/STAGE/ROWS."""
    torch.set_num_threads(1)
    controls = Chat.from_words([]).vocab_size
    chat = Chat.from_words([f"w{number}" for number in range(TINY.vocab - controls)])
    policy = new_policy(
        chat, SEED, hidden_size=TINY.hidden, num_layers=TINY.layers, num_heads=TINY.heads,
        intermediate_size=TINY.intermediate, max_tokens=TINY.positions,
    )  # fmt: skip
    save_policy(policy, folder / "policy")
    RewardModel(policy, SEED).save(folder / "policy_rm")
    for stage, fewest in BASE.items():
        for rows in (START_UP[stage], *(fewest * times for times in TIMES)):
            of_size = folder / stage / str(rows)
            if stage in ("prepare", "validate"):
                write_raw(of_size, rows)
            else:
                _write_words(of_size, rows, TINY.vocab - controls)
            if stage == "validate":
                prepare(Prepare(), raw=of_size / "raw", out=of_size / "prepared", log=Log.null())


def _write_words(folder: Path, count: int, words: int) -> None:
    """Pairs, demonstrations and prompts of `count` rows, whose lengths are spread alike in every size."""
    draw = random.Random(SEED)

    def said(least: int, most: int) -> str:
        return " ".join(f"w{draw.randrange(words)}" for _ in range(draw.randint(least, most)))

    rows: list[Row] = [
        {
            "id": f"{number:06d}", "group": f"{number}", "half": "policy", "pool": "any",
            "messages": [{"role": "user", "content": said(8, 20)}], "chosen": said(24, 64), "rejected": said(24, 64),
        }
        for number in range(count)
    ]  # fmt: skip
    write_splits(folder, rows, rows[:16])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
