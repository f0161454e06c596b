"""What the device can do at best, measured in the process whose work is compared with it."""

import time
from collections.abc import Callable
from typing import Any

import torch

from bench.gpu.setting import Setting

WARM_UP, TIMES = 5, 20


def measured(setting: Setting) -> dict[str, float]:
    """FLOP/s of a large square matrix product, and bytes a second of a copy, read and written."""
    dtype = getattr(torch, setting.dtype)
    left, right = (torch.randn(setting.matmul, setting.matmul, dtype=dtype, device=setting.device) for _ in range(2))
    product = torch.empty_like(left)
    rate = 2.0 * setting.matmul**3 / seconds_of(lambda: torch.mm(left, right, out=product), setting.device)
    source = torch.ones(setting.copied // 4, device=setting.device)
    target = torch.empty_like(source)
    moved = 2.0 * source.numel() * source.element_size()
    return {"matmul": rate, "bandwidth": moved / seconds_of(lambda: target.copy_(source), setting.device)}


def seconds_of(work: Callable[[], Any], device: str) -> float:
    """Of one time among many in a row, after some that warm up; on a GPU by its own events."""
    for _ in range(WARM_UP):
        work()
    if device == "cpu":
        began = time.perf_counter()
        for _ in range(TIMES):
            work()
        return (time.perf_counter() - began) / TIMES
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(TIMES):
        work()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3 / TIMES
