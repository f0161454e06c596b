"""What a stage's function cost, for the `end` of its journal: no figure of it reaches an output.

The share of the machine that was used needs its rate, of which `<home>/matmul.json` keeps the most that was measured of
a machine, number of threads and precision.
"""

import fcntl
import json
import platform
import time
from contextlib import suppress
from pathlib import Path

from rlhf.spending import ACCOUNT, COMPUTING
from tasks.witness import used

AT_LEAST, TIMES = 0.1, 3
"""Seconds and products that are measured; the fastest counts."""


def figures(home: Path | None = None) -> dict[str, float]:
    """Seconds by kind, tokens, FLOPs and peak memory; with `home`, and where models were used, the rate of a matmul."""
    found: dict[str, float] = {f"seconds_{kind}": seconds for kind, seconds in ACCOUNT.seconds.items()}
    found |= {str(name): count for name, count in ACCOUNT.counts.items()}
    found |= {name: value for name, value in used().items() if name.startswith("peak_")}
    if home is not None and found["flops"]:
        with suppress(Exception):  # full disk, full device, whatever it is: the stage has done its work
            found["matmul_rate"] = matmul_rate(home, ACCOUNT.precision) * _cores()
    return found


def _cores() -> float:
    """How many have computed, on average over the time in which models did."""
    computing = sum(ACCOUNT.seconds[kind] for kind in COMPUTING)
    return max(ACCOUNT.processes, 1 + min(1.0, ACCOUNT.seconds_in_two / computing)) if computing else 1.0


def matmul_rate(home: Path, precision: str) -> float:
    """FLOP/s of a square matrix product on this machine: the most that was measured here up to now.

    It is measured each time, as other work on the machine makes it slower.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability()
    key = f"{platform.node()}, {name}, {torch.get_num_threads()} threads, {precision}"
    measured = _measured(precision, device)
    with (home / "matmul.json").open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # stages run side by side
        file.seek(0)
        try:
            known = {str(name): float(rate) for name, rate in json.loads(file.read()).items()}
        except (ValueError, TypeError, AttributeError):  # new, torn, or of another form
            known = {}
        if measured > known.get(key, 0.0):
            known[key] = measured
            file.truncate(0)
            file.write(json.dumps(known, indent=1, sort_keys=True) + "\n")
    return known[key]


def _measured(precision: str, device: str) -> float:
    import torch

    size = 4096 if device == "cuda" else 1024
    left = torch.ones(size, size, dtype=getattr(torch, precision), device=device)
    result = torch.empty_like(left)
    spent: list[float] = []
    while len(spent) < TIMES or sum(spent) < AT_LEAST:
        began = time.perf_counter()
        torch.mm(left, left, out=result)
        result[0, 0].item()  # waits for an accelerator
        spent.append(time.perf_counter() - began)
    return 2.0 * size**3 / min(spent)
