"""Two settings of everything that is measured: the one of a GPU, and a small one that rehearses it on a processor."""

from dataclasses import dataclass

from bench.speed.cell import Cell, Shape
from bench.speed.cells import CUDA, Q500

SMALL = Shape("small", 300, 64, 2, 4, 2, 128, 256, tied=True)
"""Grouped queries and tied embeddings, as the real one has."""


@dataclass(frozen=True)
class Setting:
    """Sizes of all parts."""

    device: str
    shape: Shape
    matmul: int
    """Rows and columns of the square matrices whose product is timed."""
    copied: int
    """Bytes of the copy that is timed."""
    rows: int
    """Demonstrations of one optimiser step."""
    steps: int
    """Steps that are timed; two more come before them."""
    tokens: tuple[int, int]
    """Shortest and longest demonstration."""
    max_batch_tokens: int
    """Of one pass through the model in training, padding counted."""
    prompts: int
    group: int
    prompt_tokens: tuple[int, int]
    new_tokens: int
    """Of each completion, none of which can stop."""
    beside: tuple[Cell, ...]
    """Cells of `make bench` that are measured beside TRL."""
    tests: tuple[str, ...]
    """Files of tests that are run; on a machine with a GPU all of them use it."""
    dtype: str = "bfloat16"

    @property
    def sequences(self) -> int:
        """That are sampled at a time."""
        return self.prompts * self.group


DEVICE_TESTS = ("tests/tasks/test_devices.py",)
STAGES = ("sft", "reward_model", "sample", "rejection_sampling", "rl", "dpo", "annotate", "evaluate")
GPU = Setting(
    device="cuda", shape=Q500, matmul=8192, copied=2**32, rows=32, steps=6, tokens=(256, 1024), max_batch_tokens=16384,
    prompts=32, group=8, prompt_tokens=(32, 64), new_tokens=128,
    beside=tuple(cell for cell in CUDA if cell.name in ("sft-q500-short", "dpo-q500-short", "grpo-q500-short")),
    tests=(
        *DEVICE_TESTS, "tests/rlhf/test_sampler_contract.py", *(f"tests/tasks/test_{stage}.py" for stage in STAGES),
    ),
)  # fmt: skip
REHEARSAL = Setting(
    device="cpu", shape=SMALL, matmul=128, copied=2**20, rows=4, steps=2, tokens=(16, 64), max_batch_tokens=256,
    prompts=4, group=4, prompt_tokens=(4, 12), new_tokens=8,
    beside=tuple(
        Cell(stage, SMALL, "short", 2, 1, warmup=1, dtype="float32", **more)
        for stage, more in (("sft", {}), ("dpo", {}), ("grpo", {"group": 4, "new_tokens": 4}))
    ),
    tests=DEVICE_TESTS,
)  # fmt: skip
