"""Stage `sft`."""

from pathlib import Path

from bench.speed.cell import Cell
from bench.speed.clock import Clock
from bench.speed.ours.common import LR, NEVER, SEED, main, training
from tasks.config.generation import Generation
from tasks.config.sft import Sft
from tasks.journal import Log
from tasks.sft import sft


def run(cell: Cell, inputs: Path, policy: Path, clock: Clock, log: Log) -> None:
    sft(
        Sft(
            epochs=1,
            batch_size=cell.rows,
            lr=LR,
            max_tokens=cell.shape.positions,
            num_samples=1,
            checkpoint_every=NEVER,
        ),
        generation=Generation(max_new_tokens=1),
        training=training(cell),
        seed=SEED,
        demonstrations=inputs / "demonstrations",
        base=policy,
        out=inputs / "out",
        scratch=inputs / "scratch",
        log=log,
    )


if __name__ == "__main__":
    main(run)
