"""What this machine is, and what it does at best: everything else is compared with these two rates."""

import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench.gpu import rates
from bench.gpu.setting import Setting
from bench.speed.store import machine


def measured(setting: Setting, scratch: Path) -> dict[str, Any]:
    """Card, memory, driver, versions, and the two rates."""
    facts = {
        "host": machine(), "python": platform.python_version(), "torch": torch.__version__,
        "transformers": version("transformers"), "threads": torch.get_num_threads(),
    }  # fmt: skip
    return facts | (_card() if setting.device == "cuda" else {}) | rates.measured(setting)


def _card() -> dict[str, Any]:
    known = torch.cuda.get_device_properties(0)
    return {
        "card": known.name, "memory_gib": known.total_memory / 2**30, "multiprocessors": known.multi_processor_count,
        "cuda": torch.version.cuda, "driver": _driver(),
    }  # fmt: skip


def _driver() -> str:
    if not shutil.which("nvidia-smi"):
        return "unknown"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    lines = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
    return lines[0].strip() if lines else "unknown"
