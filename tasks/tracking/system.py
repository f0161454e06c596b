"""The machine and the versions behind a run, as tags: facts that never enter a stage's key, or its results."""

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "great-expectations", "dvc", "mlflow", "prefect", "numpy")


@cache
def facts_of_this_machine() -> dict[str, str]:
    """CPU, cores, memory, platform and versions."""
    facts = {
        "system.cpu": _cpu(),
        "system.cores": str(os.cpu_count()),
        "system.memory_gib": f"{psutil.virtual_memory().total / 2**30:.1f}",
        "system.platform": platform.platform(terse=True),
        "versions.python": platform.python_version(),
    }
    return facts | {f"versions.{name}": found for name in PACKAGES if (found := _version(name))}


def _cpu() -> str:
    """Model name, which decides the kernels that torch chooses."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
