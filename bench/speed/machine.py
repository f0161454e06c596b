"""What the machine can do, measured in the process and at the precision and threads of our side, after its steps."""

import time
from collections.abc import Callable
from typing import Any

import torch

from bench.speed.cell import Cell

REPEATS = 5


def measured(cell: Cell) -> dict[str, Any]:
    """Rates, threads and, where there is one, the accelerator."""
    rates = {"matmul": matmul_rate(cell), "bandwidth": bandwidth(cell.device), "threads": torch.get_num_threads()}
    return rates | ({"accelerator": torch.cuda.get_device_name()} if cell.device == "cuda" else {})


def matmul_rate(cell: Cell) -> float:
    """FLOP/s of the matrix products of a block and of the LM head at the shape's own sizes, each as often as there."""
    shape, dtype = cell.shape, getattr(torch, cell.dtype)
    tokens = 1024
    sizes = [*shape.matrices * shape.layers, (shape.hidden, shape.vocab)]
    work = seconds = 0.0
    for size in sorted(set(sizes)):
        left = torch.randn(tokens, size[0], dtype=dtype, device=cell.device)
        right = torch.randn(size[1], size[0], dtype=dtype, device=cell.device)
        times = sizes.count(size)
        work += times * 2.0 * tokens * size[0] * size[1]
        seconds += times * _fastest(lambda left=left, right=right: left @ right.T, cell.device)
    return work / seconds


def bandwidth(device: str) -> float:
    """Bytes a second of a copy too large for any cache, read and written."""
    source = torch.ones(2**28 if device == "cuda" else 2**26, device=device)
    target = torch.empty_like(source)
    return 2.0 * source.numel() * source.element_size() / _fastest(lambda: target.copy_(source), device)


def _fastest(function: Callable[[], Any], device: str) -> float:
    times = []
    for _ in range(REPEATS):
        _wait(device)
        began = time.perf_counter()
        function()
        _wait(device)
        times.append(time.perf_counter() - began)
    return min(times)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
