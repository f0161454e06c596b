"""Stage `dpo`."""

from pathlib import Path

from bench.speed.cell import Cell
from bench.speed.clock import Clock
from bench.speed.ours.common import LR, NEVER, SEED, main, training
from tasks.config.algorithms.direct import Dpo
from tasks.config.dpo import DirectAlignment
from tasks.dpo import dpo
from tasks.journal import Log


def run(cell: Cell, inputs: Path, policy: Path, clock: Clock, log: Log) -> None:
    dpo(
        DirectAlignment(batch_size=cell.rows, max_pairs=cell.total_rows, checkpoint_every=NEVER),
        algorithm=Dpo(lr=LR, beta=0.1),
        training=training(cell),
        seed=SEED,
        policy=policy,
        pairs=inputs / "pairs",
        out=inputs / "out",
        scratch=inputs / "scratch",
        log=log,
    )


if __name__ == "__main__":
    main(run)
