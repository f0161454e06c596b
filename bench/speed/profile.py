"""Where the time of our side goes, by kind of work: with matrix products and attention alone it could not be less.

    python -m bench.speed.profile FOLDER RESULT

Run by `make bench ARGS="--profile sft-tiny"` in the environment and with the settings of our side. The profiler itself
takes time, so only shares are kept.
"""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from bench.speed.cell import Cell
from bench.speed.clock import Clock
from bench.speed.store import modules

KINDS = {
    "matrix products": ("mm", "bmm", "addmm", "baddbmm", "addbmm"),
    "attention": ("_scaled_dot_product",),
    "moving and filling": (
        "copy_",
        "fill_",
        "cat",
        "index",
        "gather",
        "scatter",
        "select",
        "_to_copy",
        "masked",
        "clone",
    ),
    "optimiser": ("_fused_adamw", "Optimizer", "linalg_vector_norm"),
}
REST = "norms, rotary positions, gates, losses"


def kind_of(operator: str) -> str:
    """By the name of an operator, the first kind that has its beginning."""
    name = operator.removeprefix("aten::")
    return next((kind for kind, begins in KINDS.items() if name.startswith(begins)), REST)


def main() -> None:
    folder, result = Path(sys.argv[1]), Path(sys.argv[2])
    cell, watched, tick, ticks = Cell.read(folder), profile(activities=[ProfilerActivity.CPU]), Clock.tick, 0

    def ticked(clock: Clock) -> bool:
        nonlocal ticks
        ticks, done = ticks + 1, tick(clock)
        if ticks == cell.warmup:
            watched.start()
        if done:
            watched.stop()
        return done

    Clock.tick = ticked  # type: ignore[assignment, method-assign]
    module = modules(cell)[0]
    sys.argv = [module, str(folder), str(result.with_suffix(".side"))]
    runpy.run_module(module, run_name="__main__")
    totals: dict[str, float] = dict.fromkeys([*KINDS, REST], 0.0)
    for event in watched.key_averages():
        if event.key.startswith("aten::") or event.key.startswith("Optimizer"):
            totals[kind_of(event.key)] += event.self_cpu_time_total
    side: dict[str, Any] = json.loads(result.with_suffix(".side").read_text("utf-8"))
    inside = sum(totals.values()) / 1e6
    shares = {kind: seconds / 1e6 / side["seconds"] for kind, seconds in totals.items()}
    shares["Python, the graph of gradients, and the profiler"] = max(0.0, 1 - inside / side["seconds"])
    result.write_text(json.dumps(shares, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
