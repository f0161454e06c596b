"""SFT in half precision: the operations that its tokens need, over what the same device reaches in a matrix product.

Tokens are real ones, and needed operations are those of `bench.speed.needs`: no padding, nothing computed twice, the LM
head only where a token counts.
"""

import json
from pathlib import Path
from typing import Any

from bench.gpu import rates
from bench.gpu.model import SEED, chat_of, policy_of, texts
from bench.gpu.setting import Setting
from bench.speed import needs
from bench.speed.clock import Clock
from rlhf.epochs import epoch_batches
from rlhf.optimizer import OptimizerSettings
from rlhf.supervised import fit_supervised

WARM_UP = 2
PROMPT = 8
"""One token of so many is prompt, and not trained."""


def measured(setting: Setting, scratch: Path) -> dict[str, Any]:
    """Seconds, tokens and memory of the timed steps, and the share of the matmul rate."""
    policy = policy_of(setting, chat_of(setting))
    rows = texts(setting, setting.rows * (WARM_UP + setting.steps), setting.tokens)
    sequences = [(ids, [place >= _prompt(ids) for place in range(len(ids))]) for ids in rows]
    order = epoch_batches([len(ids) for ids in rows], setting.rows, SEED, 0)
    clock = Clock(WARM_UP, setting.steps, setting.device)

    def progress(done: int, total: int, **_: float) -> None:
        clock.tokens += sum(len(rows[row]) for row in order[done - 1])
        clock.tick()

    fit_supervised(
        policy, sequences, epochs=1, batch_size=setting.rows, max_batch_tokens=setting.max_batch_tokens,
        optimizer=OptimizerSettings(lr=1e-5), seed=SEED, name="sft", progress=progress,
    )  # fmt: skip
    timed = [rows[row] for batch in order[WARM_UP:] for row in batch]
    lengths = [(_prompt(ids), len(ids) - _prompt(ids)) for ids in timed]
    clock.write(scratch / "clock.json")
    found = json.loads((scratch / "clock.json").read_text("utf-8"))
    flops, best = needs.training(setting.shape, lengths, head=True), rates.measured(setting)
    return {
        "seconds": found["seconds"], "tokens": found["tokens"], "peak_mb": found["peak_net"], "flops": flops, **best,
        "tokens_per_second": found["tokens"] / found["seconds"],
        "share": flops / found["seconds"] / best["matmul"],
    }  # fmt: skip


def _prompt(ids: list[int]) -> int:
    return max(1, len(ids) // PROMPT)
