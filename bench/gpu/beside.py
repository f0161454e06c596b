"""TRL on the same GPU: one round of a cell of `make bench`, kept with those of `make bench`, which adds more rounds."""

from pathlib import Path
from statistics import median
from typing import Any

from bench.gpu.setting import Setting
from bench.speed import store
from bench.speed.__main__ import BUILD, measure
from bench.speed.sides import environments
from bench.speed.table import rate, ratios, shares

ROUNDS = 1


class Skipped(Exception):
    """A part that needs what is not here, with how to get it."""


def measured(setting: Setting, scratch: Path, stage: str) -> dict[str, Any]:
    """Tokens a second of both sides. Raises Skipped where there is no TRL."""
    cell = next(cell for cell in setting.beside if cell.stage == stage)
    environment = environments(cell)["theirs"]
    if not (store.ROOT / environment / "bin/python").exists():
        raise Skipped(f"no {environment} here: `bench/speed/setup.sh` makes it (1 GB)")
    places = (store.RESULTS, BUILD) if setting.device == "cuda" else (scratch / "results", scratch)
    record = measure(cell, ROUNDS, float("inf"), *places)
    if record["not_same"]:
        return {"not_same": record["not_same"]}
    pairs = record["pairs"]
    return {
        "not_same": [], "ratio": median(ratios(record)), "as_it_comes": median(ratios(record, beside="as_it_comes")),
        "tokens_per_second": {side: median(rate(pair[side]) for pair in pairs) for side in ("ours", "theirs")},
        "peak_mb": {side: median(pair[side]["peak_net"] for pair in pairs) for side in ("ours", "theirs")},
        "share": shares(record, "ours"),
    }  # fmt: skip
