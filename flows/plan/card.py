"""What there is to work on: a GPU with its memory, or this machine's own."""

import os
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil

from tasks.config import ConfigError

GIB = 2**30
LIBRARIES = {"gpu": 1.0, "cpu": 0.4}
"""GiB beside all tensors: a CUDA context, or the imported libraries."""
RESERVE = 0.1
"""Share of a memory that is better left free: allocators waste some."""


@dataclass(frozen=True)
class Card:
    """The memory that one process of a stage has to fit into, and how many processes there are."""

    name: str
    size: float
    """Bytes."""
    count: int = 1
    gpu: bool = True

    @property
    def room(self) -> float:
        """Bytes that a stage may take."""
        return self.size * (1 - RESERVE)

    @property
    def libraries(self) -> float:
        """Bytes that are taken before the first tensor."""
        return LIBRARIES["gpu" if self.gpu else "cpu"] * GIB


def card_of(gpu: str, count: int) -> Card:
    """The one that is meant: a GPU of this size, else the first one that is there, else a share of this machine's.

    Raises:
        ConfigError: no size of a memory.
    """
    if gpu:
        return Card(gpu, parse(gpu), count)
    found = _gpus()
    if found:
        first = found[0]  # a stage takes the first ones that it sees
        return Card(f"GPU of {first / GIB:.0f} GiB", first, count)
    total = _memory()
    return Card(f"this machine's {total / GIB:.0f} GiB", total / count, count, gpu=False)


def parse(text: str) -> float:
    """ "24GB", "80G", "141GiB" in bytes; what vendors call GB is GiB of memory on a card.

    Raises:
        ConfigError: not a size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:G|GB|GiB)?", text.strip(), re.IGNORECASE)
    if not found or not float(found[1]):
        raise ConfigError(f"--gpu {text}: expected the size of a GPU's memory, as 24GB")
    return float(found[1]) * GIB


def _gpus() -> list[float]:
    """Memories of the GPUs that stages see, bytes; asked without torch, which takes seconds to import."""
    if not shutil.which("nvidia-smi") or not _torch_knows_cuda():
        return []
    asked = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        asked.append(f"--id={visible}")
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        told = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=5).stdout
        return [float(line) * 2**20 for line in told.split()]
    return []


def _torch_knows_cuda() -> bool:
    """Whether the installed build can use a GPU at all, as its version.py says."""
    found = find_spec("torch")
    with suppress(OSError):
        if found and found.origin:
            text = Path(found.origin).with_name("version.py").read_text("utf-8")
            return re.search(r"^cuda\b.*=\s*None", text, re.MULTILINE) is None
    return False


def _memory() -> float:
    """Of this machine, or of the container that this runs in, bytes."""
    total = float(psutil.virtual_memory().total)
    with suppress(OSError, ValueError):
        total = min(total, float(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return total
